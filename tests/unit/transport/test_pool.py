"""Connections: shared, closed when idle, through login nodes and bastions."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError
from gateway.transport.base import Actor, Role
from gateway.transport.pool import SshPool
from gateway.transport.ssh import SshTransport

from .conftest import Opener

LIMIT = timedelta(seconds=20)


def accepted(log: Path) -> int:
    return log.read_text().count("Accepted publickey")


async def eventually(check: object, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not check():  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def test_one_connection_is_shared(ssh: Opener) -> None:
    server = ssh.sshd()
    pool = ssh.pool(server)
    connections = await asyncio.gather(*(pool.login(ssh.user) for _ in range(10)))
    assert len({id(c) for c in connections}) == 1
    assert accepted(server.log) == 1
    transport = SshTransport(pool)
    await asyncio.gather(*(transport.run(ssh.user, ["true"], timeout=LIMIT) for _ in range(20)))
    assert accepted(server.log) == 1
    assert connections[0].get_extra_info("send_cipher") == "aes128-gcm@openssh.com"
    assert connections[0].get_extra_info("recv_cipher") == "aes128-gcm@openssh.com"


async def test_cancelled_opening_leaves_the_next_one_alone(ssh: Opener) -> None:
    server = ssh.sshd()
    pool = ssh.pool(server)
    first = asyncio.ensure_future(pool.login(ssh.user))
    second = asyncio.ensure_future(pool.login(ssh.user))
    await asyncio.sleep(0.01)
    first.cancel()
    connection = await second
    assert not connection.is_closed()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_many_who_wait_share_one_failure(ssh: Opener) -> None:
    server = ssh.sshd()
    pool = ssh.pool(server, connect_timeout="1s")
    server.pause()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    results = await asyncio.gather(
        *(pool.login(ssh.user) for _ in range(30)), return_exceptions=True
    )
    assert all(isinstance(r, ClusterUnavailable) for r in results)
    assert loop.time() - begun < 3
    server.resume()
    assert not (await pool.login(ssh.user)).is_closed()


async def test_idle_users_are_closed_service_accounts_stay(ssh: Opener) -> None:
    server = ssh.sshd()
    pool = ssh.pool(server, idle_seconds=2.0)
    transport = SshTransport(pool)
    observer = Actor(Role.OBSERVER, ssh.site.user)
    mine, theirs = await pool.login(ssh.user), await pool.login(observer)
    await transport.run(ssh.user, ["sleep", "3"], timeout=LIMIT)  # longer: in use is not idle
    assert await pool.login(ssh.user) is mine
    await eventually(lambda: mine.is_closed())
    assert not theirs.is_closed()
    assert await pool.login(ssh.user) is not mine


async def test_close_ends_everything(ssh: Opener) -> None:
    login, node = ssh.sshd(), ssh.sshd()
    pool = make_node_pool(ssh, login.port, node.port, [login])
    connection = await pool.node(ssh.site.user, node.host)
    await pool.close()
    await pool.close()
    await asyncio.wait_for(connection.wait_closed(), 5)
    with pytest.raises(ClusterUnavailable):
        await pool.login(ssh.user)
    await eventually(lambda: not login.session_pids())


def make_node_pool(
    ssh: Opener, login_port: int, node_port: int, logins: list[object], **options: object
) -> SshPool:
    return ssh.pool(*logins, compute_port=node_port, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("tunnel_account", [True, False])
async def test_node_through_the_login_node(ssh: Opener, tunnel_account: bool) -> None:
    login, node = ssh.sshd(), ssh.sshd()
    pool = ssh.pool(login, compute_port=node.port, tunnel_account=tunnel_account, idle_seconds=0.3)
    connection = await pool.node(ssh.site.user, node.host)
    result = await connection.run("id -un", check=True)
    assert str(result.stdout).strip() == ssh.site.user
    names = [n for n in ("tunnel", ssh.site.user) if f"Accepted publickey for {n} " in
             login.log.read_text()]  # fmt: skip
    assert names == (["tunnel"] if tunnel_account and ssh.site.has_accounts else [ssh.site.user])
    # What carries a node's connection is not idle.
    await asyncio.sleep(0.8)
    assert not connection.is_closed()
    other = await pool.node(ssh.site.user, node.host)
    assert other is not connection
    assert accepted(login.log) == 1
    for each in (connection, other):
        each.close()
        await each.wait_closed()
    if not tunnel_account:
        await eventually(lambda: not login.session_pids())


async def test_node_is_lost_with_the_login_node(ssh: Opener) -> None:
    login, node = ssh.sshd(), ssh.sshd()
    pool = ssh.pool(login, compute_port=node.port)
    connection = await pool.node(ssh.site.user, node.host)
    login.kill_sessions()
    await asyncio.wait_for(connection.wait_closed(), 5)
    again = await pool.node(ssh.site.user, node.host)
    again.close()
    await again.wait_closed()


async def test_node_faults(ssh: Opener) -> None:
    login, node = ssh.sshd(), ssh.sshd("DenyUsers *")
    pool = ssh.pool(login, compute_port=node.port)
    with pytest.raises(ClusterRefused) as caught:
        await pool.node(ssh.site.user, node.host)
    assert caught.value.reason == "sign_in"
    assert f"compute node {node.host}" in str(caught.value)
    with pytest.raises(ClusterUnavailable) as unreachable:
        await pool.node(ssh.site.user, "127.0.0.1")  # nobody listens on that port there
    assert unreachable.value.reason == "connect_failed"
    for name in ("", "a b", "-oProxyCommand=x", "n1;id", "n\n1", "é", "x" * 300):
        with pytest.raises(ClusterRefused) as bad:
            await pool.node(ssh.site.user, name)
        assert bad.value.reason == "node_name"
    closed = ssh.sshd("AllowTcpForwarding no")
    pool = ssh.pool(closed, compute_port=node.port)
    with pytest.raises(ClusterRefused) as prohibited:
        await pool.node(ssh.site.user, node.host)
    assert prohibited.value.reason == "forwarding_prohibited"
    unforwarded = ssh.pool(
        login, compute_port=node.port, credentials=ssh.site.credentials(forwarding=False)
    )
    with pytest.raises(ClusterRefused) as refused:
        await unforwarded.node(ssh.site.user, node.host)
    assert refused.value.reason == "forwarding_prohibited"


async def test_node_host_key_is_checked(ssh: Opener, tmp_path: Path) -> None:
    login, node = ssh.sshd(), ssh.sshd()
    ca = ssh.site.host_ca.export_public_key().decode().strip()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"@cert-authority {login.host} {ca}\n")
    pool = ssh.pool(login, compute_port=node.port, known_hosts=known_hosts)
    with pytest.raises(ClusterRefused) as caught:
        await pool.node(ssh.site.user, node.host)
    assert caught.value.reason == "host_key"


async def test_bastion(ssh: Opener) -> None:
    bastion, login, node = ssh.sshd(), ssh.sshd(), ssh.sshd()
    via = {"host": bastion.host, "port": bastion.port}
    pool = ssh.pool(login, compute_port=node.port, bastion=via)
    transport = SshTransport(pool)
    result = await transport.run(ssh.user, ["id", "-un"], timeout=LIMIT)
    assert result.text.strip() == ssh.site.user
    connection = await pool.node(ssh.site.user, node.host)
    assert accepted(bastion.log) == 1
    bastion.kill_sessions()
    await asyncio.wait_for(connection.wait_closed(), 5)
    result = await transport.run(ssh.user, ["id", "-un"], timeout=LIMIT)
    assert accepted(bastion.log) == 2
    without = ssh.pool(login, bastion=via, tunnel_account=False)
    with pytest.raises(ConfigurationError, match="tunnel"):
        await without.login(ssh.user)
