"""The hub-side end of one launch: a loopback address that always answers.

With a tunnel whose server listens it is a plain byte pipe. Without one it answers HTTP itself and
forwards nothing, so that a browser's cookies never travel to anything but the launch's own
server, and JupyterHub's probe never takes a lost network for a dead server.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from gateway.errors import ClusterUnavailable, GatewayError
from gateway.text import text
from gateway.tunnel.base import ByteReader, ByteWriter, Tunnel
from gateway.tunnel.edge_answers import HEAD_LIMIT, build_answer, parse_request_head
from gateway.values.endpoints import EdgeAddress

CHUNK: Final = 256 * 1024
HEAD_TIMEOUT: Final = 5.0
OPEN_TIMEOUT: Final = 10.0
LINGER_TIMEOUT: Final = 30.0
"""Seconds a client may keep its half open once the server has finished."""
ANSWERS_LIMIT: Final = 64
PIPES_LIMIT: Final = 128
"""At once, for one server. A client that asks and does not read lets each hold some 2 MiB here, in
the process that carries everybody's."""


class Edge:
    """Listens on ``address``.

    :param base_url: of the server, such as ``/user/alice/``.
    :param launch_page: URL (or its path) of the page that explains a launch to its owner.

    ``bytes_up`` (towards the notebook), ``bytes_down`` and ``connections`` (piped ones) only grow;
    ``answers`` counts what the edge answered itself, ``active`` is the number of pipes now.
    """

    def __init__(self, address: EdgeAddress, *, base_url: str, launch_page: str) -> None:
        self.address = address
        self.bytes_up = 0
        self.bytes_down = 0
        self.connections = 0
        self.answers = 0
        self._base_url = base_url
        self._launch_page = launch_page
        self._tunnel: Tunnel | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._opening = 0
        self._answering = 0

    @property
    def active(self) -> int:
        """The number of connections piped at this moment."""
        return len(self._pipes)

    async def open(self) -> None:
        """Listen.

        :raises ClusterUnavailable: the address is taken; the caller may choose another.
        """
        try:
            self._server = await asyncio.start_server(
                self._accept, self.address.ip, self.address.port, limit=CHUNK, backlog=256
            )
        except OSError as error:
            raise ClusterUnavailable(
                text("The address {address} on this host is taken.", address=self.address.url),
                detail=str(error),
                reason="edge_address",
            ) from error

    async def close(self) -> None:
        """Stop listening and end every connection; idempotent."""
        self._tunnel = None
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def connect(self, tunnel: Tunnel) -> None:
        """From now on new connections go through ``tunnel`` while its server listens."""
        if tunnel is not self._tunnel:
            self.disconnect()
            self._tunnel = tunnel

    def disconnect(self) -> None:
        """Abort what is piped; new connections are answered here."""
        self._tunnel = None
        for task in self._pipes:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            tunnel = self._tunnel
            far = await self._open_far(tunnel)
            if far is None:
                await self._answer(reader, writer)
            elif tunnel is not self._tunnel:
                far[1].close()
                await self._answer(reader, writer)
            else:
                await self._pipe_both(reader, writer, *far)
        except (OSError, TimeoutError):
            pass  # the client went away; there is nobody to tell
        finally:
            # What was sent is with the kernel or lost; a client never waits for a dead pipe.
            writer.transport.abort()

    async def _open_far(self, tunnel: Tunnel | None) -> tuple[ByteReader, ByteWriter] | None:
        if tunnel is None or tunnel.phase.phase != "listening":
            return None
        if self.active + self._opening >= PIPES_LIMIT:
            return None
        self._opening += 1
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                return await tunnel.open_stream()
        except (GatewayError, TimeoutError):
            return None
        finally:
            self._opening -= 1

    async def _pipe_both(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: ByteReader,
        far_writer: ByteWriter,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are inside one
        self._pipes.add(task)
        self.connections += 1
        writer.transport.set_write_buffer_limits(high=CHUNK)
        up = asyncio.ensure_future(self._copy(reader, far_writer, up=True))
        down = asyncio.ensure_future(self._copy(far_reader, writer, up=False))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if up.done() and up.exception() is None:
                await asyncio.wait({down})
            elif down.done() and down.exception() is None:
                await asyncio.wait({up}, timeout=LINGER_TIMEOUT)
            if down.done() and down.exception() is None:
                await _flush(writer)
        finally:
            self._pipes.discard(task)
            for copy in (up, down):
                copy.cancel()
            # The reasons of a broken pipe tell nobody anything; the tunnel reports its own loss.
            await asyncio.gather(up, down, return_exceptions=True)
            far_writer.close()

    async def _copy(self, reader: ByteReader, writer: ByteWriter, *, up: bool) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
            if up:
                self.bytes_up += len(data)
            else:
                self.bytes_down += len(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.answers += 1
        if self._answering >= ANSWERS_LIMIT:
            return
        self._answering += 1
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = await _read_head(reader)
                if not head:
                    return
                writer.write(
                    build_answer(
                        parse_request_head(head),
                        base_url=self._base_url,
                        launch_page=self._launch_page,
                    )
                )
                await writer.drain()
                writer.write_eof()
                await _discard(reader)
        finally:
            self._answering -= 1


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    """Return the head; what is no head (too long, cut off) comes back as something that does not
    parse, and nothing at all as ``b""``."""
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > HEAD_LIMIT:
            return b"too long"
        data = await reader.read(4096)
        if not data:
            return b"cut off" if head else b""
        head += data
    return head


async def _discard(reader: asyncio.StreamReader) -> None:
    """Read what the client still sends for a moment: closing on unread data would reset the
    connection, and the answer with it (RFC 9112, 9.6)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            left = 1024 * 1024
            while left > 0 and (data := await reader.read(65536)):
                left -= len(data)


async def _flush(writer: asyncio.StreamWriter) -> None:
    """Wait until the kernel has all that was written, so that an abort loses nothing of it."""
    writer.transport.set_write_buffer_limits(high=0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_TIMEOUT):
            await writer.drain()
