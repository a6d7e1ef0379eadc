"""An SSH channel as a byte stream of our seam: it raises nothing but ``GatewayError``."""

from __future__ import annotations

import asyncssh

from gateway.text import Words
from gateway.transport import failures
from gateway.transport.failures import ssh_failures


class SshByteReader:
    """Reads; a tunnel that was cut is an error here, never an end of file."""

    def __init__(
        self,
        reader: asyncssh.SSHReader[bytes],
        connection: asyncssh.SSHClientConnection,
        where: Words,
    ) -> None:
        self._reader = reader
        self._connection = connection
        self._where = where

    async def read(self, n: int = -1, /) -> bytes:
        """Return at most ``n`` bytes, ``b""`` at the end of file.

        :raises ClusterUnavailable: the connection was lost.
        """
        with ssh_failures(self._where):
            data = await self._reader.read(n)
        # asyncssh ends the stream quietly when the connection is closed on our side.
        if not data and self._connection.is_closed():
            raise failures.build_error(failures.LOST, self._where)
        return data


class SshByteWriter:
    """Writes; :meth:`close` before the end of file was written abandons the stream."""

    def __init__(self, writer: asyncssh.SSHWriter[bytes], where: Words) -> None:
        self._writer = writer
        self._where = where
        self._ended = False

    def write(self, data: bytes, /) -> None:
        """Queue ``data``.

        :raises ClusterUnavailable: the channel is closed.
        """
        with ssh_failures(self._where):
            self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the far side has taken most of what was written.

        :raises ClusterUnavailable: the connection was lost.
        """
        with ssh_failures(self._where):
            await self._writer.drain()

    def can_write_eof(self) -> bool:
        """Channels can be half closed."""
        return True

    def write_eof(self) -> None:
        """End this direction.

        :raises ClusterUnavailable: the channel is closed.
        """
        self._ended = True
        with ssh_failures(self._where):
            self._writer.write_eof()

    def close(self) -> None:
        """Close; what was written before an end of file is still delivered."""
        if self._ended:
            self._writer.close()
        else:
            self._writer.channel.abort()
