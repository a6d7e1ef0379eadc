"""What every tunnel and its opener promise, as tests.

A module that wants them imports them and gives a fixture ``site`` that yields a
:class:`TunnelSite`, whose agent is the real one and whose server is ``echo_server.py``::

    from tests.contract.tunnel import *  # noqa: F403
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gateway.errors import ClusterRefused, ClusterUnavailable, NotAnnounced
from gateway.tunnel.base import (
    AgentPhase,
    ByteReader,
    ByteWriter,
    ServerStart,
    Tunnel,
    TunnelOpener,
    TunnelTarget,
)

__all__ = [
    "TunnelSite",
    "test_close_is_idempotent_and_ends_streams",
    "test_end_of_server_is_heard",
    "test_half_close",
    "test_hub_api_comes_back",
    "test_large_transfers_are_whole",
    "test_later_start_changes_nothing",
    "test_lost_tunnel_is_told_and_another_opens",
    "test_no_announcement",
    "test_no_stream_before_the_server_listens",
    "test_opener_closes_its_tunnels",
    "test_other_launch_is_refused",
    "test_parallel_streams",
    "test_placeholder_becomes_the_hub_socket",
    "test_slow_reader_holds_the_sender_back",
    "test_stale_announcement_is_none",
    "test_stop_ends_the_job",
    "test_stuck_server_holds_the_writer_back",
]

BLOCK = bytes(range(256)) * 256
HUB_URL = "http+unix://%2flandfall-hub-socket/hub/api"
HELD_BACK = 24 * 1024 * 1024


@dataclass
class TunnelSite:
    """``cut`` breaks the way to the node at once, without goodbye; a new one can be opened."""

    opener: TunnelOpener
    target: TunnelTarget
    start_agent: Callable[[], Awaitable[Process]]
    cut: Callable[[], None]
    environment: dict[str, str] = field(default_factory=lambda: {"HUB_URL": HUB_URL})

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Tunnel]:
        await self.start_agent()
        tunnel = await self.opener.open(self.target, timeout=20)
        try:
            await wait_listening(tunnel, await tunnel.send_start(self.start("s1")))
            yield tunnel
        finally:
            await tunnel.close()

    def start(self, start_id: str) -> ServerStart:
        return ServerStart(start_id, self.environment)

    @property
    def announcement_path(self) -> Path:
        return Path(self.target.launch_directory) / "announcement.json"


async def wait_listening(tunnel: Tunnel, phase: AgentPhase) -> None:
    async with asyncio.timeout(20):
        while phase.phase != "listening":
            phase = await tunnel.wait_phase_change(phase)


async def ask(tunnel: Tunnel, line: str, data: bytes = b"") -> bytes:
    """Open a stream, send ``line`` and ``data``, end it, and return all that comes back."""
    reader, writer = await tunnel.open_stream()
    writer.write(f"{line}\n".encode() + data)
    writer.write_eof()
    answer = await read_all(reader)
    writer.close()
    return answer


async def read_all(reader: ByteReader) -> bytes:
    answer = b""
    async with asyncio.timeout(20):
        while data := await reader.read(65536):
            answer += data
    return answer


async def write_until_held_back(writer: ByteWriter, most: int) -> int:
    written = 0
    try:
        while written < most:
            writer.write(BLOCK)
            written += len(BLOCK)
            async with asyncio.timeout(2):
                await writer.drain()
    except TimeoutError:
        pass
    return written


async def test_no_announcement(site: TunnelSite) -> None:
    with pytest.raises(NotAnnounced):
        await site.opener.open(site.target, timeout=2)


async def test_stale_announcement_is_none(site: TunnelSite) -> None:
    await site.start_agent()
    tunnel = await site.opener.open(site.target, timeout=20)
    nonce = tunnel.announcement.nonce
    await tunnel.close()
    with pytest.raises(NotAnnounced):
        await site.opener.open(replace(site.target, stale_nonce=nonce), timeout=2)
    other = replace(site.target, stale_nonce="0" * 32)
    await (await site.opener.open(other, timeout=20)).close()


async def test_other_launch_is_refused(site: TunnelSite) -> None:
    await site.start_agent()
    with pytest.raises(ClusterRefused):
        await site.opener.open(replace(site.target, launch_id="ffffffffffffffff"), timeout=20)


async def test_placeholder_becomes_the_hub_socket(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        directory = tunnel.announcement.directory.replace("/", "%2f")
        url = await ask(tunnel, "environment HUB_URL")
        assert url.decode() == f"http+unix://{directory}%2fhub.sock/hub/api"


async def test_later_start_changes_nothing(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        answer = await tunnel.send_start(ServerStart("s2", {"HUB_URL": "other"}))
        assert (answer.phase, answer.start_id) == ("listening", "s1")
        assert b"other" not in await ask(tunnel, "environment HUB_URL")


async def test_no_stream_before_the_server_listens(site: TunnelSite) -> None:
    await site.start_agent()
    tunnel = await site.opener.open(site.target, timeout=20)
    with pytest.raises(ClusterUnavailable):
        await tunnel.open_stream()
    await wait_listening(tunnel, await tunnel.send_start(site.start("s1")))
    assert await ask(tunnel, "echo", b"now") == b"now"
    await tunnel.close()


async def test_half_close(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        digest = await ask(tunnel, "sink", b"x" * 1000)
        assert digest.decode() == hashlib.sha256(b"x" * 1000).hexdigest()


async def test_parallel_streams(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        texts = [bytes([65 + i]) * 300_000 for i in range(3)]

        async def echo(data: bytes) -> bytes:
            reader, writer = await tunnel.open_stream()
            reading = asyncio.ensure_future(read_all(reader))
            writer.write(b"echo\n" + data)
            await writer.drain()
            writer.write_eof()
            return await reading

        assert await asyncio.gather(*map(echo, texts)) == texts


async def test_large_transfers_are_whole(site: TunnelSite) -> None:
    size = 100 * 1024 * 1024
    expected = hashlib.sha256()
    for _ in range(size // len(BLOCK)):
        expected.update(BLOCK)
    async with site.listening() as tunnel, asyncio.timeout(50):
        reader, writer = await tunnel.open_stream()
        writer.write(f"source {size}\n".encode())
        received, count = hashlib.sha256(), 0
        while data := await reader.read(256 * 1024):
            received.update(data)
            count += len(data)
        writer.close()
        assert (count, received.hexdigest()) == (size, expected.hexdigest())
        reader, writer = await tunnel.open_stream()
        writer.write(b"sink\n")
        for _ in range(size // len(BLOCK)):
            writer.write(BLOCK)
            await writer.drain()
        writer.write_eof()
        assert (await read_all(reader)).decode() == expected.hexdigest()


async def test_slow_reader_holds_the_sender_back(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        _, writer = await tunnel.open_stream()
        writer.write(b"source 400000000\n")
        await asyncio.sleep(1.5)
        sent = int(await ask(tunnel, "sent"))
        await asyncio.sleep(1.0)
        assert int(await ask(tunnel, "sent")) == sent
        assert 0 < sent < HELD_BACK
        writer.close()


async def test_stuck_server_holds_the_writer_back(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        _, writer = await tunnel.open_stream()
        writer.write(b"hang\n")
        assert await write_until_held_back(writer, HELD_BACK) < HELD_BACK
        writer.close()
        assert await ask(tunnel, "echo", b"others go on") == b"others go on"


async def test_hub_api_comes_back(site: TunnelSite) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"asked": head.split(b" ")[1].decode()}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        writer.close()

    hub = await asyncio.start_unix_server(answer, site.target.hub_api_socket)
    async with hub, site.listening() as tunnel:
        assert b'{"asked": "/hub/api"}' in await ask(tunnel, "hub")
        site.cut()
        await asyncio.wait_for(tunnel.wait_closed(), 5)
        second = await site.opener.open(site.target, timeout=20)
        assert b'{"asked": "/hub/api"}' in await ask(second, "hub")
        await second.close()


async def test_lost_tunnel_is_told_and_another_opens(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        reader, writer = await tunnel.open_stream()
        writer.write(b"echo\n")
        waiting = asyncio.ensure_future(tunnel.wait_phase_change(tunnel.phase))
        await asyncio.sleep(0.1)
        site.cut()
        await asyncio.wait_for(tunnel.wait_closed(), 5)
        with pytest.raises(ClusterUnavailable):
            await asyncio.wait_for(waiting, 5)
        with pytest.raises(ClusterUnavailable):
            await asyncio.wait_for(reader.read(10), 5)
        with pytest.raises(ClusterUnavailable):
            await tunnel.open_stream()
        with pytest.raises(ClusterUnavailable):
            await tunnel.send_stop()
        second = await site.opener.open(site.target, timeout=20)
        assert second.announcement == tunnel.announcement
        assert (second.phase.phase, second.phase.start_id) == ("listening", "s1")
        assert await ask(second, "echo", b"again") == b"again"
        await second.close()


async def test_end_of_server_is_heard(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        seen = tunnel.phase
        writer: ByteWriter
        _, writer = await tunnel.open_stream()
        writer.write(b"exit 7\n")
        ended = await asyncio.wait_for(tunnel.wait_phase_change(seen), 10)
        assert (ended.phase, ended.exit_status, ended.start_id) == ("ended", 7, "s1")
        assert ended.words


async def test_stop_ends_the_job(site: TunnelSite) -> None:
    agent = await site.start_agent()
    tunnel = await site.opener.open(site.target, timeout=20)
    await wait_listening(tunnel, await tunnel.send_start(site.start("s1")))
    await tunnel.send_stop()
    assert await asyncio.wait_for(agent.wait(), 15) == 0
    await asyncio.wait_for(tunnel.wait_closed(), 5)
    assert tunnel.phase.phase == "ended"
    await tunnel.close()


async def test_close_is_idempotent_and_ends_streams(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        reader, writer = await tunnel.open_stream()
        writer.write(b"echo\n")
        await tunnel.close()
        await tunnel.close()
        await asyncio.wait_for(tunnel.wait_closed(), 1)
        with pytest.raises(ClusterUnavailable):
            await asyncio.wait_for(reader.read(10), 5)
        writer.close()


async def test_opener_closes_its_tunnels(site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        await site.opener.close()
        await site.opener.close()
        await asyncio.wait_for(tunnel.wait_closed(), 1)
