"""The tunnel contract over two real sshd and the real agent, and what only this mode has."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from gateway.errors import ClusterRefused, ClusterUnavailable, NotAnnounced
from gateway.tunnel.base import ServerStart
from gateway.tunnel.compute_ssh import ComputeSshOpener
from tests.contract.tunnel import *  # noqa: F403
from tests.contract.tunnel import TunnelSite, ask
from tests.unit.tunnel.nodes import LAUNCH_ID, SSHD, Nodes, find_descendants, start_nodes

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    nodes = await start_nodes()
    yield nodes
    await nodes.stop()


@pytest.fixture
async def site(nodes: Nodes) -> AsyncIterator[TunnelSite]:
    pool = nodes.pool()
    opener = ComputeSshOpener(pool, nodes.profile())
    yield TunnelSite(
        opener, nodes.target(nodes.directory / "api.sock"), nodes.start_agent, nodes.compute.cut
    )
    await opener.close()
    await pool.close()


@pytest.mark.parametrize(
    "option",
    ["AllowStreamLocalForwarding no", "AllowStreamLocalForwarding local", "DisableForwarding yes"],
)
async def test_prohibited_forwarding_needs_a_person(option: str) -> None:
    nodes = await start_nodes(option)
    pool = nodes.pool()
    opener = ComputeSshOpener(pool, nodes.profile())
    try:
        await nodes.start_agent()
        with pytest.raises(ClusterRefused) as caught:
            await opener.open(nodes.target(nodes.directory / "api.sock"), timeout=20)
        assert caught.value.reason in ("forwarding_prohibited", "listener_refused")
        assert "orwarding is prohibited" in caught.value.user_message.render()
    finally:
        await opener.close()
        await pool.close()
        await nodes.stop()


async def test_unexpected_host_key_of_the_node(nodes: Nodes) -> None:
    profile = nodes.profile(node_host_key=asyncssh.generate_private_key("ssh-ed25519"))
    pool = nodes.pool(profile)
    with pytest.raises(ClusterRefused) as caught:
        await ComputeSshOpener(pool, profile).open(
            nodes.target(nodes.directory / "api.sock"), timeout=20
        )
    assert caught.value.reason == "host_key"
    await pool.close()


async def test_node_without_sshd_is_unavailable(nodes: Nodes, site: TunnelSite) -> None:
    await nodes.compute.stop()
    with pytest.raises(ClusterUnavailable) as caught:
        await site.opener.open(site.target, timeout=20)
    assert not isinstance(caught.value, NotAnnounced)


async def test_announcement_may_not_be_a_link(nodes: Nodes, site: TunnelSite) -> None:
    nodes.launch_directory.mkdir()
    elsewhere = nodes.directory / "elsewhere"
    elsewhere.write_text("{}")
    site.announcement_path.symlink_to(elsewhere)
    with pytest.raises(ClusterRefused):
        await site.opener.open(site.target, timeout=20)


async def test_killed_agent_counts_as_not_announced(nodes: Nodes, site: TunnelSite) -> None:
    agent = await nodes.start_agent()
    await (await site.opener.open(site.target, timeout=20)).close()
    agent.kill()
    await agent.wait()
    assert site.announcement_path.exists()
    with pytest.raises(NotAnnounced):
        await site.opener.open(site.target, timeout=2)


async def test_opening_waits_for_a_late_agent(nodes: Nodes, site: TunnelSite) -> None:
    opening = asyncio.ensure_future(site.opener.open(site.target, timeout=20))
    await asyncio.sleep(1)
    await nodes.start_agent()
    await (await opening).close()


async def test_cancelled_open_leaves_no_connection(nodes: Nodes, site: TunnelSite) -> None:
    opening = asyncio.ensure_future(site.opener.open(site.target, timeout=20))
    await asyncio.sleep(1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with asyncio.timeout(5):
        while _children(nodes.compute.process.pid):
            await asyncio.sleep(0.05)


async def test_impostor_gets_nothing(nodes: Nodes, site: TunnelSite) -> None:
    """Who listens at the announced path but does not know the nonce is sent not one byte."""
    received: list[bytes] = []

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = {"type": "hello", "protocol": 1, "launch_id": LAUNCH_ID, "phase": "waiting"}
        writer.write(json.dumps({**hello, "nonce": "f" * 32}).encode() + b"\n")
        received.append(await reader.read())
        writer.close()

    nodes.launch_directory.mkdir()
    directory = nodes.directory / "posing"
    directory.mkdir()
    _announce(site.announcement_path, directory)
    async with await asyncio.start_unix_server(pose, directory / "agent.sock"):
        with pytest.raises(NotAnnounced):
            await site.opener.open(site.target, timeout=2)
        async with asyncio.timeout(5):
            while not received:
                await asyncio.sleep(0.05)
    assert set(received) == {b""}
    assert [p.name for p in directory.iterdir()] in ([], ["agent.sock"])


async def test_each_connection_has_its_own_hub_socket(nodes: Nodes, site: TunnelSite) -> None:
    """What a lost connection leaves behind cannot be bound again; the next one does not try."""
    async with site.listening() as tunnel:
        directory = Path(tunnel.announcement.directory)
        first = {p.name for p in directory.glob("hub-*.sock")}
        assert len(first) == 1
        (directory / "hub-2.sock").touch()
        nodes.compute.cut()
        await asyncio.wait_for(tunnel.wait_closed(), 5)
        second = await site.opener.open(site.target, timeout=20)
        assert {p.name for p in directory.glob("hub-*.sock")} - first - {"hub-2.sock"}
        await second.close()


async def test_too_many_hub_connections_are_refused(nodes: Nodes, site: TunnelSite) -> None:
    held: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_unix_server(hold, site.target.hub_api_socket),
        site.listening() as tunnel,
    ):
        directory = Path(tunnel.announcement.directory)
        (path,) = directory.glob("hub-*.sock")
        ends = [await asyncio.open_unix_connection(path) for _ in range(40)]
        refused = [e for e in ends if await _ends_soon(e[0])]
        assert (len(refused), len(held)) == (8, 32)
        for _, writer in ends:
            writer.close()
        await asyncio.sleep(0.5)
        reader, writer = await asyncio.open_unix_connection(path)
        assert not await _ends_soon(reader)
        writer.close()


async def test_cancelled_stream_is_closed_once_it_opens(nodes: Nodes, site: TunnelSite) -> None:
    async with site.listening() as tunnel:
        before = _descriptors(nodes.compute.process.pid)
        for _ in range(20):
            opening = asyncio.ensure_future(tunnel.open_stream())
            await asyncio.sleep(0)
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        assert await ask(tunnel, "echo", b"x") == b"x"
        async with asyncio.timeout(5):
            while _descriptors(nodes.compute.process.pid) > before:
                await asyncio.sleep(0.05)


async def test_secrets_are_nowhere_on_disk(nodes: Nodes, site: TunnelSite) -> None:
    site.environment["JUPYTERHUB_API_TOKEN"] = "secret-token-of-this-test"
    async with site.listening() as tunnel:
        token = await ask(tunnel, "environment JUPYTERHUB_API_TOKEN")
        assert token == b"secret-token-of-this-test"
        for path in nodes.directory.rglob("*"):
            if path.is_file():
                assert token not in path.read_bytes()
    assert "secret-token" not in repr(ServerStart("s1", site.environment))


def _announce(path: Path, directory: Path) -> None:
    fields = {
        "launch_id": LAUNCH_ID,
        "protocol": 1,
        "host": "c1",
        "pid": os.getpid(),
        "directory": str(directory),
        "nonce": "0" * 32,
    }
    path.write_text(json.dumps(fields))


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _descriptors(sshd: int) -> int:
    """Of the processes that serve the connection."""
    return sum(len(list(Path(f"/proc/{p}/fd").iterdir())) for p in find_descendants(sshd))


async def _ends_soon(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.1):
            return await reader.read(1) == b""
    except TimeoutError:
        return False
