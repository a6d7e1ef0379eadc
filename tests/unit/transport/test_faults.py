"""Faults of a real sshd, and what the transport makes of them."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import asyncssh
import pytest

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError, GatewayError
from gateway.transport.base import Actor, Role
from gateway.transport.ssh import signal_number
from tests.sshd import Sshd

from .conftest import Opener

LIMIT = timedelta(seconds=20)


async def fault(ssh: Opener, transport: object, **options: object) -> GatewayError:
    timeout = options.get("timeout", LIMIT)
    with pytest.raises(GatewayError) as caught:
        await transport.run(ssh.user, ["true"], timeout=timeout)  # type: ignore[attr-defined]
    return caught.value


async def test_wrong_host_key(ssh: Opener, tmp_path: Path) -> None:
    server = ssh.sshd()
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[{server.host}]:{server.port} {other}")
    credentials = ssh.site.credentials()
    error = await fault(
        ssh, ssh.transport(server, known_hosts=known_hosts, credentials=credentials)
    )
    assert isinstance(error, ClusterRefused)
    assert error.reason == "host_key"
    assert server.host in str(error)
    assert "Accepted" not in server.log.read_text()


@pytest.mark.parametrize("content", ["", "# nothing\n", "elsewhere ssh-ed25519 AAAA\n"])
async def test_unknown_host_is_refused(ssh: Opener, tmp_path: Path, content: str) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(content)
    error = await fault(ssh, ssh.transport(ssh.sshd(), known_hosts=known_hosts))
    assert error.reason == "host_key"


async def test_unusable_known_hosts(ssh: Opener, tmp_path: Path) -> None:
    transport = ssh.transport(ssh.sshd(), known_hosts=tmp_path / "none")
    error = await fault(ssh, transport)
    assert isinstance(error, ConfigurationError)
    (tmp_path / "none").write_text("@strange a b c\n")
    assert (await fault(ssh, transport)).reason == "known_hosts"


async def test_forms_of_known_hosts(ssh: Opener, tmp_path: Path) -> None:
    server = ssh.sshd(host_certificate=False)
    key = Path(f"{server.key}.pub").read_text().split()
    plain = f"{key[0]} {key[1]}"
    ca = ssh.site.host_ca.export_public_key().decode().strip()
    hashed = tmp_path / "hashed"
    hashed.write_text(f"[{server.host}]:{server.port} {plain}\n")
    process = await asyncio.create_subprocess_exec(
        "ssh-keygen", "-q", "-H", "-f", str(hashed), stderr=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    assert hashed.read_text().startswith("|1|")
    with_certificate = ssh.sshd()
    for target, line, alias, works in (
        (server, f"[{server.host}]:{server.port} {plain}", None, True),
        (server, f"{server.host} {plain}", None, True),
        (server, hashed.read_text(), None, True),
        (server, f"login.example {plain}", "login.example", True),
        (server, f"login.example {plain}", None, False),
        (server, f"* {plain}\n@revoked * {plain}", None, False),
        (with_certificate, f"@cert-authority 127.* {ca}", None, True),
        (with_certificate, f"@cert-authority 10.* {ca}", None, False),
    ):
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(line + "\n")
        transport = ssh.transport(target, known_hosts=known_hosts, host_key_alias=alias)
        if works:
            assert (await transport.run(ssh.user, ["true"], timeout=LIMIT)).exit_status == 0, line
        else:
            assert (await fault(ssh, transport)).reason == "host_key", line
        await transport.close()


@pytest.mark.parametrize(
    "options",
    [
        {"principal": "somebody"},
        {"valid": (-600, -5)},
        {"valid": (300, 600)},
    ],
    ids=["principal", "expired", "early"],
)
async def test_refused_certificates(ssh: Opener, options: dict[str, object]) -> None:
    credentials = ssh.site.credentials(**options)
    transport = ssh.transport(ssh.sshd(), credentials=credentials)
    for _ in range(3):
        error = await fault(ssh, transport)
        assert isinstance(error, ClusterRefused)
        assert error.reason == "sign_in"
    # sshd would come to ban our address: the fourth is not even tried.
    error = await fault(ssh, transport)
    assert error.reason == "sign_in_paused"
    assert len(credentials.calls) == 3


async def test_unknown_account(ssh: Opener) -> None:
    transport = ssh.transport(ssh.sshd())
    with pytest.raises(ClusterRefused) as caught:
        await transport.run(Actor(Role.USER, "nosuchuser"), ["true"], timeout=LIMIT)
    assert caught.value.reason == "sign_in"
    if ssh.site.has_accounts:  # others are not paused with it
        assert (await transport.run(ssh.user, ["true"], timeout=LIMIT)).exit_status == 0


async def test_second_factor(ssh: Opener) -> None:
    server = ssh.sshd("AuthenticationMethods publickey,password", "PasswordAuthentication yes")
    error = await fault(ssh, ssh.transport(server))
    assert isinstance(error, ClusterRefused)
    assert error.reason == "second_factor"
    # A key that is refused is not mistaken for it, although passwords are offered too.
    refused = ssh.transport(
        ssh.sshd("PasswordAuthentication yes"), credentials=ssh.site.credentials(principal="x")
    )
    assert (await fault(ssh, refused)).reason == "sign_in"


async def test_nobody_listens(ssh: Opener) -> None:
    server = ssh.sshd()
    transport = ssh.transport(server)
    server.stop()
    error = await fault(ssh, transport)
    assert isinstance(error, ClusterUnavailable)
    assert error.reason == "connection_refused"
    server.start()
    assert (await transport.run(ssh.user, ["true"], timeout=LIMIT)).exit_status == 0


async def test_unknown_name(ssh: Opener) -> None:
    server = ssh.sshd()
    server.host = "no-such-host.invalid"
    error = await fault(ssh, ssh.transport(server))
    assert isinstance(error, ClusterUnavailable)
    assert error.reason in {"name_unknown", "timeout"}


async def test_something_else_listens(ssh: Opener) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with listener:
        server = ssh.sshd()
        server.host, server.port = listener.sockets[0].getsockname()
        error = await fault(ssh, ssh.transport(server))
    assert error.reason in {"protocol", "dropped"}


async def test_second_login_host_takes_over(ssh: Opener) -> None:
    first, second = ssh.sshd(), ssh.sshd()
    transport = ssh.transport(first, second)
    first.stop()
    assert (await transport.run(ssh.user, ["true"], timeout=LIMIT)).exit_status == 0
    assert "Accepted" in second.log.read_text()


async def test_connection_killed_in_the_middle(ssh: Opener) -> None:
    server = ssh.sshd()
    transport = ssh.transport(server)
    call = asyncio.ensure_future(transport.run(ssh.user, ["sleep", "60"], timeout=LIMIT))
    while not server.session_pids():
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    begun = time.monotonic()
    server.kill_sessions()
    with pytest.raises(ClusterUnavailable) as caught:
        await call
    assert caught.value.reason == "connection_lost"
    assert time.monotonic() - begun < 3
    result = await transport.run(ssh.user, ["echo", "again"], timeout=LIMIT)
    assert result.text == "again\n"


async def test_paused_server_is_bounded(ssh: Opener) -> None:
    server = ssh.sshd()
    transport = ssh.transport(server, connect_timeout="1s")
    await transport.run(ssh.user, ["true"], timeout=LIMIT)
    server.pause()
    begun = time.monotonic()
    error = await fault(ssh, transport, timeout=timedelta(seconds=1))  # on the open connection
    assert error.reason == "timeout"
    fresh = ssh.transport(server, connect_timeout="1s")
    error = await fault(ssh, fresh)  # a new connection: bounded by connect_timeout
    assert isinstance(error, ClusterUnavailable)
    assert error.reason == "timeout"
    assert time.monotonic() - begun < 5
    server.resume()
    assert (await transport.run(ssh.user, ["true"], timeout=LIMIT)).exit_status == 0


async def test_paused_server_is_noticed_by_keepalive(
    ssh: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.transport.connecting.KEEPALIVE_SECONDS", 0.3)
    server = ssh.sshd()
    transport = ssh.transport(server)
    call = asyncio.ensure_future(transport.run(ssh.user, ["sleep", "60"], timeout=LIMIT))
    await asyncio.sleep(1)
    server.pause()
    begun = time.monotonic()
    with pytest.raises(ClusterUnavailable) as caught:
        await call
    assert caught.value.reason == "connection_lost"
    assert time.monotonic() - begun < 4
    server.resume()


async def test_more_sessions_than_the_server_allows(ssh: Opener) -> None:
    server = ssh.sshd("MaxSessions 2")
    wrong = ssh.transport(server, max_sessions=4)
    results = await asyncio.gather(
        *(wrong.run(ssh.user, ["sleep", "3"], timeout=LIMIT) for _ in range(4)),
        return_exceptions=True,
    )
    errors = [r for r in results if isinstance(r, BaseException)]
    assert len(errors) == 2
    for error in errors:
        assert isinstance(error, ClusterUnavailable)
        assert error.reason == "too_many_sessions"
    right = ssh.transport(server, max_sessions=2)
    await asyncio.gather(*(right.run(ssh.user, ["sleep", "0.1"], timeout=LIMIT) for _ in range(8)))


async def test_fifty_connects_at_once_respect_max_startups(ssh: Opener) -> None:
    # "8:100:8": the ninth unauthenticated connection is dropped for sure.
    server = ssh.sshd("MaxStartups 8:100:8")
    pool = ssh.pool(server, max_startups=5, connect_timeout="20s")
    connections = await asyncio.gather(
        *(
            pool._open_login(ssh.user, server.host, server.port, None)  # one each, not shared
            for _ in range(50)
        )
    )
    for connection, _ in connections:
        connection.close()
    await asyncio.gather(*(connection.wait_closed() for connection, _ in connections))
    assert "MaxStartups" not in server.log.read_text()


async def take_the_only_place(server: Sshd) -> asyncio.StreamWriter:
    """A connection that sshd counts and that never signs in."""
    async with asyncio.timeout(10):
        while True:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            if (await reader.readline()).startswith(b"SSH-"):
                return writer
            # The one before is still counted.
            writer.close()
            await asyncio.sleep(0.05)


async def test_dropped_connections_are_tried_again(
    ssh: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ssh.sshd("MaxStartups 1:100:1")
    pool = ssh.pool(server)
    holder = await take_the_only_place(server)
    call = asyncio.ensure_future(pool.login(ssh.user))
    await asyncio.sleep(0.2)
    holder.close()
    await holder.wait_closed()
    assert not (await call).is_closed()

    monkeypatch.setattr("gateway.transport.pool.DROPPED_PAUSES", (0.05,))
    holder = await take_the_only_place(server)
    error = await fault(ssh, ssh.transport(server))
    assert isinstance(error, ClusterUnavailable)
    assert error.reason == "dropped"
    holder.close()
    await holder.wait_closed()


async def test_abandoned_commands_do_not_wear_the_connection_out(ssh: Opener) -> None:
    server = ssh.sshd("MaxSessions 4")
    transport = ssh.transport(server, max_sessions=4)
    # They ignore TERM, so sshd goes on counting their sessions.
    stubborn = ["sh", "-c", "trap '' TERM; sleep 8; sleep 8"]
    for _ in range(6):
        with pytest.raises(ClusterUnavailable):
            await transport.run(ssh.user, stubborn, timeout=timedelta(seconds=0.5))
    assert (await transport.run(ssh.user, ["true"], timeout=LIMIT)).exit_status == 0


def write_bashrc(ssh: Opener, content: str) -> None:
    (ssh.site.home_of(ssh.user.name) / ".bashrc").write_text(content)


@pytest.fixture
def no_bashrc(ssh: Opener):  # type: ignore[no-untyped-def]
    yield
    (ssh.site.home_of(ssh.user.name) / ".bashrc").unlink(missing_ok=True)


@pytest.mark.usefixtures("no_bashrc")
async def test_start_up_files(ssh: Opener) -> None:
    transport = ssh.transport(ssh.sshd())
    write_bashrc(ssh, "echo welcome; printf 'no newline'; echo oops >&2; sleep 0.3\n")
    result = await transport.run(ssh.user, ["sh", "-c", "echo out; echo err >&2"], timeout=LIMIT)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")

    write_bashrc(ssh, "echo 'use the other host' >&2; exit 0\n")
    error = await fault(ssh, transport)
    assert isinstance(error, ClusterRefused)
    assert error.reason == "shell_startup"
    assert "use the other host" in error.detail

    write_bashrc(ssh, "sleep 5\n")
    error = await fault(ssh, transport, timeout=timedelta(seconds=0.7))
    assert isinstance(error, ClusterUnavailable)
    assert error.reason == "timeout"
    assert "start-up" in str(error)

    write_bashrc(ssh, "yes welcome\n")
    begun = time.monotonic()
    error = await fault(ssh, transport)
    assert isinstance(error, ClusterRefused)
    assert error.reason == "shell_startup"
    assert time.monotonic() - begun < 5


async def test_forced_command_is_explained(ssh: Opener) -> None:
    error = await fault(ssh, ssh.transport(ssh.sshd("ForceCommand /bin/echo only this")))
    assert isinstance(error, ClusterRefused)
    assert error.reason == "shell_startup"
    assert "only this" in error.detail


def test_signal_numbers() -> None:
    assert signal_number("TERM") == 15
    assert signal_number("SEGV") == 11
    assert signal_number("STRANGE@example.org") == 99
