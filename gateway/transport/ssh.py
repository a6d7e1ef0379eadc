"""Commands on a login node over SSH; the contract is that of :class:`Transport` in ``base``."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import asyncssh

from gateway.errors import ClusterRefused, ClusterUnavailable
from gateway.text import Text, text
from gateway.transport import failures
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult
from gateway.transport.pool import Lease, SshPool
from gateway.transport.quoting import build_command_line

# Start-up files may print before the marker; more than this is no greeting.
NOISE_LIMIT: Final = 256 * 1024
# Seconds to wait before a session is asked for again.
SESSION_PAUSES: Final = (0.1, 0.2, 0.4)
_UNKNOWN_SIGNAL: Final = 99


class _Stream:
    """Bytes of one stream; those before the marker are dropped when it comes."""

    def __init__(self, marker: bytes, limit: int) -> None:
        self._marker = marker
        self._limit = limit
        self._data = bytearray()
        self.started = False

    def feed(self, data: bytes) -> bool:
        """Add ``data``; return whether all of it is still within the limit."""
        scan_from = max(0, len(self._data) - len(self._marker))
        self._data += data
        if not self.started:
            at = self._data.find(self._marker, scan_from)
            if at < 0:
                return len(self._data) <= NOISE_LIMIT
            del self._data[: at + len(self._marker)]
            self.started = True
        return len(self._data) <= self._limit

    def value(self) -> bytes:
        return bytes(self._data)


class _Command(asyncssh.SSHClientSession[bytes]):
    """Collects what one command says; ``ended`` is set when there is nothing more to wait for."""

    def __init__(self, marker: str, limit: int) -> None:
        self.stdout = _Stream(marker.encode(), limit)
        self.stderr = _Stream(marker.encode(), limit)
        self.ended = asyncio.Event()
        self.closed = False
        self.lost: Exception | None = None
        self.exit_status: int | None = None
        self.too_much = False

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        stream = self.stderr if datatype == asyncssh.EXTENDED_DATA_STDERR else self.stdout
        if not self.too_much and not stream.feed(data):
            self.too_much = True
            self.ended.set()

    def exit_status_received(self, status: int) -> None:
        self.exit_status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.exit_status = 128 + signal_number(signal)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        self.closed = True
        self.ended.set()


class SshTransport:
    """A :class:`~gateway.transport.base.Transport` over the connections of a pool."""

    def __init__(self, pool: SshPool) -> None:
        self._pool = pool

    async def run(
        self,
        actor: Actor,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta,
        output_limit: int = OUTPUT_LIMIT,
    ) -> CommandResult:
        """Run ``argv`` as the actor; see :class:`~gateway.transport.base.Transport`."""
        marker = secrets.token_hex(16)
        line = build_command_line(argv, marker)
        begun = time.monotonic()
        where = text("the login node")
        command = _Command(marker, output_limit)
        try:
            async with asyncio.timeout(timeout.total_seconds()), self._pool.lease(actor) as lease:
                where = lease.where
                await _exchange(lease, command, line, stdin)
        except TimeoutError as exc:
            raise _timed_out(command, actor, where, timeout) from exc
        if command.too_much:
            raise _too_much(command, actor, where, output_limit)
        if not command.stdout.started:
            raise _not_run(command, actor, where)
        if command.exit_status is None:
            # sshd always says how a command ended, unless it was itself ended.
            raise failures.build_error(failures.LOST, where, "no exit status")
        return CommandResult(
            argv=tuple(argv),
            exit_status=command.exit_status,
            stdout=command.stdout.value(),
            stderr=command.stderr.value(),
            seconds=time.monotonic() - begun,
        )

    async def close(self) -> None:
        """Close all connections; idempotent."""
        await self._pool.close()


async def _exchange(lease: Lease, command: _Command, line: str, stdin: bytes) -> None:
    with failures.ssh_failures(lease.where):
        channel = await _open_channel(lease, command, line)
        try:
            if stdin:
                channel.write(stdin)
            channel.write_eof()
            await command.ended.wait()
            if command.lost is not None:
                raise command.lost
        finally:
            if not command.closed:
                stop_channel(channel)
                lease.abandon()


async def _open_channel(
    lease: Lease, command: _Command, line: str
) -> asyncssh.SSHClientChannel[bytes]:
    for pause in (*SESSION_PAUSES, None):
        try:
            channel, _ = await lease.connection.create_session(lambda: command, line, encoding=None)
        except asyncssh.ChannelOpenError as exc:
            # sshd(8) answers so when MaxSessions is reached; no host is dialled here. A session
            # that was given up may still be ending there, and no command has been started.
            if exc.code != asyncssh.OPEN_CONNECT_FAILED:
                raise
            if pause is None:
                lease.retire()
                raise failures.build_error(
                    failures.TOO_MANY_SESSIONS, lease.where, str(exc)
                ) from exc
            await asyncio.sleep(pause)
        else:
            return channel
    raise AssertionError("the last turn returns or raises")


def stop_channel(channel: asyncssh.SSHClientChannel[bytes]) -> None:
    """Ask the far side to end the command, and close the channel."""
    with contextlib.suppress(OSError):  # already closed: there is nobody to tell
        channel.send_signal("TERM")
    channel.abort()


def signal_number(name: str) -> int:
    """Return the number of ``TERM``, ``KILL``, ... here on Linux; 99 for one that is unknown."""
    try:
        return signal.Signals[f"SIG{name.partition('@')[0]}"].value
    except KeyError:
        return _UNKNOWN_SIGNAL


def _timed_out(
    command: _Command, actor: Actor, where: Text, timeout: timedelta
) -> ClusterUnavailable:
    seconds = round(timeout.total_seconds(), 1)
    if command.stdout.started:
        return ClusterUnavailable(
            text(
                "A command on {where} was not done within {seconds} seconds.",
                where=where,
                seconds=seconds,
            ),
            reason="timeout",
        )
    return ClusterUnavailable(
        text(
            "No command could be started as {account} on {where} within {seconds} seconds; the "
            "host may be slow, or the account's shell start-up files wait for something.",
            account=actor.name,
            where=where,
            seconds=seconds,
        ),
        reason="timeout",
    )


def _too_much(command: _Command, actor: Actor, where: Text, limit: int) -> ClusterRefused:
    if not command.stdout.started:
        return ClusterRefused(
            text(
                "The shell start-up files of {account} on {where} print without end; no command "
                "was run.",
                account=actor.name,
                where=where,
            ),
            reason="shell_startup",
        )
    return ClusterRefused(
        text(
            "A command on {where} printed more than {limit} bytes and was stopped.",
            where=where,
            limit=limit,
        ),
        reason="output_limit",
    )


def _not_run(command: _Command, actor: Actor, where: Text) -> ClusterRefused:
    said = (command.stderr.value() or command.stdout.value())[-300:]
    return ClusterRefused(
        text(
            "No command could be run as {account} on {where}: the account's shell start-up files "
            "end the session early, its shell is disabled, or it may run only one fixed command.",
            account=actor.name,
            where=where,
        ),
        detail=said.decode("utf-8", errors="replace").strip(),
        reason="shell_startup",
    )
