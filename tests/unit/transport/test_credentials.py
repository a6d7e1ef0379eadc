"""Keys and certificates of connections."""

from __future__ import annotations

import asyncio
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import asyncssh
import pytest

from gateway.errors import ClusterRefused, ConfigurationError
from gateway.transport.base import Actor, Role
from gateway.transport.credentials import (
    KeyFileCredentials,
    SignedCertificates,
    build_credentials,
    certificate_end,
    check_certificate,
)
from gateway.transport.pool import SshPool
from gateway.transport.ssh import SshTransport
from tests.sshd import SshdSite

ALICE = Actor(Role.USER, "alice")
CA = asyncssh.generate_private_key("ssh-ed25519")


class FakeSigner:
    def __init__(self, lifetime: int = 120, authority: asyncssh.SSHKey = CA) -> None:
        self.asked: list[tuple[str, str, bool]] = []
        self.lifetime = lifetime
        self.authority = authority

    async def sign(
        self, *, public_key: str, cluster: str, role: str, principal: str, forwarding: bool
    ) -> str:
        self.asked.append((role, principal, forwarding))
        now = int(time.time())
        certificate = self.authority.generate_user_certificate(
            asyncssh.import_public_key(public_key),
            "k",
            principals=[principal],
            valid_after=now - 60,
            valid_before=now + self.lifetime,
        )
        return certificate.export_certificate().decode()


async def test_forwarding_is_asked_only_where_needed() -> None:
    signer = FakeSigner()
    provider = SignedCertificates(signer, "c")
    await provider.fetch_client_keys(ALICE, node=None)
    await provider.fetch_client_keys(ALICE, node="n1")
    await provider.fetch_client_keys(Actor(Role.TUNNEL, "t"), node=None)
    await provider.fetch_client_keys(Actor(Role.OBSERVER, "o"), node=None)
    await SignedCertificates(signer, "c", users_forward=True).fetch_client_keys(ALICE, node=None)
    assert signer.asked == [
        ("user", "alice", False),
        ("user", "alice", True),
        ("tunnel", "t", True),
        ("observer", "o", False),
        ("user", "alice", True),
    ]


async def test_certificates_are_kept_for_two_thirds(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = FakeSigner(lifetime=120)
    provider = SignedCertificates(signer, "c")
    (first,) = await provider.fetch_client_keys(ALICE, node=None)
    assert first.has_cert
    assert list(await provider.fetch_client_keys(ALICE, node=None)) == [first]
    begun = time.time()
    monkeypatch.setattr(time, "time", lambda: begun + 70)
    assert list(await provider.fetch_client_keys(ALICE, node=None)) == [first]
    monkeypatch.setattr(time, "time", lambda: begun + 90)
    (second,) = await provider.fetch_client_keys(ALICE, node=None)
    assert second is not first
    assert len(signer.asked) == 2


def certify(key: asyncssh.SSHKey, principals: list[str], begin: int, end: int) -> str:
    certificate = CA.generate_user_certificate(
        key, "k", principals=principals, valid_after=1000 + begin, valid_before=1000 + end
    )
    return certificate.export_certificate().decode()


def test_certificate_is_checked_here() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    other = asyncssh.generate_private_key("ssh-ed25519")
    good = check_certificate(certify(key, ["alice"], -60, 60), key, "alice", now=1000)
    assert certificate_end(good) == 1060
    for line, why in (
        ("nonsense", "not a certificate"),
        (certify(other, ["alice"], -60, 60), "another key"),
        (certify(key, ["bob"], -60, 60), "another account"),
        (certify(key, ["alice", "bob"], -60, 60), "another account"),
        (certify(key, [], -60, 60), "another account"),
        (certify(key, ["alice"], -60, 0), "clocks"),
        (certify(key, ["alice"], 30, 60), "clocks"),
    ):
        with pytest.raises(ClusterRefused) as caught:
            check_certificate(line, key, "alice", now=1000)
        assert caught.value.reason == "certificate"
        assert why in caught.value.detail


async def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    provider = KeyFileCredentials(path)
    (pair,) = await provider.fetch_client_keys(ALICE, node=None)
    assert pair.public_data == key.public_data
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="0600"):
        await provider.fetch_client_keys(ALICE, node=None)
    path.chmod(0o600)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(path)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with pytest.raises(ConfigurationError, match="passphrase"):
        await provider.fetch_client_keys(ALICE, node=None)
    path.write_text("nothing")
    with pytest.raises(ConfigurationError, match="no private key"):
        await provider.fetch_client_keys(ALICE, node=None)
    path.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await provider.fetch_client_keys(ALICE, node=None)


async def test_roles_choose(site: SshdSite, tmp_path: Path) -> None:
    server = site.open_sshd()
    profile = site.build_profile([server])
    path = tmp_path / "missing"
    roles = profile.roles.model_copy(
        update={
            "observer": profile.roles.observer.model_validate(
                {"name": "observer", "credential": {"kind": "key_file", "path": str(path)}}
            )
        }
    )
    signer = FakeSigner()
    provider = build_credentials(profile.model_copy(update={"roles": roles}), signer)
    with pytest.raises(ConfigurationError):
        await provider.fetch_client_keys(Actor(Role.OBSERVER, "observer"), node=None)
    await provider.fetch_client_keys(Actor(Role.TUNNEL, "tunnel"), node=None)
    await provider.fetch_client_keys(ALICE, node=None)
    assert signer.asked == [("tunnel", "tunnel", True), ("user", "alice", False)]
    without = site.build_profile([server], tunnel_account=False)
    await build_credentials(without, signer).fetch_client_keys(ALICE, node=None)
    assert signer.asked[-1] == ("user", "alice", True)


async def test_signed_certificates_sign_in(site: SshdSite) -> None:
    login, node = site.open_sshd(), site.open_sshd()
    signer = FakeSigner(authority=site.user_ca)
    profile = site.build_profile([login], compute_port=node.port)
    pool = SshPool(profile, build_credentials(profile, signer))
    transport = SshTransport(pool)
    for _ in range(2):  # the second connection uses the kept certificate
        result = await transport.run(
            Actor(Role.USER, site.user), ["id", "-un"], timeout=timedelta(seconds=20)
        )
        assert result.text.strip() == site.user
        login.kill_sessions()
        await asyncio.sleep(0.2)
    connection = await pool.node(site.user, node.host)
    assert str((await connection.run("echo in")).stdout) == "in\n"
    await pool.close()
    assert len(signer.asked) == 3


async def test_key_file_signs_in(site: SshdSite, tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    keys = site.directory / "authorized_keys"
    keys.write_bytes(key.export_public_key())
    server = site.open_sshd(f"AuthorizedKeysFile {keys}")
    pool = SshPool(site.build_profile([server]), KeyFileCredentials(path))
    result = await SshTransport(pool).run(
        Actor(Role.OBSERVER, site.user), ["id", "-un"], timeout=timedelta(seconds=20)
    )
    assert result.text.strip() == site.user
    await pool.close()
