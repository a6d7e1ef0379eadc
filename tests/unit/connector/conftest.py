"""A connector's app on a real unix socket, over a fake cluster."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from gateway.connector.app import bind_private_socket, build_app
from gateway.connector.client import ConnectorClient
from gateway.connector.service import ConnectorService, Site
from gateway.errors import GatewayError
from gateway.launch.inventory import Inventory
from gateway.text import text
from gateway.values.identity import ClusterUser, Identity
from tests.fakes import FakeWorld
from tests.launch_bench import Bench


class People:
    """alice and bob have logins; whoever else has none."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def find_cluster_user(self, identity: Identity, cluster: str) -> ClusterUser | None:
        if self.error is not None:
            raise self.error
        known = identity.subject in ("alice", "bob")
        return ClusterUser(cluster, identity.subject, 2001) if known else None


@dataclass
class Door:
    """The connector as the hub meets it."""

    client: ConnectorClient
    socket: Path
    bench: Bench
    people: People
    service: ConnectorService

    @property
    def world(self) -> FakeWorld:
        return self.bench.world

    def fail_with(self, error: GatewayError | Exception) -> None:
        """The next questions about people raise ``error``."""
        self.people.error = error


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    bench = Bench(tmp_path)
    await bench.open()
    people = People()
    inventory = Inventory(bench.world.profile, bench.world, wait=0.2)
    monitor = SimpleNamespace(
        health=SimpleNamespace(state="up", words=text("The scheduler answers."))
    )
    cluster = bench.world.build_cluster(bench.patience)
    service = ConnectorService(
        {"fjord": Site(cluster, inventory, monitor)}, bench.registry, people, bench.metrics
    )
    # The path of a unix socket is short; pytest's directories are not.
    with tempfile.TemporaryDirectory(prefix="lf-") as directory:
        path = Path(directory) / "c.sock"
        runner = web.AppRunner(
            build_app(service), access_log=None, handle_signals=False, shutdown_timeout=0.2
        )
        await runner.setup()
        await web.SockSite(runner, bind_private_socket(path)).start()
        client = ConnectorClient(path, timeout=5)
        yield Door(client, path, bench, people, service)
        await client.close()
        await inventory.close()
        await bench.close()
        await runner.cleanup()
