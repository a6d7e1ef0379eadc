"""The authority's key and what it certifies; the authorized_keys line against a real sshd."""

from __future__ import annotations

import subprocess
import time
from datetime import timedelta
from pathlib import Path

import asyncssh
import pytest

from gateway.errors import ClusterRefused, ConfigurationError
from gateway.signer.authority import (
    build_authorized_keys_line,
    certify,
    generate_authority,
    load_authority,
    parse_public_key,
)
from gateway.signer.policy import SignRequest
from tests.sshd import open_sshd_site

NOW = 1_800_000_000


def ask(key: asyncssh.SSHKey, *, forwarding: bool = False, principal: str = "alice") -> SignRequest:
    return SignRequest(
        public_key=key.export_public_key().decode().strip(),
        cluster="perun",
        role="user",
        principal=principal,
        forwarding=forwarding,
    )


def test_authority_is_made_private_and_loads(tmp_path: Path) -> None:
    public = generate_authority(tmp_path / "ca")
    assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ca.pub").read_text().strip() == public
    assert load_authority(tmp_path / "ca").export_public_key().decode().strip() == public
    with pytest.raises(ConfigurationError, match="exists already"):
        generate_authority(tmp_path / "ca")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        generate_authority(tmp_path / "no" / "ca")


def test_readable_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca"
    generate_authority(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 0600"):
        load_authority(path)
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    for bad in (link, tmp_path / "none"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            load_authority(bad)
    path.write_text("nonsense")
    with pytest.raises(ConfigurationError, match="no private key"):
        load_authority(path)


@pytest.mark.parametrize("forwarding", [True, False])
def test_certificate_as_ssh_keygen_reads_it(tmp_path: Path, forwarding: bool) -> None:
    generate_authority(tmp_path / "ca")
    key = asyncssh.generate_private_key("ssh-ed25519")
    line = certify(
        load_authority(tmp_path / "ca"),
        ask(key, forwarding=forwarding),
        lifetime=timedelta(hours=9),  # cut to five minutes
        source_addresses=("192.0.2.1/32", "2001:db8::/64"),
        serial=0xABC,
        now=NOW,
    )
    (tmp_path / "cert.pub").write_text(line + "\n")
    shown = subprocess.run(
        ["ssh-keygen", "-L", "-f", str(tmp_path / "cert.pub")],
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
    ).stdout
    begin, end = (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t)) for t in (NOW - 60, NOW + 300))
    assert f"Valid: from {begin} to {end}" in shown
    assert 'Key ID: "landfall:perun:user:alice:0000000000000abc"' in shown
    assert "Serial: 2748" in shown
    _, _, rest = shown.partition("Principals:")
    principals, _, rest = rest.partition("Critical Options:")
    options, _, extensions = rest.partition("Extensions:")
    assert principals.split() == ["alice"]
    assert options.split() == ["source-address", "192.0.2.1/32,2001:db8::/64"]
    assert extensions.split() == (["permit-port-forwarding"] if forwarding else ["(none)"])


@pytest.mark.parametrize("algorithm", ["ssh-rsa", "ecdsa-sha2-nistp256"])
def test_other_keys_are_refused(algorithm: str) -> None:
    line = asyncssh.generate_private_key(algorithm).export_public_key().decode().strip()
    with pytest.raises(ClusterRefused):
        parse_public_key(line)


@pytest.mark.parametrize("line", ["", "ssh-ed25519 ", "ssh-ed25519 " + "A" * 68, "x\nssh-ed25519"])
def test_broken_keys_are_refused(line: str) -> None:
    with pytest.raises(ClusterRefused):
        parse_public_key(line)


@pytest.mark.parametrize("name", ["", "a,b", 'a"', "Root", "a b"])
def test_line_needs_one_account(name: str) -> None:
    with pytest.raises(ValueError, match="not an account name"):
        build_authorized_keys_line("ssh-ed25519 AAAA", name)


def test_line_needs_a_key() -> None:
    with pytest.raises(ValueError, match="not the public key"):
        build_authorized_keys_line("ssh-ed25519 AAAA", "alice")


async def test_authorized_keys_line_on_a_real_sshd(tmp_path: Path) -> None:
    public = generate_authority(tmp_path / "ca")
    authority = load_authority(tmp_path / "ca")
    with open_sshd_site() as site:
        keys = site.directory / "authorized_keys"
        keys.write_text(build_authorized_keys_line(public, "alice") + "\n")
        keys.chmod(0o644)
        server = site.open_sshd(f"AuthorizedKeysFile {keys}", "TrustedUserCAKeys none")

        async def sign_in(principal: str) -> asyncssh.SSHClientConnection:
            key = asyncssh.generate_private_key("ssh-ed25519")
            line = certify(
                authority,
                ask(key, forwarding=True, principal=principal),
                lifetime=timedelta(minutes=2),
                source_addresses=(),
                serial=1,
                now=int(time.time()),
            )
            pairs = asyncssh.load_keypairs([(key, asyncssh.import_certificate(line))])
            return await asyncssh.connect(
                server.host,
                server.port,
                username=site.user,
                config=None,
                agent_path=None,
                known_hosts=asyncssh.read_known_hosts(str(site.known_hosts)),
                client_keys=[p for p in pairs if p.has_cert],
            )

        async with await sign_in("alice") as connection:
            result = await connection.run("echo in", check=True)
            assert result.stdout == "in\n"
            # Forwarding works, a terminal does not.
            reader, writer = await connection.open_connection(server.host, server.port)
            assert (await reader.read(4)) == b"SSH-"
            writer.close()
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.run("true", term_type="xterm")
        with pytest.raises(asyncssh.PermissionDenied):
            await sign_in("bob")
