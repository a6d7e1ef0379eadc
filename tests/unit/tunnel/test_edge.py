"""The edge over real sockets: pipe, answers, and what happens between the two."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from gateway.errors import ClusterUnavailable
from gateway.text import text
from gateway.tunnel import edge as edge_module
from gateway.tunnel.base import AgentPhase, ByteReader, ByteWriter, ServerStart
from gateway.tunnel.edge import Edge
from gateway.values.endpoints import Announcement, EdgeAddress

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BLOCK = bytes(range(256)) * 256
_PORTS = itertools.count(20000 + os.getpid() % 20000)

LISTENING = AgentPhase("listening", "s1")
ANNOUNCEMENT = Announcement("x", 1, "c1", 1, "/tmp/x", "0" * 32)


@dataclass
class LoopTunnel:
    """A tunnel whose notebook is a TCP server of this test."""

    port: int
    phase: AgentPhase = LISTENING
    refuse: bool = False
    opened: list[asyncio.StreamWriter] = field(default_factory=list)
    announcement: Announcement = ANNOUNCEMENT

    async def open_stream(self) -> tuple[ByteReader, ByteWriter]:
        if self.refuse:
            raise ClusterUnavailable(text("no"))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        return reader, writer

    async def send_start(self, start: ServerStart) -> AgentPhase:
        raise NotImplementedError

    async def send_stop(self) -> None:
        raise NotImplementedError

    async def wait_phase_change(self, seen: AgentPhase) -> AgentPhase:
        raise NotImplementedError

    async def wait_closed(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    edge = Edge(
        EdgeAddress("127.88.7.1", next(_PORTS)),
        base_url="/user/alice/",
        launch_page="/hub/launch?a=1&b=2",
    )
    await edge.open()
    yield edge
    await edge.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert [t for t in others if "Edge" in repr(t)] == []


@pytest.fixture
async def notebook() -> AsyncIterator[Callable[[Handler], Awaitable[LoopTunnel]]]:
    servers: list[asyncio.Server] = []

    async def open_notebook(handler: Handler) -> LoopTunnel:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
            except ConnectionError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return LoopTunnel(server.sockets[0].getsockname()[1])

    yield open_notebook
    for server in servers:
        server.close()


OpenNotebook = Callable[[Handler], Awaitable[LoopTunnel]]


async def connect(edge: Edge) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(edge.address.ip, edge.address.port)


async def ask(edge: Edge, head: str, body: bytes = b"") -> tuple[int, dict[str, str], str]:
    reader, writer = await connect(edge)
    writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    async with asyncio.timeout(10):
        data = await reader.read()
    writer.close()
    top, _, content = data.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, content.decode()


NAVIGATION = "GET /user/alice/lab HTTP/1.1\nHost: x\nAccept: text/html,*/*;q=0.8"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def test_probe_of_the_hub(edge: Edge) -> None:
    status, headers, _ = await ask(edge, "GET /user/alice/api HTTP/1.1\nHost: x")
    assert status == 200
    assert re.fullmatch(r"6\.\d+\.\d+.*", headers["X-JupyterHub-Version"])


@pytest.mark.parametrize(
    "head",
    [
        "GET /user/alice/api HTTP/1.1\nHost: x\nCookie: a=b",
        "GET /user/bob/api HTTP/1.1\nHost: x",
        "GET /user/alice/api/contents HTTP/1.1\nHost: x",
        "POST /user/alice/api HTTP/1.1\nHost: x",
        "GET /user/alice/api/kernels HTTP/1.1\nHost: x\nAccept: application/json",
        "GET /user/alice/api/kernels/1/channels HTTP/1.1\nHost: x\nConnection: Upgrade\n"
        "Upgrade: websocket\nAccept: text/html",
        "GET /user/alice/lab HTTP/1.1\nAccept: text/html\nX-Requested-With: XMLHttpRequest",
        "GET /user/alice/lab HTTP/1.1\nAccept: text/html\nSec-Fetch-Mode: cors",
    ],
)
async def test_what_is_no_page_gets_json(edge: Edge, head: str) -> None:
    status, headers, body = await ask(edge, head)
    assert (status, headers["Content-Type"]) == (503, "application/json")
    assert headers["Retry-After"] == "5"
    assert headers["Connection"] == "close"
    assert '"reconnecting"' in body


async def test_page_for_a_browser(edge: Edge) -> None:
    status, headers, body = await ask(edge, NAVIGATION + "\nCookie: secret=1")
    assert (status, headers["Retry-After"], headers["Cache-Control"]) == (503, "5", "no-store")
    assert '<html lang="en">' in body
    assert '<meta http-equiv="refresh" content="5">' in body
    assert '<a href="/hub/launch?a=1&amp;b=2">' in body
    assert "<script" not in body
    assert "alice" not in body


async def test_page_in_french(edge: Edge) -> None:
    _, headers, body = await ask(edge, NAVIGATION + "\nAccept-Language: fr-CA,fr;q=0.9,en;q=0.5")
    assert headers["Content-Language"] == "fr"
    assert '<html lang="fr">' in body
    assert "Reconnecting" not in body


async def test_head_has_no_body(edge: Edge) -> None:
    status, _, body = await ask(edge, NAVIGATION.replace("GET", "HEAD"))
    assert (status, body) == (503, "")


async def test_large_post_still_reads_the_answer(edge: Edge) -> None:
    head = "PUT /user/alice/api/contents/a HTTP/1.1\nContent-Length: 900000"
    status, _, _ = await ask(edge, head, b"x" * 900_000)
    assert status == 503


@pytest.mark.parametrize("head", ["rubbish", "GET / SMTP", "GET / HTTP/1.1\nno colon", "\x16\x03"])
async def test_what_is_not_http(edge: Edge, head: str) -> None:
    assert (await ask(edge, head))[0] == 400


async def test_long_head(edge: Edge) -> None:
    assert (await ask(edge, "GET /" + "a" * 40_000 + " HTTP/1.1"))[0] == 400


async def test_slow_head_is_given_up(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_module, "HEAD_TIMEOUT", 0.3)
    reader, writer = await connect(edge)
    writer.write(b"GET / HT")
    assert await _read_to_end(reader) == b""
    writer.close()


async def test_held_answers_are_bounded(edge: Edge) -> None:
    held = [await connect(edge) for _ in range(edge_module.ANSWERS_LIMIT + 5)]
    await asyncio.sleep(0.2)
    ended = 0
    for reader, _ in held:
        try:
            async with asyncio.timeout(0.02):
                ended += await reader.read() == b""
        except TimeoutError:
            continue
        except ConnectionError:
            ended += 1
    assert ended == 5
    for _, writer in held:
        writer.close()


async def test_pipes_are_bounded_while_they_open_too(
    edge: Edge, notebook: OpenNotebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_module, "PIPES_LIMIT", 3)
    tunnel = await notebook(echo)
    open_stream = tunnel.open_stream

    async def open_slowly() -> tuple[ByteReader, ByteWriter]:
        await asyncio.sleep(0.2)
        return await open_stream()

    monkeypatch.setattr(tunnel, "open_stream", open_slowly)
    edge.connect(tunnel)
    held = [await connect(edge) for _ in range(8)]
    await asyncio.sleep(0.4)
    assert (edge.connections, len(tunnel.opened)) == (3, 3)
    for _, writer in held:
        writer.close()


async def test_taken_address(edge: Edge) -> None:
    with pytest.raises(ClusterUnavailable) as caught:
        await Edge(edge.address, base_url="/", launch_page="/").open()
    assert caught.value.reason == "edge_address"


async def test_pipe_both_ways(edge: Edge, notebook: OpenNotebook) -> None:
    edge.connect(await notebook(echo))
    reader, writer = await connect(edge)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    assert edge.active == 1
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    assert (edge.bytes_up, edge.bytes_down, edge.connections) == (5, 5, 1)


async def test_half_close_of_the_client(edge: Edge, notebook: OpenNotebook) -> None:
    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        await asyncio.sleep(0.2)
        writer.write(str(len(data)).encode())
        await writer.drain()

    edge.connect(await notebook(sink))
    reader, writer = await connect(edge)
    writer.write(b"x" * 1_000_000)
    writer.write_eof()
    assert await reader.read() == b"1000000"
    writer.close()


async def test_large_transfers_are_whole(edge: Edge, notebook: OpenNotebook) -> None:
    edge.connect(await notebook(echo))
    reader, writer = await connect(edge)

    async def send() -> None:
        for _ in range(1600):
            writer.write(BLOCK)
            await writer.drain()
        writer.write_eof()

    sending = asyncio.ensure_future(send())
    digest, expected = hashlib.sha256(), hashlib.sha256()
    while data := await reader.read(1 << 18):
        digest.update(data)
    await sending
    for _ in range(1600):
        expected.update(BLOCK)
    assert digest.digest() == expected.digest()
    assert edge.bytes_up == edge.bytes_down == 1600 * len(BLOCK)
    writer.close()


async def test_slow_client_holds_the_notebook_back(edge: Edge, notebook: OpenNotebook) -> None:
    sent = 0

    async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(BLOCK)
            await writer.drain()
            sent += len(BLOCK)

    edge.connect(await notebook(source))
    _, writer = await connect(edge)
    await asyncio.sleep(1)
    before = sent
    await asyncio.sleep(0.5)
    assert sent == before
    assert sent < 32 * 1024 * 1024
    writer.transport.abort()
    await _until(lambda: edge.active == 0)


async def test_last_bytes_arrive_although_the_client_stays(
    edge: Edge, notebook: OpenNotebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def burst(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BLOCK * 50)
        await writer.drain()

    monkeypatch.setattr(edge_module, "LINGER_TIMEOUT", 0.3)
    edge.connect(await notebook(burst))
    reader, writer = await connect(edge)
    assert len(await reader.readexactly(len(BLOCK) * 50)) == len(BLOCK) * 50
    assert await reader.read() == b""
    await _until(lambda: edge.active == 0)
    writer.close()


@pytest.mark.parametrize("phase", ["waiting", "starting", "ended"])
async def test_nothing_is_forwarded_before_the_server_listens(
    edge: Edge, notebook: OpenNotebook, phase: str
) -> None:
    tunnel = await notebook(echo)
    tunnel.phase = AgentPhase(phase)
    edge.connect(tunnel)
    assert (await ask(edge, NAVIGATION + "\nCookie: a=b"))[0] == 503
    assert tunnel.opened == []


async def test_stream_that_does_not_open(edge: Edge, notebook: OpenNotebook) -> None:
    tunnel = await notebook(echo)
    tunnel.refuse = True
    edge.connect(tunnel)
    assert (await ask(edge, NAVIGATION))[0] == 503
    tunnel.refuse = False
    reader, writer = await connect(edge)
    writer.write(b"now")
    assert await reader.readexactly(3) == b"now"
    writer.close()


async def test_disconnect_aborts_what_is_piped(edge: Edge, notebook: OpenNotebook) -> None:
    tunnel = await notebook(echo)
    edge.connect(tunnel)
    reader, writer = await connect(edge)
    writer.write(b"x")
    await reader.readexactly(1)
    edge.disconnect()
    assert await _read_to_end(reader) == b""
    writer.close()
    await _until(lambda: edge.active == 0)
    assert tunnel.opened[0].is_closing()
    assert (await ask(edge, NAVIGATION))[0] == 503


async def test_stream_opened_for_a_former_tunnel_is_not_used(
    edge: Edge, notebook: OpenNotebook
) -> None:
    """A disconnect that comes while the stream opens leaves neither a pipe nor a task."""
    tunnel = await notebook(echo)
    gate = asyncio.Event()

    class Slow(LoopTunnel):
        async def open_stream(self) -> tuple[ByteReader, ByteWriter]:
            await gate.wait()
            return await super().open_stream()

    slow = Slow(tunnel.port)
    edge.connect(slow)
    asking = asyncio.ensure_future(ask(edge, NAVIGATION))
    await asyncio.sleep(0.2)
    edge.disconnect()
    gate.set()
    assert (await asking)[0] == 503
    assert edge.connections == 0
    assert slow.opened[0].is_closing()


async def test_another_tunnel_takes_over(edge: Edge, notebook: OpenNotebook) -> None:
    first, second = await notebook(echo), await notebook(echo)
    edge.connect(first)
    reader, writer = await connect(edge)
    writer.write(b"x")
    await reader.readexactly(1)
    edge.connect(first)
    await asyncio.sleep(0.05)
    assert edge.active == 1
    edge.connect(second)
    await _until(lambda: edge.active == 0)
    writer.close()
    reader, writer = await connect(edge)
    writer.write(b"y")
    assert await reader.readexactly(1) == b"y"
    assert len(second.opened) == 1
    writer.close()


async def test_close_ends_everything(edge: Edge, notebook: OpenNotebook) -> None:
    edge.connect(await notebook(echo))
    reader, writer = await connect(edge)
    writer.write(b"x")
    await reader.readexactly(1)
    async with asyncio.timeout(3):
        await edge.close()
        await edge.close()
    with pytest.raises(ConnectionError):
        await connect(edge)
    writer.close()


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the end, or the reset, which must come soon."""
    async with asyncio.timeout(3):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
