"""The seam to a batch scheduler."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from gateway.transport.base import Actor
from gateway.values.jobs import JobId, JobRequest, JobScript, JobStatus
from gateway.values.resources import MemorySize


@dataclass(frozen=True, slots=True)
class GpuKind:
    """GPUs of one kind in a partition; ``kind`` is ``None`` for untyped ones."""

    kind: str | None
    total: int
    free: int
    largest_node: int


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition (PBS, Grid Engine: queue) as the scheduler describes it now.

    ``None`` for a limit means that the scheduler names none. ``cores_largest_node`` and
    ``memory_largest_node`` bound a one-node job. ``allowed_accounts`` and ``allowed_qos`` are
    ``None`` when all are allowed; ``allowed_groups`` are POSIX groups.
    """

    name: str
    up: bool
    default: bool
    max_walltime: timedelta | None
    default_walltime: timedelta | None
    cores_total: int
    cores_free: int
    cores_largest_node: int
    memory_largest_node: MemorySize | None
    nodes_total: int
    nodes_free: int
    gpus: tuple[GpuKind, ...] = ()
    allowed_accounts: frozenset[str] | None = None
    allowed_qos: frozenset[str] | None = None
    allowed_groups: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Association:
    """An account that a cluster user may charge, and its QoS; ``partition`` narrows it."""

    account: str
    qos: tuple[str, ...] = ()
    default_qos: str | None = None
    default: bool = False
    partition: str | None = None
    max_walltime: timedelta | None = None
    max_jobs: int | None = None
    max_submitted: int | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """The scheduler's reservation object; times are aware UTC datetimes."""

    name: str
    starts_at: datetime
    ends_at: datetime
    active: bool
    nodes: int
    partition: str | None
    users: frozenset[str]
    accounts: frozenset[str]
    maintenance: bool


class Scheduler(Protocol):
    """One cluster's scheduler.

    The contract, which ``tests/contract/scheduler.py`` checks for every implementation. All
    methods raise only :class:`~gateway.errors.GatewayError`; ``ClusterUnavailable`` means that
    the scheduler did not answer and that *nothing* follows from it.
    """

    async def submit(self, actor: Actor, request: JobRequest, script: JobScript) -> JobId:
        """Submit; what the user chose goes on the submit command's argv, the script on stdin.

        :raises RequestRejected: the scheduler refused; its own words are in the message.
        :raises SubmitAmbiguous: no clear answer; the job may exist. Never retry before
            :meth:`find_by_name` has answered.
        """
        ...

    async def find_by_name(self, actor: Actor, name: str) -> tuple[JobId, ...]:
        """All jobs of that name owned by ``actor`` that the scheduler still knows, in any state,
        oldest first; empty only when a controller answered that there is none. A submit that was
        cut off may still be under way: an empty answer counts only after its time-out."""
        ...

    async def fetch_statuses(self, jobs: Collection[JobId]) -> Mapping[JobId, JobStatus]:
        """The status of every job asked for, in one query; one not listed has state MISSING."""
        ...

    async def fetch_end(self, job: JobId) -> JobStatus | None:
        """What the accounting knows of a job that is gone from the queue: FINISHED with its end,
        or the live state when its record says that it has not ended; ``None`` when it has no
        (usable) record of it."""
        ...

    async def fetch_estimates(self, jobs: Collection[JobId]) -> Mapping[JobId, datetime]:
        """When the scheduler expects pending jobs to start; jobs without estimate are absent."""
        ...

    async def cancel(self, actor: Actor, job: JobId) -> None:
        """Cancel; a job that has already ended is no error.

        :raises RequestRejected: the job is not the actor's.
        """
        ...

    async def fetch_partitions(self) -> tuple[Partition, ...]:
        """All partitions, with limits and what is free now."""
        ...

    async def fetch_associations(self, user: str) -> tuple[Association, ...]:
        """What ``user`` may charge; empty where the cluster keeps no accounts."""
        ...

    async def fetch_reservations(self, user: str) -> tuple[Reservation, ...]:
        """Reservations that ``user`` may use, now or later, and maintenance ones."""
        ...

    async def fetch_version(self) -> str:
        """The scheduler's name and version, as it prints it."""
        ...
