"""Where things can be reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Stands for the (percent-encoded) path of the hub socket in the server's environment until the
# agent's directory is known; hosts are lower-cased by clients, so it is lower case throughout.
HUB_SOCKET_PLACEHOLDER: Final = "%2flandfall-hub-socket"


@dataclass(frozen=True, slots=True)
class EdgeAddress:
    """The loopback address of one launch on the hub host: ``127.a.b.c`` and a port."""

    ip: str
    port: int

    @property
    def url(self) -> str:
        """``http://ip:port``, without a path."""
        return f"http://{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the agent in the job says of itself, in a 0600 file of its launch directory.

    All of it was written by the user's own process: it is checked before use, and never names
    a host to connect to (the node comes from the scheduler).

    ``nonce`` is fresh random (32 hex digits) in every run of the agent: it tells a requeued run
    from the former one, and, read from a 0600 file and repeated on the control stream, proves that
    the socket belongs to this agent. ``directory`` is the agent's private socket directory on the
    compute node (absolute, ``[a-z0-9/_.-]``, under 80 bytes). ``port`` and ``key_sha256`` serve
    the TCP modes.
    """

    launch_id: str
    protocol: int
    host: str
    pid: int
    directory: str
    nonce: str
    port: int | None = None
    key_sha256: str | None = None
