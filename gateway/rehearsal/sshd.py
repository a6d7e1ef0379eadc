"""SSH servers that stand for the sshd of the login node and of compute nodes.

User certificates are checked as sshd(8) does with ``TrustedUserCAKeys``: authority, principal,
validity, source address; asyncssh enforces those and ``permit-port-forwarding``, and this file
adds what it leaves open (a certificate without principals is refused).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import asyncssh
from asyncssh.stream import SSHTCPStreamSession, SSHUNIXStreamSession

from gateway.rehearsal.hosts import COMPUTE, LOGIN, TUNNEL, Hosts
from gateway.rehearsal.processes import JOB_MARKER, end_processes

log = logging.getLogger(__name__)
MAX_SESSIONS: Final = 10  # sshd_config(5) MaxSessions
_CHUNK: Final = 64 * 1024


class _TrustedAuthority(asyncssh.SSHAuthorizedKeys):
    """Accepts certificates of one authority that name ``user`` as a principal, and no keys."""

    def __init__(self, authority: asyncssh.SSHKey, user: str, admitted: bool) -> None:
        super().__init__()
        self._authority, self._user, self._admitted = authority, user, admitted

    def validate(
        self,
        key: asyncssh.SSHKey,
        client_host: str,
        client_addr: str,
        cert_principals: Sequence[str] | None = None,
        ca: bool = False,
    ) -> dict[str, Any] | None:
        """The options of the matching entry (none), or ``None``: not accepted."""
        known = ca and key == self._authority and self._user in (cert_principals or ())
        return {} if known and self._admitted else None


class Sshd:
    """One server: the login node or one compute node.

    ``admits(user)`` says whether an account may come in now.
    """

    def __init__(
        self,
        host: str,
        hosts: Hosts,
        authority: asyncssh.SSHKey,
        admits: Callable[[str], bool],
    ) -> None:
        self.host = host
        self.hosts = hosts
        self.authority = authority
        self.admits = admits
        self.connections: set[_Connection] = set()
        self._sessions: set[asyncio.Task[None]] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None

    async def open(self, key: asyncssh.SSHKey, sock: socket.socket) -> None:
        """Serve on a listening socket."""
        self._acceptor = await asyncssh.listen(
            sock=sock,
            server_factory=lambda: _Connection(self),
            server_host_keys=[key],
            encoding=None,
            line_editor=False,
            allow_pty=False,
            allow_scp=False,
            agent_forwarding=False,
            x11_forwarding=False,
            gss_host=None,
            login_timeout=30,
            # as ClientAliveInterval of a careful site: dead peers do not pile up
            keepalive_interval=15,
            keepalive_count_max=3,
        )

    async def close(self) -> None:
        """Stop listening, drop every connection, end every session's processes; idempotent."""
        if self._acceptor is None:
            return
        self._acceptor.close()
        ended = [connection.drop() for connection in list(self.connections)]
        await asyncio.gather(*ended, return_exceptions=True)
        await end_processes(self.session_marker)
        await asyncio.gather(*self._sessions, return_exceptions=True)
        await self._acceptor.wait_closed()
        self._acceptor = None

    @property
    def session_marker(self) -> str:
        """Marks the processes of all sessions on this host."""
        return f"{self.hosts.directory}/@{self.host}"

    def drop_user(self, user: str) -> None:
        """Close the user's connections, as at the end of their last job on this node."""
        for connection in list(self.connections):
            if connection.user == user:
                connection.abort()

    async def serve_session(self, process: asyncssh.SSHServerProcess[bytes], user: str) -> None:
        """Run one command as a login shell's ``-c`` would, in the user's home."""
        task = asyncio.current_task()
        if task is not None:
            self._sessions.add(task)
            task.add_done_callback(self._sessions.discard)
        if process.command is None or user == TUNNEL:
            process.stderr.write(b"This account is not available for sessions.\n")
            process.exit(1)
            return
        environment = self.hosts.session_environment(user) | {
            "REHEARSAL_HOST": self.host,
            JOB_MARKER: self.session_marker,
        }
        try:
            child = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                process.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self.hosts.home(user),
                env=environment,
                start_new_session=True,
            )
        except OSError as problem:
            process.stderr.write(f"{problem}\n".encode())
            process.exit(255)
            return
        if child.stdin is None or child.stdout is None or child.stderr is None:
            raise AssertionError("pipes were asked for")
        feeding = asyncio.create_task(_feed(process.stdin, child.stdin, child))
        try:
            await asyncio.gather(
                _drain(child.stdout, process.stdout), _drain(child.stderr, process.stderr)
            )
            status = await child.wait()
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        if status < 0:
            process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        else:
            process.exit(status)


