"""The seams of a cluster in memory, for tests of what stands above them.

One :class:`FakeWorld` is one cluster: its scheduler, its agents, and what goes wrong there.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.errors import ClusterUnavailable, GatewayError, NotAnnounced
from gateway.launch.cluster import Cluster, Patience
from gateway.launch.states import LaunchRecord
from gateway.profiles.models import ClusterProfile
from gateway.rendering.job_log import parse_job_log
from gateway.schedulers.base import Association, GpuKind, Partition, Reservation
from gateway.text import text
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult, Role
from gateway.tunnel.base import (
    AgentPhase,
    ByteReader,
    ByteWriter,
    ServerStart,
    Tunnel,
    TunnelTarget,
)
from gateway.tunnel.hub_api_rules import HubApiScope
from gateway.values.endpoints import Announcement
from gateway.values.jobs import JobEnd, JobId, JobRequest, JobScript, JobState, JobStatus, Outcome
from gateway.values.resources import MemorySize

HURRY = Patience(
    submit_grace=0.05,
    look_again=0.02,
    announcement=0.05,
    command=1.0,
    cancel_again=0.1,
    farewell=0.2,
    backoff_first=0.01,
    backoff_limit=0.05,
)
UNAVAILABLE = text("The cluster does not answer.")


def build_profile(
    name: str = "fjord", *, start_deadline: timedelta = timedelta(minutes=5)
) -> ClusterProfile:
    """A cluster profile with one partition and one environment."""
    profile = ClusterProfile.model_validate(
        {
            "name": name,
            "title": {"en": "Fjord", "fr": "Fjord"},
            "scheduler": {"kind": "slurm", "command_timeout": "1s"},
            "login": {"hosts": [{"host": "login"}], "known_hosts": "/nowhere"},
            "roles": {"observer": {"name": "observer"}},
            "partitions": {
                "short": {
                    "max_walltime": "8h",
                    "max_cores": 4,
                    "max_memory": "8G",
                    "max_gpus": 1,
                }
            },
            "environments": {"lab": {"title": {"en": "Lab", "fr": "Lab"}}},
        }
    )
    return profile.model_copy(
        update={
            "start_deadline": start_deadline,
            "scheduler": profile.scheduler.model_copy(
                update={"command_timeout": timedelta(seconds=0.05)}
            ),
        }
    )


class FakeWatch:
    """The newest status of one job."""

    def __init__(self, status: JobStatus) -> None:
        self.status = status
        self._event = asyncio.Event()

    def set(self, status: JobStatus) -> None:
        self.status = status
        self._event.set()
        self._event = asyncio.Event()

    async def changed(self, seen: JobStatus) -> JobStatus:
        while self.status == seen:
            await self._event.wait()
        return self.status


@dataclass
class FakeAgent:
    """The agent of one run of one job."""

    nonce: str = field(default_factory=lambda: secrets.token_hex(16))
    phase: AgentPhase = field(default_factory=lambda: AgentPhase("waiting"))
    start: ServerStart | None = None
    stopped: bool = False
    tunnels: list[FakeTunnel] = field(default_factory=list)

    def set_phase(self, phase: AgentPhase) -> None:
        self.phase = phase
        for tunnel in self.tunnels:
            tunnel.wake()


class FakeTunnel:
    """One open tunnel to an agent."""

    def __init__(self, target: TunnelTarget, agent: FakeAgent, world: FakeWorld) -> None:
        self.target = target
        self.agent = agent
        self.world = world
        self.closed = asyncio.Event()
        self._wake = asyncio.Event()
        agent.tunnels.append(self)

    @property
    def announcement(self) -> Announcement:
        return Announcement(self.target.launch_id, 1, "n1", 1, "/tmp/lf", self.agent.nonce)

    @property
    def phase(self) -> AgentPhase:
        return self.agent.phase

    def wake(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    def lose(self) -> None:
        self.closed.set()
        if self in self.agent.tunnels:
            self.agent.tunnels.remove(self)
        self.wake()

    async def send_start(self, start: ServerStart) -> AgentPhase:
        self._check()
        if self.agent.start is None:
            self.agent.start = start
            self.agent.set_phase(AgentPhase("starting", start.start_id))
            if self.world.servers_listen:
                self.agent.set_phase(AgentPhase("listening", start.start_id))
        return self.agent.phase

    async def send_stop(self) -> None:
        self._check()
        self.agent.stopped = True

    async def wait_phase_change(self, seen: AgentPhase) -> AgentPhase:
        while self.agent.phase == seen:
            self._check()
            await self._wake.wait()
        self._check()
        return self.agent.phase

    async def open_stream(self) -> tuple[ByteReader, ByteWriter]:
        raise ClusterUnavailable(UNAVAILABLE)

    async def wait_closed(self) -> None:
        await self.closed.wait()

    async def close(self) -> None:
        self.lose()

    def _check(self) -> None:
        if self.closed.is_set():
            raise ClusterUnavailable(UNAVAILABLE, reason="tunnel_lost")


class FakeEdge:
    """A loopback address that only remembers."""

    def __init__(self, record: LaunchRecord) -> None:
        self.record = record
        self.is_open = False
        self.tunnel: Tunnel | None = None
        self.bytes_up = 0
        self.bytes_down = 0

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False
        self.tunnel = None

    def connect(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel

    def disconnect(self) -> None:
        self.tunnel = None


class FakeHubApi:
    """The hub-API filter's scopes."""

    def __init__(self) -> None:
        self.scopes: dict[str, HubApiScope] = {}

    async def add(self, launch_id: str, scope: HubApiScope, /) -> Path:
        self.scopes[launch_id] = scope
        return Path("/run") / launch_id

    async def remove(self, launch_id: str, /) -> None:
        self.scopes.pop(launch_id, None)


