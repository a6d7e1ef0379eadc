"""What its SSH servers admit and refuse, seen by a plain client."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.unit.rehearsal.site import Site


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="lf-", dir="/tmp") as name:
        yield Path(name)


async def until(check: Callable[[], bool | Awaitable[bool]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while True:
            result = check()
            if result is True or (not isinstance(result, bool) and await result):
                return
            await asyncio.sleep(0.05)


async def test_commands_run_in_the_users_home_with_its_own_names(site: Site) -> None:
    status, out, _ = await site.run("bob", "id -un; whoami; hostname; pwd; echo ~; id -un carol")
    home = str(site.cluster.hosts.home("bob"))
    assert (status, out.split()) == (0, ["bob", "bob", "login", home, home, "carol"])


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("alice", {"principals": ["bob"]}),
        ("alice", {"principals": []}),
        ("alice", {"valid_after": "20200101", "valid_before": "20200102"}),
        ("alice", {"source_address": ["192.0.2.1"]}),
        ("stranger", {}),
        ("root", {}),
    ],
)
async def test_bad_certificates_are_refused(
    site: Site, user: str, options: dict[str, object]
) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        await site.connect(user, keys=site.certify(user, **options))  # type: ignore[arg-type]


async def test_only_certificates_of_the_authority_are_accepted(site: Site) -> None:
    key, _ = site.certify("alice")
    with pytest.raises(asyncssh.PermissionDenied):
        await site.connect("alice", keys=key)
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    forged = stranger.generate_user_certificate(key, "alice", principals=["alice"])
    with pytest.raises(asyncssh.PermissionDenied):
        await site.connect("alice", keys=(key, forged))


async def test_source_address_of_the_client_is_accepted(site: Site) -> None:
    keys = site.certify("alice", source_address=["127.0.0.0/8"])
    (await site.connect("alice", keys=keys)).close()


async def test_tunnel_account_forwards_and_runs_nothing(site: Site, short: Path) -> None:
    async with await site.connect("tunnel") as tunnel:
        done = await tunnel.run("echo here")
        assert (done.exit_status, done.stdout) == (1, "")
        with pytest.raises(asyncssh.ChannelOpenError):
            await tunnel.open_unix_connection(str(short / "x"))
        with pytest.raises(asyncssh.ChannelListenError):
            await tunnel.forward_remote_path(str(short / "y"), str(short / "z"))
        reader, _ = await tunnel.open_connection("r2", site.cluster.port)
        assert (await reader.readline()).startswith(b"SSH-2.0")


@pytest.mark.parametrize("where", ["127.0.0.1", "localhost", "r5", "example.org", "127.77.1.11"])
async def test_nothing_but_compute_nodes_can_be_reached(site: Site, where: str) -> None:
    async with await site.connect("tunnel") as tunnel:
        with pytest.raises(asyncssh.ChannelOpenError) as refused:
            await tunnel.open_connection(where, site.cluster.port)
        assert refused.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
        with pytest.raises(asyncssh.ChannelOpenError):
            await tunnel.open_connection("r1", 22)


async def test_forwarding_needs_the_certificates_leave(site: Site, short: Path) -> None:
    keys = site.certify("alice", permit_port_forwarding=False)
    async with await site.connect("alice", keys=keys) as alice:
        with pytest.raises(asyncssh.ChannelOpenError):
            await alice.open_connection("r1", site.cluster.port)
        with pytest.raises(asyncssh.ChannelListenError):
            await alice.forward_remote_path(str(short / "a.sock"), str(short / "b.sock"))


async def test_a_node_admits_a_user_only_while_a_job_runs_there(site: Site) -> None:
    async with await site.connect("tunnel") as tunnel:
        with pytest.raises(asyncssh.PermissionDenied):
            await site.connect("alice", node="r1", tunnel=tunnel)
        job = await site.submit("alice", "")
        node = site.cluster.state.jobs[job].node
        assert node == "r1"
        with pytest.raises(asyncssh.PermissionDenied):
            await site.connect("bob", node="r1", tunnel=tunnel)
        with pytest.raises(asyncssh.PermissionDenied):
            await site.connect("alice", node="r2", tunnel=tunnel)
        on_node = await site.connect("alice", node="r1", tunnel=tunnel)
        assert (await on_node.run("hostname")).stdout == "r1\n"
        with pytest.raises(asyncssh.ChannelOpenError):
            await on_node.open_connection("r2", site.cluster.port)
        await site.run("alice", f"scancel {job}")
        async with asyncio.timeout(10):
            await on_node.wait_closed()
        with pytest.raises(asyncssh.PermissionDenied):
            await site.connect("alice", node="r1", tunnel=tunnel)


async def test_unix_sockets_are_forwarded_both_ways(site: Site, short: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"echo " + await reader.readline())
        writer.close()

    await site.submit("alice", "")
    here = await asyncio.start_unix_server(echo, short / "here.sock")
    async with here, await site.connect("tunnel") as tunnel:
        node = await site.connect("alice", node="r1", tunnel=tunnel)
        async with node:
            # towards the node
            reader, writer = await node.open_unix_connection(str(short / "here.sock"))
            writer.write(b"one\n")
            assert await reader.read() == b"echo one\n"
            # from the node back
            there = short / "there.sock"
            await node.forward_remote_path(str(there), str(short / "here.sock"))
            assert stat.S_IMODE(there.stat().st_mode) == 0o600
            back, out = await asyncio.open_unix_connection(there)
            out.write(b"two\n")
            assert await back.read() == b"echo two\n"
            out.close()
            # a path that exists is refused, as sshd does
            with pytest.raises(asyncssh.ChannelListenError):
                await node.forward_remote_path(str(there), str(short / "here.sock"))
            with pytest.raises(asyncssh.ChannelOpenError):
                await node.open_unix_connection(str(short / "none.sock"))


async def test_at_most_ten_sessions_on_one_connection(site: Site) -> None:
    async with await site.connect("alice") as alice:
        sleepers = [await alice.create_process("sleep 60") for _ in range(10)]
        with pytest.raises(asyncssh.ChannelOpenError):
            await alice.run("true")
        for sleeper in sleepers:
            sleeper.send_signal("TERM")
        await asyncio.gather(*(sleeper.wait() for sleeper in sleepers))
        assert (await alice.run("true")).exit_status == 0


async def test_exit_by_signal_and_stdin_to_the_end(site: Site) -> None:
    async with await site.connect("alice") as alice:
        killed = await alice.run("kill -9 $$")
        assert killed.exit_signal is not None
        assert killed.exit_signal[0] == "KILL"
        data = os.urandom(1 << 20)
        echoed = await alice.run("cat", input=data, encoding=None)
        assert echoed.stdout == data
