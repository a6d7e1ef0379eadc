"""Mode ``compute_ssh``: SSH through the login node to the compute node's own sshd, as the user.

Everything travels on that one connection: the control stream and the notebook's bytes as
direct-streamlocal channels, the hub API back through a forwarded unix socket (OpenSSH's
PROTOCOL, 2.4). Nothing of ours listens on TCP on a shared machine.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final

import asyncssh

from gateway.errors import ClusterUnavailable, GatewayError, NotAnnounced
from gateway.profiles.models import ClusterProfile
from gateway.text import Words, text
from gateway.transport import failures
from gateway.transport.connecting import close_connection
from gateway.transport.failures import ssh_failures
from gateway.transport.pool import SshPool
from gateway.tunnel.announcement import not_announced, parse_announcement
from gateway.tunnel.base import (
    ANNOUNCEMENT_FILE,
    AgentPhase,
    ByteReader,
    ByteWriter,
    ServerStart,
    Tunnel,
    TunnelTarget,
)
from gateway.tunnel.control import ControlStream
from gateway.tunnel.node_files import check_agent_socket, read_file
from gateway.tunnel.reverse import HubApiForward
from gateway.tunnel.ssh_streams import SshByteReader, SshByteWriter
from gateway.values.endpoints import Announcement

log = logging.getLogger(__name__)

WINDOW: Final = 2 * 1024 * 1024
MAX_PACKET: Final = 32 * 1024  # what OpenSSH sends at most
FIRST_INTERVAL: Final = 0.2
LAST_INTERVAL: Final = 1.0
OPEN_STREAM_TIMEOUT: Final = 10.0


class ComputeSshTunnel:
    """An open tunnel; see :class:`~gateway.tunnel.base.Tunnel`. Made by the opener only."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        control: ControlStream,
        forward: HubApiForward,
        announcement: Announcement,
        where: Words,
    ) -> None:
        self._connection = connection
        self._control = control
        self._forward = forward
        self._announcement = announcement
        self._where = where
        self._closed = asyncio.Event()
        self._supervisor = asyncio.ensure_future(self._supervise())

    @property
    def announcement(self) -> Announcement:
        """What the agent announced."""
        return self._announcement

    @property
    def phase(self) -> AgentPhase:
        """The last phase heard."""
        return self._control.phase

    @property
    def closed(self) -> bool:
        """Whether it is lost or closed."""
        return self._closed.is_set()

    async def send_start(self, start: ServerStart) -> AgentPhase:
        """Hand over environment and arguments; see the seam."""
        return await self._control.send_start(start)

    async def send_stop(self) -> None:
        """Ask for the end of server and job."""
        await self._control.send_stop()

    async def wait_phase_change(self, seen: AgentPhase) -> AgentPhase:
        """Return the phase once it differs from ``seen``; see the seam."""
        return await self._control.wait_phase_change(seen)

    async def open_stream(self) -> tuple[ByteReader, ByteWriter]:
        """Open one byte stream to the notebook; see the seam."""
        if self._closed.is_set():
            raise failures.build_error(failures.LOST, self._where)
        return await _open_unix(
            self._connection,
            f"{self._announcement.directory}/nb.sock",
            self._where,
        )

    async def wait_closed(self) -> None:
        """Return once the tunnel is lost or closed."""
        await self._closed.wait()

    async def close(self) -> None:
        """Close; idempotent."""
        self._supervisor.cancel()
        await asyncio.wait({self._supervisor})
        await self._forward.close()
        await close_connection(self._connection)

    async def _supervise(self) -> None:
        control = asyncio.ensure_future(self._control.run())
        connection = asyncio.ensure_future(self._connection.wait_closed())
        try:
            await asyncio.wait({control, connection}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._closed.set()
            for task in (control, connection):
                task.cancel()
            for result in await asyncio.gather(control, connection, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, GatewayError):
                    log.error("control stream of %s failed", self._where, exc_info=result)
            # A half-open tunnel serves nobody: streams in flight end here.
            self._connection.close()


class ComputeSshOpener:
    """Opens tunnels to compute nodes; see :class:`~gateway.tunnel.base.TunnelOpener`."""

    def __init__(self, pool: SshPool, profile: ClusterProfile) -> None:
        self._pool = pool
        self._profile = profile
        self._tunnels: set[ComputeSshTunnel] = set()

    async def open(self, target: TunnelTarget, *, timeout: float) -> Tunnel:
        """Open one tunnel within ``timeout`` seconds; see the seam."""
        where = text("compute node {node}", node=target.node)
        looked: list[NotAnnounced] = []
        try:
            async with asyncio.timeout(timeout):
                connection = await self._pool.node(target.user.name, target.node)
                try:
                    tunnel = await self._open_on(connection, target, where, looked)
                except GatewayError:
                    await close_connection(connection)
                    raise
                except BaseException:
                    connection.abort()
                    raise
        except TimeoutError:
            if looked:
                raise looked[-1] from None
            raise ClusterUnavailable(
                text("No answer came from {where} in time.", where=where), reason="timeout"
            ) from None
        self._tunnels = {t for t in self._tunnels if not t.closed} | {tunnel}
        return tunnel

    async def close(self) -> None:
        """Close every tunnel that is still open; idempotent."""
        tunnels, self._tunnels = self._tunnels, set()
        await asyncio.gather(*(tunnel.close() for tunnel in tunnels))

    async def _open_on(
        self,
        connection: asyncssh.SSHClientConnection,
        target: TunnelTarget,
        where: Words,
        looked: list[NotAnnounced],
    ) -> ComputeSshTunnel:
        path = f"{target.launch_directory}/{ANNOUNCEMENT_FILE}"
        interval = FIRST_INTERVAL
        while True:
            data = await read_file(connection, path, where)
            try:
                if data is None:
                    raise not_announced()
                announcement = parse_announcement(data, target)
                return await self._meet(connection, announcement, target, where)
            except NotAnnounced as error:
                looked.append(error)
                del looked[:-1]
            await asyncio.sleep(interval)
            interval = min(LAST_INTERVAL, interval * 1.5)

    async def _meet(
        self,
        connection: asyncssh.SSHClientConnection,
        announcement: Announcement,
        target: TunnelTarget,
        where: Words,
    ) -> ComputeSshTunnel:
        try:
            reader, writer = await _open_unix(
                connection, f"{announcement.directory}/agent.sock", where
            )
        except ClusterUnavailable as error:
            if error.reason == failures.CONNECT_FAILED.reason:
                # sshd says "open failed" to a prohibited forward and to a missing socket alike.
                await check_agent_socket(connection, announcement.directory, where)
                raise failures.build_error(failures.PROHIBITED, where, error.detail) from error
            raise
        control = ControlStream(reader, writer, announcement)
        forward = HubApiForward(target.hub_api_socket)
        try:
            await control.hear_hello()
            # A path of a former connection may still lie there and cannot be bound again.
            name = f"hub-{secrets.token_hex(6)}.sock"
            try:
                with ssh_failures(where):
                    await forward.open(connection, f"{announcement.directory}/{name}")
            except GatewayError as error:
                if error.reason == failures.LISTENER.reason:
                    await check_agent_socket(connection, announcement.directory, where)
                raise
            await control.say_hello(name)
        except BaseException:
            writer.close()
            forward.abort()
            raise
        return ComputeSshTunnel(connection, control, forward, announcement, where)


async def _open_unix(
    connection: asyncssh.SSHClientConnection,
    path: str,
    where: Words,
) -> tuple[SshByteReader, SshByteWriter]:
    opening = asyncio.ensure_future(
        connection.open_unix_connection(path, encoding=None, window=WINDOW, max_pktsize=MAX_PACKET)
    )
    try:
        with ssh_failures(where):
            async with asyncio.timeout(OPEN_STREAM_TIMEOUT):
                reader, writer = await asyncio.shield(opening)
    except BaseException:
        # asyncssh keeps a channel that is confirmed after its opener was cancelled.
        opening.add_done_callback(_abandon)
        raise
    return SshByteReader(reader, connection, where), SshByteWriter(writer, where)


def _abandon(
    opening: asyncio.Future[tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]],
) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].channel.abort()
