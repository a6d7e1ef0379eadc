"""The messages of the control stream (protocol 1, see :mod:`gateway.tunnel.base`); pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from gateway.errors import ClusterRefused, ConfigurationError
from gateway.text import text
from gateway.tunnel.base import PROTOCOL_VERSION, AgentPhase, ServerStart
from gateway.values.endpoints import HUB_SOCKET_PLACEHOLDER

LINE_LIMIT: Final = 64 * 1024
"""Bytes of one message, with its newline."""

PHASES: Final = frozenset({"waiting", "starting", "listening", "ended"})
_WORDS_LIMIT: Final = 2000
_START_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AgentHello:
    """The agent's first message: who it says it is, and where it stands."""

    protocol: int
    launch_id: str
    nonce: str
    phase: AgentPhase


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""


AgentMessage = AgentHello | AgentPhase | Pong


def build_hello(launch_id: str, hub_socket: str) -> bytes:
    """Build our hello; ``hub_socket`` is a name within the agent's directory."""
    return _build(
        {
            "type": "hello",
            "protocol": PROTOCOL_VERSION,
            "launch_id": launch_id,
            "hub_socket": hub_socket,
        }
    )


def build_start(start: ServerStart, directory: str) -> bytes:
    """Build the message that carries the secrets.

    :raises ConfigurationError: it would be larger than the protocol allows.
    """
    data = _build(
        {
            "type": "start",
            "start_id": start.start_id,
            "environment": build_environment(start.environment, directory),
            "arguments": list(start.arguments),
        }
    )
    if len(data) > LINE_LIMIT:
        raise ConfigurationError(
            text("The environment and arguments of the server are too large to be sent."),
            detail=f"{len(data)} bytes of at most {LINE_LIMIT}",
        )
    return data


def build_stop() -> bytes:
    """Build the request to end the server, then the job."""
    return _build({"type": "stop"})


def build_ping() -> bytes:
    """Build a ping."""
    return _build({"type": "ping"})


def build_environment(environment: Mapping[str, str], directory: str) -> dict[str, str]:
    """Put the agent's own hub socket in place of the placeholder, in every value.

    Percent-encoded in lower case: clients lower-case the host part of a URL.
    """
    socket = quote(f"{directory}/hub.sock", safe="").lower()
    return {
        name: value.replace(HUB_SOCKET_PLACEHOLDER, socket) for name, value in environment.items()
    }


def parse_agent_message(line: bytes) -> AgentMessage | None:
    """Parse one line of the agent; ``None`` for a type that we do not know.

    :raises ClusterRefused: it is no message of the protocol.
    """
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _not_understood("not JSON") from error
    if not isinstance(fields, dict):
        raise _not_understood("not an object")
    match fields.get("type"):
        case "pong":
            return Pong()
        case "phase":
            return _parse_phase(fields)
        case "hello":
            protocol, launch_id, nonce = (fields.get(k) for k in ("protocol", "launch_id", "nonce"))
            if not isinstance(protocol, int) or isinstance(protocol, bool):
                raise _not_understood("bad protocol")
            if not isinstance(launch_id, str) or not isinstance(nonce, str):
                raise _not_understood("bad hello")
            return AgentHello(protocol, launch_id[:64], nonce[:64], _parse_phase(fields))
        case str():
            return None
        case _:
            raise _not_understood("no type")


def _parse_phase(fields: Mapping[str, Any]) -> AgentPhase:
    phase = fields.get("phase")
    if not isinstance(phase, str) or phase not in PHASES:
        raise _not_understood("bad phase")
    start_id = fields.get("start_id")
    if start_id is not None and not (isinstance(start_id, str) and _START_ID.fullmatch(start_id)):
        raise _not_understood("bad start_id")
    status = fields.get("exit_status")
    if status is not None and (
        not isinstance(status, int) or isinstance(status, bool) or not -255 <= status <= 255
    ):
        raise _not_understood("bad exit_status")
    words = fields.get("words", "")
    if not isinstance(words, str):
        raise _not_understood("bad words")
    shown = "".join(c if c.isprintable() else " " for c in words[:_WORDS_LIMIT])
    return AgentPhase(phase, start_id, status, shown)


def _not_understood(detail: str) -> ClusterRefused:
    return ClusterRefused(
        text("What the agent in the job said could not be understood."),
        detail=detail,
        reason="bad_agent_message",
    )


def _build(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode("ascii") + b"\n"
