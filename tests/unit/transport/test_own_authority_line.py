"""Sites that cannot change sshd_config: a ``cert-authority`` line in the user's own
``authorized_keys``, as the installation guide gives it; tunnels then run as the user."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.errors import ClusterRefused
from gateway.transport.ssh import SshTransport
from tests.unit.transport.conftest import Opener

GUIDE = Path(__file__).parents[3] / "docs" / "install.md"
LIMIT = timedelta(seconds=10)


def write_line(ssh: Opener) -> tuple[str, str]:
    """The guide's line for the site's user; what sshd is told, which trusts no authority."""
    found = re.search(r'^(cert-authority,\S+)"u104312" ', GUIDE.read_text(), re.MULTILINE)
    assert found
    user, authority = ssh.site.user, ssh.site.user_ca_path.read_text().strip()
    (ssh.site.home_of(user) / "authorized").write_text(f'{found[1]}"{user}" {authority}\n')
    return "TrustedUserCAKeys none", f"AuthorizedKeysFile {ssh.site.home}/%u/authorized"


async def test_commands_and_forwarding_as_the_user(ssh: Opener, tmp_path: Path) -> None:
    lines = write_line(ssh)
    login, node = ssh.sshd(*lines), ssh.sshd(*lines)
    pool = ssh.pool(login, compute_port=node.port, tunnel_account=False)
    result = await SshTransport(pool).run(ssh.user, ["id", "-un"], timeout=LIMIT)
    assert result.text.strip() == ssh.site.user
    connection = await pool.node(ssh.site.user, node.host)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()
        await writer.wait_closed()

    here, there = str(tmp_path / "here"), str(ssh.site.home_of(ssh.site.user) / "there")
    async with (
        asyncio.timeout(10),
        await asyncio.start_unix_server(answer, here),
        await connection.forward_remote_path(there, here),
    ):
        reader, writer = await connection.open_unix_connection(there)
        assert await reader.read() == b"here"
        writer.close()
    connection.close()
    await asyncio.wait_for(connection.wait_closed(), 5)


async def test_a_certificate_for_another_principal_does_not_sign_in(ssh: Opener) -> None:
    login = ssh.sshd(*write_line(ssh))
    pool = ssh.pool(login, credentials=ssh.site.credentials(principal="bob"))
    with pytest.raises(ClusterRefused) as refused:
        await SshTransport(pool).run(ssh.user, ["true"], timeout=LIMIT)
    assert refused.value.reason == "sign_in"
