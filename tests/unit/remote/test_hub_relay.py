"""``hub.sock`` when the hub stays away."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.remote.landfall_agent import streams
from gateway.remote.landfall_agent.streams import HubRelay


@pytest.fixture
def short() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lft", dir="/tmp"))
    yield path
    shutil.rmtree(path)


async def ask(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_the_wait_for_a_tunnel_is_bounded(
    short: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "HUB_WAIT_SECONDS", 0.2)
    relay = HubRelay(str(short))
    async with await asyncio.start_unix_server(relay.serve, short / "hub.sock"):
        assert await ask(short / "hub.sock") == b""
        # A socket that nobody serves any more is no tunnel either.
        relay.point_to("hub-1.sock")
        assert await ask(short / "hub.sock") == b""
    assert capsys.readouterr().err.count("The hub was not reachable") == 2


async def test_a_newer_socket_whose_tunnel_has_not_said_hello_is_kept(short: Path) -> None:
    servers = []
    for name in ("hub-a.sock", "hub-b.sock", "hub-c.sock"):
        servers.append(await asyncio.start_unix_server(lambda _r, w: w.close(), short / name))
        await asyncio.sleep(0.02)
    (short / "hub-notes").touch()
    HubRelay(str(short)).point_to("hub-b.sock")
    assert sorted(path.name for path in short.iterdir()) == [
        "hub-b.sock",
        "hub-c.sock",
        "hub-notes",
    ]
    for server in servers:
        server.close()
        await server.wait_closed()
