"""A monitor over a scheduler that answers as a test says, on a clock that a test pushes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest

from gateway.errors import ClusterUnavailable
from gateway.schedulers.base import Scheduler
from gateway.schedulers.monitor import JobMonitor, Watch
from gateway.text import text
from gateway.values.jobs import JobEnd, JobId, JobState, JobStatus, Outcome

JOB, OTHER = JobId("17"), JobId("18")
AWAY = ClusterUnavailable(text("The scheduler of the cluster does not answer."))
BEGUN = datetime(2026, 11, 20, 12, tzinfo=UTC)


def status(state: JobState, job: JobId = JOB, **more: object) -> JobStatus:
    return replace(JobStatus(job_id=job, state=state), **more)  # type: ignore[arg-type]


def finished(by: str | None = None, job: JobId = JOB, **more: object) -> JobStatus:
    end = JobEnd(Outcome.CANCELLED, text("The job was cancelled."), cancelled_by=by)
    return status(JobState.FINISHED, job, end=end, **more)


class Clock:
    """A monotonic clock that tests push on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ScriptedScheduler:
    """Answers what the test says; `slow` is by how much the clock moves during a question."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.statuses: dict[JobId, JobStatus] = {}
        self.ends: dict[JobId, JobStatus] = {}
        self.estimates: dict[JobId, datetime] = {}
        self.fault: Exception | None = None
        self.end_fault: Exception | None = None
        self.estimate_fault: Exception | None = None
        self.slow = 0.0
        self.slow_end = 0.0
        self.asked: list[tuple[JobId, ...]] = []
        self.ends_asked: list[JobId] = []
        self.estimates_asked = 0
        self.meanwhile: Callable[[], None] = lambda: None

    async def fetch_statuses(self, jobs: Collection[JobId]) -> Mapping[JobId, JobStatus]:
        # No await: a test moves the clock between questions only.
        self.asked.append(tuple(jobs))
        self.meanwhile()
        self.clock.now += self.slow
        if self.fault is not None:
            raise self.fault
        return {job: self.statuses.get(job, status(JobState.MISSING, job)) for job in jobs}

    async def fetch_end(self, job: JobId) -> JobStatus | None:
        self.ends_asked.append(job)
        self.clock.now += self.slow_end
        if self.end_fault is not None:
            raise self.end_fault
        return self.ends.get(job)

    async def fetch_estimates(self, jobs: Collection[JobId]) -> Mapping[JobId, datetime]:
        self.estimates_asked += 1
        if self.estimate_fault is not None:
            raise self.estimate_fault
        return {job: self.estimates[job] for job in jobs if job in self.estimates}


class Bench:
    """A monitor that runs, its scheduler and its clock."""

    def __init__(self, *, accounting: bool = False) -> None:
        self.clock = Clock()
        self.scheduler = ScriptedScheduler(self.clock)
        self.queries: list[tuple[str, str]] = []
        self.monitor = JobMonitor(
            cast(Scheduler, self.scheduler),
            busy_interval=0.01,
            idle_interval=0.02,
            accounting=accounting,
            metrics=lambda query, outcome, _: self.queries.append((query, outcome)),
            clock=self.clock,
        )

    async def looks(self, count: int = 1) -> None:
        """Wait for so many further looks, and for what follows from the last."""
        goal = len(self.scheduler.asked) + count + 1
        await self.until(lambda: len(self.scheduler.asked) >= goal)

    async def until(self, good: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not good():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.create_task(bench.monitor.run())
    try:
        yield
    finally:
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def reach(watch: Watch, state: JobState) -> JobStatus:
    async with asyncio.timeout(5):
        seen = watch.status
        while seen.state is not state:
            seen = await watch.changed(seen)
    return seen