async def _feed(
    source: asyncssh.SSHReader[bytes],
    sink: asyncio.StreamWriter,
    child: asyncio.subprocess.Process,
) -> None:
    with suppress(OSError, asyncssh.Error):  # the child closed its input, or the client left
        while True:
            try:
                data = await source.read(_CHUNK)
            except asyncssh.SignalReceived as request:
                _pass_on(request.signal, child)
                continue
            if not data:
                break
            sink.write(data)
            await sink.drain()
    sink.close()


def _pass_on(name: str, child: asyncio.subprocess.Process) -> None:
    """As sshd does: the signal goes to the command's process group."""
    with suppress(KeyError, ProcessLookupError):
        if child.returncode is None:
            os.killpg(child.pid, signal.Signals[f"SIG{name}"])


async def _drain(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
    open_ = True
    while data := await source.read(_CHUNK):
        if not open_:
            continue  # the client left: the command runs on, nobody reads
        try:
            sink.write(data)
            await sink.drain()
        except (OSError, asyncssh.Error):
            open_ = False


async def _forward(
    dialling: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    session: type[SSHTCPStreamSession[bytes] | SSHUNIXStreamSession[bytes]],
) -> Any:
    """The session of a forwarded connection, once the far side has answered.

    Not asyncssh's own forwarder: under uvloop it loses what the far side says first.
    """
    try:
        reader, writer = await dialling
    except OSError as problem:
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, str(problem)) from None

    async def carry(inward: asyncssh.SSHReader[bytes], outward: asyncssh.SSHWriter[bytes]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, outward))
                group.create_task(_copy(inward, writer))
        finally:
            writer.close()
            outward.close()

    return session(carry)


async def _copy(
    source: asyncio.StreamReader | asyncssh.SSHReader[bytes],
    sink: asyncio.StreamWriter | asyncssh.SSHWriter[bytes],
) -> None:
    try:
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
    except (OSError, asyncssh.Error):
        sink.close()  # so that the other direction ends too


class _Connection(asyncssh.SSHServer):
    """One client connection."""

    def __init__(self, sshd: Sshd) -> None:
        self._sshd = sshd
        self._connection: asyncssh.SSHServerConnection | None = None
        self._sessions = 0
        self.user = ""

    @property
    def _peer(self) -> asyncssh.SSHServerConnection:
        if self._connection is None:
            raise AssertionError("not connected")
        return self._connection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._sshd.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sshd.connections.discard(self)

    def abort(self) -> None:
        self._peer.abort()

    async def drop(self) -> None:
        self._peer.abort()
        await self._peer.wait_closed()

    def begin_auth(self, username: str) -> bool:
        self.user = username
        admitted = username in self._sshd.hosts.accounts and self._sshd.admits(username)
        self._peer.set_authorized_keys(_TrustedAuthority(self._sshd.authority, username, admitted))
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def session_requested(self) -> asyncssh.SSHServerProcess[bytes]:
        if self._sessions >= MAX_SESSIONS:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        self._sessions += 1
        return asyncssh.SSHServerProcess(self._session, None, 3, False)

    async def _session(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            await self._sshd.serve_session(process, self.user)
        finally:
            self._sessions -= 1

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Awaitable[Any]:
        hosts = self._sshd.hosts
        if self._sshd.host != LOGIN or dest_host not in COMPUTE or dest_port != hosts.port:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "administratively prohibited"
            )
        dialling = asyncio.open_connection(hosts.addresses[dest_host], dest_port)
        return _forward(dialling, SSHTCPStreamSession)

    def unix_connection_requested(self, dest_path: str) -> Awaitable[Any]:
        if self.user == TUNNEL:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "administratively prohibited"
            )
        return _forward(asyncio.open_unix_connection(dest_path), SSHUNIXStreamSession)

    async def unix_server_requested(self, listen_path: str) -> Any:
        # sshd refuses a path that exists (StreamLocalBindUnlink no); asyncio would remove it
        if self.user == TUNNEL or os.path.lexists(listen_path):  # noqa: ASYNC240
            return False
        try:
            listener = await self._peer.forward_local_path(listen_path, listen_path)
        except OSError as problem:
            log.info("no listener at %s: %s", listen_path, problem)
            return False
        os.chmod(listen_path, 0o600)  # noqa: PTH101 - StreamLocalBindMask 0177
        return listener
