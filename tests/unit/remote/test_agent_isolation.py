"""What another uid on the same node can reach: nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.remote.bundle import build_agent
from tests.unit.remote.agents import AGENT, SERVER, Control, RunningAgent, run_agent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")

ALICE, BOB = 64001, 64002
PYTHON = "/usr/bin/python3"
PROBE = """
import os, socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print(path, "connected")
    except PermissionError:
        print(path, "refused")
"""


def as_uid(uid: int) -> list[str]:
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


@pytest.fixture
def readable() -> Iterator[Path]:
    """Copies of the programs where every uid can read them."""
    path = Path(tempfile.mkdtemp(prefix="lft", dir="/tmp"))
    path.chmod(0o755)
    (path / AGENT.name).write_bytes(build_agent())
    shutil.copy(SERVER, path / SERVER.name)
    for program in path.iterdir():
        program.chmod(0o644)
    yield path
    shutil.rmtree(path)


async def probe(uid: int, *paths: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *as_uid(uid), PYTHON, "-I", "-c", PROBE, *map(str, paths), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode()


async def announced(agent: RunningAgent) -> Path:
    path = agent.root / "launch" / "announcement.json"
    assert (await agent.announcement())["pid"] == agent.process.pid
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (ALICE, 0o600)
    return await agent.directory()


async def test_no_socket_can_be_reached_by_another_user(readable: Path) -> None:
    server = [PYTHON, str(readable / SERVER.name)]
    async with run_agent(
        server, prefix=as_uid(ALICE), python=PYTHON, agent=readable / AGENT.name
    ) as agent:
        directory = await announced(agent)
        # The hub's end of a tunnel is a process of the same user: here, one made for the test.
        driver = await asyncio.create_subprocess_exec(
            *as_uid(ALICE),
            *(PYTHON, "-I", "-c", DRIVER, str(directory / "agent.sock")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert driver.stdout is not None
        assert await asyncio.wait_for(driver.stdout.readline(), 20) == b"listening\n"
        sockets = [directory / name for name in ("agent.sock", "hub.sock", "nb.sock")]
        seen = await probe(BOB, *sockets)
        assert seen == "".join(f"{path} refused\n" for path in sockets)
        assert "connected" in await probe(ALICE, directory / "agent.sock")
        driver.kill()
        await driver.communicate()


async def test_the_peer_is_checked_even_if_the_directory_stood_open(readable: Path) -> None:
    async with run_agent(
        ["/bin/sleep", "60"], prefix=as_uid(ALICE), python=PYTHON, agent=readable / AGENT.name
    ) as agent:
        directory = await announced(agent)
        # Root passes every mode, and is still not the user.
        control = Control(*await asyncio.open_unix_connection(directory / "agent.sock"))
        assert await control.receive() is None
        control.writer.close()
        await agent.wait_log("A connection of another user was refused.")


DRIVER = """
import json, socket, sys, time
stream = socket.socket(socket.AF_UNIX)
stream.connect(sys.argv[1])
for message in (
    {"type": "hello", "protocol": 1, "launch_id": "0123456789abcdef", "hub_socket": "hub-1.sock"},
    {"type": "start", "start_id": "s", "environment": {"SECRET": "x"}, "arguments": []},
):
    stream.sendall(json.dumps(message).encode() + b"\\n")
for line in stream.makefile():
    if json.loads(line).get("phase") == "listening":
        print("listening", flush=True)
"""
