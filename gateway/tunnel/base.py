"""The seam from the hub host to the agent and the notebook in a job.

What the agent (``gateway/remote/``) and a tunnel say to each other is protocol
version 1, the same for every mode; only how the bytes travel differs.

*Announcement.* Once its socket directory is ready the agent writes ``announcement.json`` into
the launch directory (0600, tmp + fsync + rename): the fields of
:class:`~gateway.values.endpoints.Announcement`.

*Control stream.* The tunnel connects to ``<directory>/agent.sock``. JSON objects, one a line, at
most 64 KiB each, both ways. The newest control stream wins; an older one is closed.

From the tunnel::

    {"type": "hello", "protocol": 1, "launch_id": "…", "hub_socket": "hub-3.sock"}
    {"type": "start", "start_id": "…", "environment": {…}, "arguments": […]}          secrets
    {"type": "stop"}                                             end the server, then the job
    {"type": "ping"}

From the agent::

    {"type": "hello", "protocol": 1, "launch_id": "…", "nonce": "…", "phase": "waiting"}
    {"type": "phase", "phase": "starting|listening|ended", "start_id": "…", "exit_status": 1,
     "words": "…"}
    {"type": "pong"}

The agent speaks first; its ``nonce`` must be the announced one before anything secret is sent.

``hub_socket`` names the socket, within ``directory``, that this connection forwards to the hub
API; the agent's own stable ``hub.sock`` dials the newest one. The agent starts the server at the
first ``start`` and keeps the environment only in memory; a later ``start`` is answered with the
present phase and the ``start_id`` that is in force, and changes nothing (``hello`` carries
``start_id`` too, once there is one). ``listening`` means that the server answers on ``nb.sock``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from gateway.values.endpoints import Announcement
from gateway.values.identity import ClusterUser

PROTOCOL_VERSION: Final = 1
ANNOUNCEMENT_FILE: Final = "announcement.json"


class ByteReader(Protocol):
    """The reading half of a byte stream (asyncio's and asyncssh's both fit)."""

    async def read(self, n: int = -1, /) -> bytes: ...


class ByteWriter(Protocol):
    """The writing half of a byte stream."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def can_write_eof(self) -> bool: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TunnelTarget:
    """Where a tunnel goes: the node comes from the scheduler, never from the job.

    ``launch_directory`` is absolute on the cluster; ``hub_api_socket`` is the unix socket on the
    hub host at which this launch's hub-API filter listens. An announcement whose nonce is
    ``stale_nonce`` is a former run's and counts as none.
    """

    launch_id: str
    user: ClusterUser
    node: str
    launch_directory: str
    hub_api_socket: Path
    stale_nonce: str | None = None


@dataclass(frozen=True, slots=True)
class ServerStart:
    """What the agent needs to start the server. Holds secrets: never logged, never shown.

    ``environment`` may hold :data:`~gateway.values.endpoints.HUB_SOCKET_PLACEHOLDER`, which the
    tunnel replaces by the agent's own hub socket. ``start_id`` names this set of secrets, so that
    after a crash it is known which one the server runs with.
    """

    start_id: str
    environment: Mapping[str, str] = field(repr=False)
    arguments: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class AgentPhase:
    """The agent's last word: ``waiting``, ``starting``, ``listening`` or ``ended``.

    ``start_id`` tells which :class:`ServerStart` is in force, ``None`` before the first.
    """

    phase: str
    start_id: str | None = None
    exit_status: int | None = None
    words: str = ""


class Tunnel(Protocol):
    """One open tunnel. It does not repair itself: when it is lost, open another."""

    @property
    def announcement(self) -> Announcement: ...

    @property
    def phase(self) -> AgentPhase:
        """The last phase heard."""
        ...

    async def send_start(self, start: ServerStart) -> AgentPhase:
        """Hand the server's environment and arguments to the agent; return its answer, whose
        ``start_id`` is another when a server was already running."""
        ...

    async def send_stop(self) -> None:
        """Ask the agent to end the server, then the job."""
        ...

    async def wait_phase_change(self, seen: AgentPhase) -> AgentPhase:
        """Return the phase as soon as it differs from ``seen``.

        :raises ClusterUnavailable: the tunnel was lost meanwhile.
        """
        ...

    async def open_stream(self) -> tuple[ByteReader, ByteWriter]:
        """Open one byte stream to the notebook's socket.

        :raises ClusterUnavailable: tunnel lost or notebook not listening.
        """
        ...

    async def wait_closed(self) -> None:
        """Return once the tunnel is lost or closed."""
        ...

    async def close(self) -> None:
        """Close; idempotent; streams in flight end."""
        ...


class TunnelOpener(Protocol):
    """Opens tunnels in one mode on one cluster.

    :meth:`open` waits (bounded by ``timeout`` seconds) for the announcement of a job that runs
    and returns a tunnel whose control stream has said hello both ways and whose hub-API socket is
    in place.

    Raises only :class:`~gateway.errors.GatewayError`: ``NotAnnounced`` (we looked; no announcement
    of this run yet), ``ClusterUnavailable`` (node or login node not reachable: try again),
    ``ClusterRefused`` (host key, sign-in refused, forwarding prohibited, an announcement that is
    not this launch's).
    """

    async def open(self, target: TunnelTarget, *, timeout: float) -> Tunnel: ...

    async def close(self) -> None: ...


async def pipe(reader: ByteReader, writer: ByteWriter, chunk: int = 256 * 1024) -> int:
    """Copy until end of file, pass the end on, and return the number of bytes copied."""
    total = 0
    while data := await reader.read(chunk):
        writer.write(data)
        await writer.drain()
        total += len(data)
    if writer.can_write_eof():
        writer.write_eof()
    await asyncio.sleep(0)
    return total
