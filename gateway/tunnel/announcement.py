"""What the agent's ``announcement.json`` may say; pure.

The file was written by the user's own process: every field has a strict grammar, and nothing in
it ever names a host to connect to.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from gateway.errors import ClusterRefused, NotAnnounced
from gateway.text import text
from gateway.tunnel.base import PROTOCOL_VERSION, TunnelTarget
from gateway.values.endpoints import Announcement

ANNOUNCEMENT_LIMIT: Final = 8192
"""Bytes; the agent writes a few hundred."""

NONCE: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
# 79 bytes leave room for "/hub-NNNNNNNNN.sock" within the 108 bytes of sun_path (unix(7)).
_DIRECTORY: Final = re.compile(r"/[a-z0-9/_.-]{1,78}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)
_LAUNCH_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_PID: Final = 2**22  # PID_MAX_LIMIT, proc(5)


def parse_announcement(data: bytes, target: TunnelTarget) -> Announcement:
    """Return the announcement in ``data`` (the file's first bytes), checked against ``target``.

    Unknown keys are left to later protocol versions and ignored.

    :raises NotAnnounced: nothing there yet, or a former run's announcement.
    :raises ClusterRefused: not understood, of another launch, or another protocol version.
    """
    if not data.strip():
        raise not_announced()
    if len(data) > ANNOUNCEMENT_LIMIT:
        _refuse(f"longer than {ANNOUNCEMENT_LIMIT} bytes")
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        _refuse("not JSON")
    if not isinstance(fields, dict):
        _refuse("not an object")
    launch_id = _parse_word(fields, "launch_id", _LAUNCH_ID)
    if launch_id != target.launch_id:
        raise ClusterRefused(
            text("The job announced itself as another launch; it was not trusted."),
            detail=f"announced launch id {launch_id}, expected {target.launch_id}",
            reason="other_launch",
        )
    protocol = _parse_number(fields, "protocol", 1, 10_000)
    if protocol != PROTOCOL_VERSION:
        raise ClusterRefused(
            text("The job's agent speaks another protocol version; start the server again."),
            detail=f"agent protocol {protocol}, ours {PROTOCOL_VERSION}",
            reason="protocol_version",
        )
    directory = _parse_word(fields, "directory", _DIRECTORY)
    if any(part in ("", ".", "..") for part in directory.split("/")[1:]):
        _refuse("directory is not a plain path")
    announcement = Announcement(
        launch_id=launch_id,
        protocol=protocol,
        host=_parse_word(fields, "host", _HOST),
        pid=_parse_number(fields, "pid", 1, _MAX_PID),
        directory=directory,
        nonce=_parse_word(fields, "nonce", NONCE),
        port=None if fields.get("port") is None else _parse_number(fields, "port", 1024, 65535),
        key_sha256=None
        if fields.get("key_sha256") is None
        else _parse_word(fields, "key_sha256", _SHA256),
    )
    if announcement.nonce == target.stale_nonce:
        raise not_announced("a former run's announcement")
    return announcement


def not_announced(detail: str = "no announcement") -> NotAnnounced:
    """Build the error for a job that runs and has not said where it is."""
    return NotAnnounced(
        text("The job runs and is preparing your session; it has not reported yet."),
        detail=detail,
    )


def _parse_word(fields: dict[str, Any], key: str, grammar: re.Pattern[str]) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not grammar.fullmatch(value):
        _refuse(f"bad {key}")
    return value


def _parse_number(fields: dict[str, Any], key: str, low: int, high: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _refuse(f"bad {key}")
    return value


def _refuse(detail: str) -> NoReturn:
    raise ClusterRefused(
        text("The job's announcement could not be understood; it was not trusted."),
        detail=detail,
        reason="bad_announcement",
    )
