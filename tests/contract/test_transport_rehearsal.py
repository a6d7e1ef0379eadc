"""The transport contract over the rehearsal cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.transport.base import Actor, Role
from gateway.transport.ssh import SshTransport
from tests.contract.transport import *  # noqa: F403
from tests.contract.transport import Far
from tests.unit.rehearsal.site import open_pool, open_site


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Far]:
    async with open_site(tmp_path / "cluster") as site:
        _, pool = open_pool(site, tmp_path, max_sessions=4)
        transport = SshTransport(pool)
        home = str(site.cluster.hosts.home("alice"))
        yield Far(transport, Actor(Role.USER, "alice"), channels=4, home=home)
        await transport.close()