class FakeRenderer:
    """A script that names its launch."""

    def render(self, profile: ClusterProfile, request: JobRequest) -> JobScript:
        return JobScript(f"#!/bin/sh\n# {profile.name} {request.launch_id}\n")


class FakeWorld:
    """One cluster in memory: Scheduler, Monitor, Transport and TunnelOpener in one.

    ``jobs`` maps every job to its name and owner. ``starts_at_once`` lets a job run when it is
    submitted. Errors in ``submit_errors`` and so on are raised once each, in order; one in
    ``lost_submits`` is raised after the job was made.
    """

    def __init__(self, profile: ClusterProfile | None = None) -> None:
        self.profile = profile or build_profile()
        self.jobs: dict[JobId, tuple[str, str]] = {}
        self.requests: dict[JobId, JobRequest] = {}
        self.watches: dict[JobId, FakeWatch] = {}
        self.submitted_after: dict[JobId, datetime | None] = {}
        self.statuses: dict[JobId, JobStatus] = {}
        self.agents: dict[str, FakeAgent] = {}
        self.edges: dict[str, FakeEdge] = {}
        self.hub_api = FakeHubApi()
        self.starts_at_once = True
        self.announces = True
        self.servers_listen = True
        self.cancel_works = True
        self.submit_blocks: asyncio.Event | None = None
        self.submits = 0
        self.cancels: list[JobId] = []
        self.opens = 0
        self.prunes: list[str] = []
        self.submit_errors: list[GatewayError] = []
        self.lost_submits: list[GatewayError] = []
        self.find_errors: list[GatewayError] = []
        self.cancel_errors: list[GatewayError] = []
        self.open_errors: list[GatewayError] = []
        self.run_errors: list[GatewayError] = []
        self.log = ""
        self._numbers = itertools.count(1001)

    def build_cluster(self, patience: Patience = HURRY) -> Cluster:
        """The cluster record over this world."""
        return Cluster(
            profile=self.profile,
            transport=self,
            scheduler=self,
            monitor=self,
            renderer=FakeRenderer(),
            opener=FakeOpener(self),
            observer=Actor(Role.OBSERVER, "observer"),
            agent_source=b"# agent\n",
            hub_api=self.hub_api,
            build_edge=self._build_edge,
            parse_job_log=parse_job_log,
            admission=asyncio.Semaphore(4),
            patience=patience,
        )

    def _build_edge(self, record: LaunchRecord) -> FakeEdge:
        return self.edges.setdefault(record.id, FakeEdge(record))

    # What happens on the cluster

    def set_status(self, job: JobId, state: JobState, **changes: object) -> None:
        """The scheduler says something new of ``job``."""
        former = self.statuses.get(job, JobStatus(job, state))
        status = replace(former, state=state, **changes)  # type: ignore[arg-type]
        self.statuses[job] = status
        if job in self.watches:
            self.watches[job].set(status)

    def run_job(self, job: JobId, node: str = "n1", restarts: int = 0) -> FakeAgent:
        """``job`` starts, with a new agent."""
        launch_id = self.jobs[job][0].removeprefix("lf-")
        agent = self.agents[launch_id] = FakeAgent()
        self.set_status(
            job,
            JobState.RUNNING,
            batch_node=node,
            nodes=(node,),
            restarts=restarts,
            started_at=datetime.now(UTC),
        )
        return agent

    def end_job(self, job: JobId, outcome: Outcome, **end: object) -> None:
        """``job`` is over."""
        words = text("The job ended: {outcome}.", outcome=outcome.value)
        self.set_status(
            job,
            JobState.FINISHED,
            end=JobEnd(outcome, words, **end),  # type: ignore[arg-type]
        )
        agent = self.agents.pop(self.jobs[job][0].removeprefix("lf-"), None)
        for tunnel in list(agent.tunnels) if agent else []:
            tunnel.lose()

    def lose_tunnels(self) -> None:
        """Every tunnel breaks."""
        for agent in self.agents.values():
            for tunnel in list(agent.tunnels):
                tunnel.lose()

    # Scheduler

    async def submit(self, actor: Actor, request: JobRequest, script: JobScript) -> JobId:
        self.submits += 1
        if self.submit_errors:
            raise self.submit_errors.pop(0)
        job = JobId(str(next(self._numbers)))
        self.jobs[job] = (request.name, actor.name)
        self.requests[job] = request
        self.set_status(job, JobState.PENDING, name=request.name, owner=actor.name)
        if self.submit_blocks is not None:
            await self.submit_blocks.wait()
        if self.starts_at_once:
            self.run_job(job)
        if self.lost_submits:
            raise self.lost_submits.pop(0)
        return job

    async def find_by_name(self, actor: Actor, name: str) -> tuple[JobId, ...]:
        if self.find_errors:
            raise self.find_errors.pop(0)
        return tuple(job for job, owned in self.jobs.items() if owned == (name, actor.name))

    async def fetch_statuses(self, jobs: Collection[JobId]) -> Mapping[JobId, JobStatus]:
        return {job: self.statuses.get(job, JobStatus(job, JobState.MISSING)) for job in jobs}

    async def fetch_end(self, job: JobId) -> JobStatus | None:
        return None

    async def fetch_estimates(self, jobs: Collection[JobId]) -> Mapping[JobId, datetime]:
        return {}

    async def cancel(self, actor: Actor, job: JobId) -> None:
        self.cancels.append(job)
        if self.cancel_errors:
            raise self.cancel_errors.pop(0)
        status = self.statuses.get(job)
        if self.cancel_works and status is not None and status.state is not JobState.FINISHED:
            self.end_job(job, Outcome.CANCELLED)

    async def fetch_partitions(self) -> tuple[Partition, ...]:
        if self.run_errors:
            raise self.run_errors.pop(0)
        return (
            Partition(
                name="short",
                up=True,
                default=True,
                max_walltime=timedelta(hours=4),
                default_walltime=None,
                cores_total=8,
                cores_free=3,
                cores_largest_node=4,
                memory_largest_node=MemorySize.parse("4G"),
                nodes_total=2,
                nodes_free=1,
                gpus=(GpuKind("a100", 1, 1, 1),),
            ),
        )

    async def fetch_associations(self, user: str) -> tuple[Association, ...]:
        return (Association("physics", ("normal",), default=True),)

    async def fetch_reservations(self, user: str) -> tuple[Reservation, ...]:
        return ()

    async def fetch_version(self) -> str:
        return "slurm 23.11.4"

    # Monitor

    def watch(
        self, job: JobId, *, seen_before: bool = False, submitted_after: datetime | None = None
    ) -> FakeWatch:
        self.submitted_after[job] = submitted_after
        status = self.statuses.get(job, JobStatus(job, JobState.UNKNOWN))
        return self.watches.setdefault(job, FakeWatch(status))

    def unwatch(self, job: JobId) -> None:
        self.watches.pop(job, None)

    def ask_soon(self) -> None:
        """The fake is always up to date."""

    # Transport

    async def run(
        self,
        actor: Actor,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta,
        output_limit: int = OUTPUT_LIMIT,
    ) -> CommandResult:
        if self.run_errors:
            raise self.run_errors.pop(0)
        stdout = ""
        if "landfall-prepare" in argv:
            base, launch_id = argv[4], argv[5]
            stdout = f"directory=/home/{actor.name}/{base}/launches/{launch_id}\n"
        elif "landfall-prune" in argv:
            self.prunes.append(argv[4])
        elif argv[0] == "tail":
            stdout = self.log
        return CommandResult(tuple(argv), 0, stdout.encode(), b"", 0.0)

    async def close(self) -> None:
        self.lose_tunnels()


class FakeOpener:
    """Opens tunnels into a :class:`FakeWorld`."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    async def open(self, target: TunnelTarget, *, timeout: float) -> Tunnel:
        world = self.world
        world.opens += 1
        if world.open_errors:
            raise world.open_errors.pop(0)
        agent = world.agents.get(target.launch_id)
        if not world.announces or agent is None or agent.nonce == target.stale_nonce:
            await asyncio.sleep(0.01)
            raise NotAnnounced(text("The agent is not there yet."))
        return FakeTunnel(target, agent, world)

    async def close(self) -> None:
        self.world.lose_tunnels()
