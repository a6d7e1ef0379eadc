"""One site of real sshds for a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.transport.base import Actor, Role
from gateway.transport.credentials import CredentialProvider
from gateway.transport.pool import SshPool
from gateway.transport.ssh import SshTransport
from tests.sshd import Sshd, SshdSite, open_sshd_site


@pytest.fixture(scope="module")
def site() -> Iterator[SshdSite]:
    with open_sshd_site() as opened:
        yield opened


class Opener:
    """Makes pools and transports over real sshds, and closes them at the end."""

    def __init__(self, site: SshdSite) -> None:
        self.site = site
        self.user = Actor(Role.USER, site.user)
        self._pools: list[SshPool] = []
        self._servers: list[Sshd] = []

    def sshd(self, *lines: str, host_certificate: bool = True) -> Sshd:
        server = self.site.open_sshd(*lines, host_certificate=host_certificate)
        self._servers.append(server)
        return server

    def pool(
        self,
        *servers: Sshd,
        credentials: CredentialProvider | None = None,
        idle_seconds: float = 60.0,
        **login: Any,
    ) -> SshPool:
        profile = self.site.build_profile(servers, **login)
        provider = credentials or self.site.credentials()
        pool = SshPool(profile, provider, idle_seconds=idle_seconds)
        self._pools.append(pool)
        return pool

    def transport(self, *servers: Sshd, **options: Any) -> SshTransport:
        return SshTransport(self.pool(*servers, **options))

    async def close(self) -> None:
        for pool in self._pools:
            await pool.close()
        for server in self._servers:
            server.stop()


@pytest.fixture
async def ssh(site: SshdSite) -> AsyncIterator[Opener]:
    opener = Opener(site)
    yield opener
    await opener.close()
