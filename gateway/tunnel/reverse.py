"""The hub API's way back: connections to a socket on the node end at this launch's filter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import asyncssh

from gateway.tunnel.base import pipe

CONNECTIONS_LIMIT: Final = 32
"""At once, per tunnel: each costs this process two file descriptors, and the job opens them."""


class HubApiForward:
    """Listens on a unix socket of the compute node, over its SSH connection."""

    def __init__(self, hub_api_socket: Path) -> None:
        self._target = hub_api_socket
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted = 0

    async def open(self, connection: asyncssh.SSHClientConnection, path: str) -> None:
        """Listen on ``path`` there.

        :raises asyncssh.ChannelListenError: the node's sshd does not make the socket.
        """
        await connection.start_unix_server(self._accept, path, encoding=None)

    def abort(self) -> None:
        """End the connections; the listener ends with the SSH connection."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """End the connections and wait for that; idempotent."""
        self.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(
        self,
    ) -> Callable[[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]], None]:
        if self._accepted >= CONNECTIONS_LIMIT:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, "too many connections to the hub"
            )
        self._accepted += 1
        return self._serve

    def _serve(self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._accepted -= 1
        self._tasks.discard(task)

    async def _carry(
        self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]
    ) -> None:
        ways: list[asyncio.Future[int]] = []
        far_writer: asyncio.StreamWriter | None = None
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
            ways = [
                asyncio.ensure_future(pipe(reader, far_writer)),
                asyncio.ensure_future(pipe(far_reader, writer)),
            ]
            await asyncio.gather(*ways)
            writer.close()
        except (OSError, asyncssh.Error):
            pass  # the job sees its connection end, and asks again
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            if far_writer is not None:
                far_writer.transport.abort()
            if not writer.is_closing():
                writer.channel.abort()
