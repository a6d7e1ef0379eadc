"""A store and a registry over a fake cluster, as often as a test restarts them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from gateway.launch.cluster import Patience
from gateway.launch.database import Database
from gateway.launch.progress import Snapshot
from gateway.launch.registry import LaunchRegistry
from gateway.launch.rows import NewLaunch
from gateway.launch.secrets import SecretBox, StartSecrets, new_start_id
from gateway.launch.states import EndReason, LaunchRecord, LaunchState, new_launch_id
from gateway.launch.store import Ensured, LaunchStore
from gateway.observability.metrics import ConnectorMetrics
from gateway.transport.base import Role
from gateway.values.identity import ClusterUser, Identity
from gateway.values.jobs import JobId
from tests.fakes import HURRY, FakeAgent, FakeEdge, FakeWorld

OPTIONS = {
    "cluster": "fjord",
    "partition": "short",
    "environment": "lab",
    "walltime": "01:00:00",
    "cores": 1,
    "memory": "2G",
    "gpus": 0,
}


def build_launch(user: str = "alice", server: str = "", cluster: str = "fjord") -> NewLaunch:
    """A request that was validated."""
    return NewLaunch(
        id=new_launch_id(),
        cluster=cluster,
        identity=Identity("test", user, user),
        server_name=server,
        cluster_user=ClusterUser(cluster, user, 2001),
        options=dict(OPTIONS),
        base_url=f"/user/{user}/",
    )


def build_start(token: str = "token-of-the-server", token_id: str = "a1") -> StartSecrets:
    """Secrets with a token."""
    return StartSecrets(new_start_id(), {"JUPYTERHUB_USER": "alice"}, ("--debug",), token, token_id)


async def open_store(directory: Path) -> LaunchStore:
    """The store in ``directory``, as the connector opens it."""
    box = SecretBox.open(directory / "connector.key")
    database = await Database.open(f"sqlite+aiosqlite:///{directory / 'connector.sqlite'}")
    return LaunchStore(database, box)


def build_metrics() -> ConnectorMetrics:
    """Metrics of one cluster."""
    return ConnectorMetrics(
        ["fjord"],
        states=[state.value for state in LaunchState],
        end_reasons=[reason.value for reason in EndReason],
        roles=[role.value for role in Role],
    )


class Bench:
    """A connector without its door: store and registry over :class:`FakeWorld`."""

    def __init__(self, directory: Path, world: FakeWorld | None = None) -> None:
        self.directory = directory
        self.world = world or FakeWorld()
        self.patience: Patience = HURRY
        self.metrics = build_metrics()
        self._store: LaunchStore | None = None
        self._registry: LaunchRegistry | None = None

    @property
    def store(self) -> LaunchStore:
        assert self._store is not None
        return self._store

    @property
    def registry(self) -> LaunchRegistry:
        assert self._registry is not None
        return self._registry

    async def open(self) -> int:
        """Begin (again) with what the database says."""
        self._store = await open_store(self.directory)
        clusters = {"fjord": self.world.build_cluster(self.patience)}
        self._registry = LaunchRegistry(clusters, self._store, self.metrics)
        return await self._registry.resume()

    async def close(self) -> None:
        """Stop as a killed process would: nothing is said to anybody."""
        if self._registry is not None:
            await self._registry.close()
        if self._store is not None:
            await self._store.close()
        self.world.lose_tunnels()
        self.world.watches.clear()

    async def restart(self) -> int:
        """Close, and open again on the same database."""
        await self.close()
        return await self.open()

    async def ensure(
        self, launch: NewLaunch | None = None, start: StartSecrets | None = None
    ) -> Ensured:
        """Ensure a launch."""
        _, ensured = await self.registry.ensure(launch or build_launch(), start or build_start())
        return ensured

    async def reach(self, launch_id: str, state: LaunchState, seconds: float = 5.0) -> Snapshot:
        """Wait until the launch is in ``state``."""
        return await self.until(launch_id, lambda s: s.record.state is state, seconds)

    async def until(
        self, launch_id: str, holds: Callable[[Snapshot], bool], seconds: float = 5.0
    ) -> Snapshot:
        """Wait until ``holds`` is true of the launch."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            snapshot = await self.registry.fetch(launch_id)
            assert snapshot is not None
            if holds(snapshot):
                return snapshot
            if asyncio.get_running_loop().time() > deadline:
                history = [line.state.value for line in snapshot.record.history]
                raise AssertionError(f"not in time; {history}, {snapshot.words}")
            await asyncio.sleep(0.005)

    async def start_ready(self, start: StartSecrets | None = None) -> tuple[LaunchRecord, JobId]:
        """A launch that is READY, and its job."""
        ensured = await self.ensure(start=start)
        record = (await self.reach(ensured.record.id, LaunchState.READY)).record
        assert record.job_id is not None
        return record, record.job_id

    def agent(self, record: LaunchRecord) -> FakeAgent:
        return self.world.agents[record.id]

    def edge(self, record: LaunchRecord) -> FakeEdge:
        return self.world.edges[record.id]


def list_states(record: LaunchRecord) -> list[str]:
    """The states of the history, in order."""
    return [line.state.value for line in record.history]
