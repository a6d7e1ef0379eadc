"""Everything a launch needs of one cluster: a frozen record of the seams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from gateway.launch.states import LaunchRecord
from gateway.profiles.models import ClusterProfile
from gateway.schedulers.base import Scheduler
from gateway.text import Words
from gateway.transport.base import Actor, Role, Transport
from gateway.tunnel.base import Tunnel, TunnelOpener
from gateway.tunnel.hub_api_rules import HubApiScope
from gateway.values.jobs import JobId, JobRequest, JobScript, JobStatus


class Watch(Protocol):
    """The newest status of one job."""

    @property
    def status(self) -> JobStatus: ...

    async def changed(self, seen: JobStatus) -> JobStatus:
        """Return the status as soon as it differs from ``seen``."""
        ...


class Monitor(Protocol):
    """Asks the scheduler for all launches at once. FINISHED and MISSING are certain."""

    def watch(
        self, job: JobId, *, seen_before: bool = False, submitted_after: datetime | None = None
    ) -> Watch: ...
    def unwatch(self, job: JobId) -> None: ...
    def ask_soon(self) -> None: ...


class Renderer(Protocol):
    """Makes the job script."""

    def render(self, profile: ClusterProfile, request: JobRequest) -> JobScript: ...


class Edge(Protocol):
    """The launch's loopback address on the hub host."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def connect(self, tunnel: Tunnel) -> None: ...
    def disconnect(self) -> None: ...

    @property
    def bytes_up(self) -> int: ...
    @property
    def bytes_down(self) -> int: ...


class HubApi(Protocol):
    """The hub-API filter, as a launch uses it."""

    async def add(self, launch_id: str, scope: HubApiScope, /) -> Path:
        """Open this launch's socket and return its path; a second call replaces the scope."""
        ...

    async def remove(self, launch_id: str, /) -> None: ...


class JobLogWords(Protocol):
    """What the end of a job's log says of a failure: a reason code and a sentence."""

    @property
    def reason(self) -> str: ...
    @property
    def words(self) -> Words: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds on waiting, in seconds.

    ``submit_grace``: after a submit without a clear answer, how long the job may still appear
    (a full Slurm controller keeps ``sbatch`` waiting for more than a minute, and then submits).
    ``look_again``: between two looks for it. ``announcement``: one look for the agent.
    ``cancel_again``: between two cancels. ``farewell``: for the agent to hear of the end.
    """

    submit_grace: float = 100.0
    look_again: float = 15.0
    announcement: float = 20.0
    command: float = 30.0
    cancel_again: float = 20.0
    farewell: float = 2.0
    backoff_first: float = 0.2
    backoff_limit: float = 30.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The seams of one cluster, and those of the hub host that its launches use."""

    profile: ClusterProfile
    transport: Transport
    scheduler: Scheduler
    monitor: Monitor
    renderer: Renderer
    opener: TunnelOpener
    observer: Actor
    agent_source: bytes = field(repr=False)
    hub_api: HubApi
    build_edge: Callable[[LaunchRecord], Edge]
    parse_job_log: Callable[[str], JobLogWords | None]
    admission: asyncio.Semaphore
    patience: Patience = Patience()

    @property
    def name(self) -> str:
        """The profile's name."""
        return self.profile.name


def build_user_actor(record: LaunchRecord) -> Actor:
    """The cluster user of a launch, as an actor."""
    return Actor(Role.USER, record.cluster_user.name)
