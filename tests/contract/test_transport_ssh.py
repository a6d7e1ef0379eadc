"""The transport contract over a real sshd, for accounts with bash and with csh."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.transport.base import Actor, Role
from gateway.transport.pool import SshPool
from gateway.transport.ssh import SshTransport
from tests.contract.transport import *  # noqa: F403
from tests.contract.transport import Far
from tests.sshd import Sshd, SshdSite, open_sshd_site


@pytest.fixture(scope="module", params=["/bin/bash", "/bin/sh", "/bin/tcsh"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[SshdSite, Sshd]]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with open_sshd_site(shell=request.param) as site:
        if request.param != "/bin/bash" and not site.has_accounts:
            pytest.skip("needs root: accounts with another login shell")
        yield site, site.open_sshd("MaxSessions 4")


@pytest.fixture
async def far(server: tuple[SshdSite, Sshd]) -> AsyncIterator[Far]:
    site, sshd = server
    profile = site.build_profile([sshd], max_sessions=4)
    transport = SshTransport(SshPool(profile, site.credentials()))
    home = str(site.home_of(site.user)) if site.has_accounts else None
    yield Far(transport, Actor(Role.USER, site.user), channels=4, home=home)
    await transport.close()
