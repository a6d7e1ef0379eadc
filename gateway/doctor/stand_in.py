"""What runs in the test job in the place of the notebook server, and what it tells.

The real agent starts it with the words of the environment's real command behind it. It answers
each connection to its socket with one JSON line: its Python, the interpreter's version, where the
real command was found, and what came back when it asked through the agent's ``hub.sock``.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.errors import ClusterRefused
from gateway.profiles.models import ClusterProfile, EnvironmentProfile
from gateway.text import text
from gateway.tunnel.base import Tunnel

ANSWER_SECONDS: Final = 20.0
_ANSWER_LIMIT: Final = 16 * 1024

# Python 3.8, standard library. A connection that says nothing is the agent's look whether it is up.
_SOURCE: Final = """\
import json, os, shutil, socket, sys
path = [a.split("=", 1)[1] for a in sys.argv if a.startswith("--ServerApp.sock=")][0]
def ask_hub():
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(10)
    try:
        link.connect(os.path.join(os.path.dirname(path), "hub.sock"))
        link.sendall(b"?")
        return link.recv(100).decode("ascii")
    except (OSError, ValueError) as error:
        return "error: %s" % error
    finally:
        link.close()
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(4)
while True:
    client = listener.accept()[0]
    if client.recv(1):
        told = {
            "python": "%d.%d.%d" % sys.version_info[:3],
            "host": socket.gethostname(),
            "command": shutil.which(sys.argv[1]),
            "hub": ask_hub(),
        }
        client.sendall(json.dumps(told).encode("ascii"))
    client.close()
"""


class Told(BaseModel):
    """Its answer; ``command`` is ``None`` when the environment lacks it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    python: str
    host: str
    command: str | None
    hub: str


def build_profile(profile: ClusterProfile, environment: str) -> ClusterProfile:
    """The profile with the stand-in for the server of ``environment``; setup, modules and
    interpreter stay."""
    real = profile.environments[environment]
    # Templates refuse line breaks in a word: the program travels as a Python string literal.
    command = (real.agent_python, "-c", f"exec({_SOURCE!r})", real.command[0])
    changed: dict[str, EnvironmentProfile] = {
        **profile.environments,
        environment: real.model_copy(update={"command": command, "arguments": ()}),
    }
    return profile.model_copy(update={"environments": changed})


class HubStandIn:
    """Answers at a unix socket, where a launch has its hub-API filter."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.word = secrets.token_hex(8)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen while inside; the socket is 0600 by the directory that holds it."""
        server = await asyncio.start_unix_server(self._answer, self.path)
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.read(1):
                writer.write(self.word.encode())
                await writer.drain()
        except OSError:
            pass  # the far side went away; it tells
        finally:
            writer.close()


async def ask_stand_in(tunnel: Tunnel) -> Told:
    """Ask it through the tunnel.

    :raises ClusterRefused: no answer that is its own.
    :raises ClusterUnavailable: the tunnel was lost.
    """
    data = b""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await tunnel.open_stream()
            try:
                writer.write(b"?")
                await writer.drain()
                while len(data) < _ANSWER_LIMIT and (more := await reader.read(_ANSWER_LIMIT)):
                    data += more
            finally:
                writer.close()
        return Told.model_validate(json.loads(data))
    except (TimeoutError, ValueError, ValidationError) as error:
        raise ClusterRefused(
            text("The stand-in for the server gave no proper answer through the tunnel."),
            detail=f"{type(error).__name__}; {data[:80]!a}",
            reason="stand_in",
        ) from error
