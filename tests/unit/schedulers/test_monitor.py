"""The monitor: what it concludes, and how often it asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from gateway.errors import ClusterRefused, ClusterUnavailable
from gateway.schedulers import monitor as module
from gateway.schedulers.base import Scheduler
from gateway.schedulers.monitor import HealthState, JobMonitor, Watch
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


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "COALESCE", timedelta(milliseconds=1))
    made = Bench()
    async with running(made):
        yield made


async def reach(watch: Watch, state: JobState) -> JobStatus:
    async with asyncio.timeout(5):
        seen = watch.status
        while seen.state is not state:
            seen = await watch.changed(seen)
    return seen


async def test_one_query_for_all(bench: Bench) -> None:
    bench.scheduler.statuses = {
        JOB: status(JobState.RUNNING),
        OTHER: status(JobState.PENDING, OTHER),
    }
    first, second = bench.monitor.watch(JOB), bench.monitor.watch(OTHER)
    assert first.status == JobStatus(job_id=JOB, state=JobState.UNKNOWN)
    assert bench.monitor.watch(JOB) is first
    await reach(first, JobState.RUNNING)
    await reach(second, JobState.PENDING)
    assert set(bench.scheduler.asked[0]) == {JOB, OTHER}
    bench.monitor.unwatch(OTHER)
    bench.monitor.unwatch(OTHER)
    await bench.looks()
    assert bench.scheduler.asked[-1] == (JOB,)
    assert ("statuses", "ok") in bench.queries


async def test_nothing_to_watch_asks_nothing(bench: Bench) -> None:
    bench.monitor.ask_soon()
    await asyncio.sleep(0.05)
    assert bench.scheduler.asked == []
    assert bench.monitor.health.state is HealthState.UP


async def test_no_answer_changes_nothing(bench: Bench) -> None:
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    watch = bench.monitor.watch(JOB)
    seen = await reach(watch, JobState.RUNNING)
    bench.scheduler.fault = AWAY
    await bench.looks(2)
    assert watch.status == seen
    health = bench.monitor.health
    assert health.state is HealthState.DOWN
    assert str(health.words) == str(AWAY.user_message)
    bench.clock.now += 3600
    await bench.looks()
    assert watch.status == seen
    assert bench.monitor.health.since == health.since
    assert ("statuses", "cluster_unavailable") in bench.queries
    bench.scheduler.fault = None
    await bench.until(lambda: bench.monitor.health.state is HealthState.UP)


async def test_an_answer_not_understood_changes_nothing(bench: Bench) -> None:
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    watch = bench.monitor.watch(JOB)
    await reach(watch, JobState.RUNNING)
    bench.scheduler.fault = ClusterRefused(text("Garbled."), reason="not_understood")
    await bench.looks(3)
    assert watch.status.state is JobState.RUNNING


async def test_missing_needs_looks_and_time(bench: Bench) -> None:
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING, batch_node="c1")}
    watch = bench.monitor.watch(JOB)
    await reach(watch, JobState.RUNNING)
    bench.scheduler.statuses.clear()
    seen = await reach(watch, JobState.UNKNOWN)
    assert seen.batch_node == "c1"
    await bench.looks(5)
    assert watch.status == seen
    bench.clock.now += 29
    await bench.looks(2)
    assert watch.status == seen
    bench.clock.now += 2
    missing = await reach(watch, JobState.MISSING)
    # Final: what comes later does not change it, and nobody is asked about it any more.
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    asked = len(bench.scheduler.asked)
    await asyncio.sleep(0.06)
    assert watch.status == missing
    assert len(bench.scheduler.asked) <= asked + 1


async def test_time_alone_is_not_enough(bench: Bench) -> None:
    """A pause of the whole process is no look."""
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    watch = bench.monitor.watch(JOB)
    await reach(watch, JobState.RUNNING)
    bench.scheduler.statuses.clear()
    bench.scheduler.slow = 40
    await reach(watch, JobState.UNKNOWN)
    assert len(bench.scheduler.ends_asked) <= 2


async def test_a_job_listed_again_starts_afresh(bench: Bench) -> None:
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    watch = bench.monitor.watch(JOB)
    await reach(watch, JobState.RUNNING)
    bench.scheduler.statuses.clear()
    await reach(watch, JobState.UNKNOWN)
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    await reach(watch, JobState.RUNNING)
    assert watch.evidence.absent_looks == 0


async def test_a_job_never_seen_is_never_missing(bench: Bench) -> None:
    watch = bench.monitor.watch(JOB)
    for _ in range(5):
        await bench.looks()
        bench.clock.now += 600
    assert watch.status.state is JobState.UNKNOWN


async def test_seen_in_an_earlier_life(bench: Bench) -> None:
    bench.monitor.watch(JOB)
    watch = bench.monitor.watch(JOB, seen_before=True)
    await bench.looks(3)
    bench.clock.now += 31
    await reach(watch, JobState.MISSING)


async def test_the_accounting_confirms(bench: Bench) -> None:
    bench.scheduler.end_fault = AWAY
    watch = bench.monitor.watch(JOB)
    await bench.looks(2)
    assert ("end", "cluster_unavailable") in bench.queries
    bench.scheduler.end_fault = None
    bench.scheduler.ends = {JOB: finished("alice")}
    await bench.looks()
    assert watch.status.state is JobState.UNKNOWN  # asked again after a while only
    bench.clock.now += 6
    seen = await reach(watch, JobState.FINISHED)
    assert seen.end is not None
    assert seen.end.cancelled_by == "alice"


async def test_the_accounting_is_asked_more_and_more_rarely(bench: Bench) -> None:
    bench.monitor.watch(JOB)
    for _ in range(40):
        await bench.looks()
        bench.clock.now += 6
    assert 8 <= len(bench.scheduler.ends_asked) <= 16


async def test_an_older_record_is_of_another_job(bench: Bench) -> None:
    watch = bench.monitor.watch(JOB, submitted_after=BEGUN)
    bench.scheduler.ends = {JOB: finished(submitted_at=BEGUN - timedelta(days=90))}
    await bench.looks(2)
    assert watch.status.state is JobState.UNKNOWN
    bench.scheduler.ends = {JOB: finished(submitted_at=BEGUN + timedelta(seconds=1))}
    bench.clock.now += 6
    await reach(watch, JobState.FINISHED)


async def lose_sight(bench: Bench, *jobs: JobId) -> list[Watch]:
    """Every job is seen, and then the answers list none of them."""
    bench.scheduler.statuses = {job: status(JobState.RUNNING, job) for job in jobs}
    watches = [bench.monitor.watch(job) for job in jobs]
    for watch in watches:
        await reach(watch, JobState.RUNNING)
    bench.scheduler.statuses.clear()
    for watch in watches:
        await reach(watch, JobState.UNKNOWN)
    await bench.looks(3)
    return watches


async def test_what_the_accounting_says_lives_is_not_missing(bench: Bench) -> None:
    watch, other = await lose_sight(bench, JOB, OTHER)
    bench.scheduler.ends = {JOB: status(JobState.RUNNING)}
    for _ in range(20):
        bench.clock.now += 61
        await bench.looks(2)
        if bench.clock.now > 1300:
            bench.scheduler.end_fault = AWAY  # its last word stands while it is away
    assert watch.status.state is JobState.UNKNOWN
    await reach(other, JobState.MISSING)
    bench.scheduler.end_fault = None
    bench.scheduler.ends = {JOB: finished()}
    bench.clock.now += 61
    await reach(watch, JobState.FINISHED)


async def test_a_record_that_was_never_closed_is_not_believed_for_ever(bench: Bench) -> None:
    watch, other = await lose_sight(bench, JOB, OTHER)
    bench.scheduler.statuses = {OTHER: status(JobState.RUNNING, OTHER)}
    await reach(other, JobState.RUNNING)
    bench.scheduler.ends = {JOB: status(JobState.RUNNING, ends_at=BEGUN - timedelta(days=9000))}
    bench.clock.now += 901
    await reach(watch, JobState.MISSING)


async def test_a_record_of_an_earlier_job_says_nothing_of_this_one(bench: Bench) -> None:
    watch = bench.monitor.watch(JOB, seen_before=True, submitted_after=BEGUN)
    bench.scheduler.ends = {
        JOB: status(JobState.RUNNING, submitted_at=BEGUN - timedelta(days=90)),
    }
    await bench.looks(3)
    bench.clock.now += 31
    await reach(watch, JobState.MISSING)


@pytest.mark.parametrize(("jobs", "accounting"), [((JOB, OTHER), False), ((JOB,), True)])
async def test_an_observer_that_sees_nothing_any_more_is_believed_late(
    monkeypatch: pytest.MonkeyPatch, jobs: tuple[JobId, ...], accounting: bool
) -> None:
    monkeypatch.setattr(module, "COALESCE", timedelta(milliseconds=1))
    bench = Bench(accounting=accounting)
    async with running(bench):
        watches = await lose_sight(bench, *jobs)
        for _ in range(14):
            bench.clock.now += 60
            await bench.looks(2)
        assert [watch.status.state for watch in watches] == [JobState.UNKNOWN] * len(jobs)
        bench.clock.now += 120
        for watch in watches:
            await reach(watch, JobState.MISSING)


async def test_one_of_several_that_vanishes_is_believed_soon(bench: Bench) -> None:
    bench.scheduler.statuses = {
        JOB: status(JobState.RUNNING),
        OTHER: status(JobState.RUNNING, OTHER),
    }
    watch, other = bench.monitor.watch(JOB), bench.monitor.watch(OTHER)
    await reach(watch, JobState.RUNNING)
    await reach(other, JobState.RUNNING)
    del bench.scheduler.statuses[JOB]
    await reach(watch, JobState.UNKNOWN)
    await bench.looks(3)
    bench.clock.now += 31
    await reach(watch, JobState.MISSING)
    assert other.status.state is JobState.RUNNING


async def test_missing_waits_for_the_accountings_turn(bench: Bench) -> None:
    """Of many absent jobs only some are asked about in one tick."""
    jobs = [JobId(str(number)) for number in range(100, 160)]
    seen = status(JobState.RUNNING)
    bench.scheduler.statuses = {job: replace(seen, job_id=job) for job in [*jobs, JOB]}
    watches = [bench.monitor.watch(job) for job in jobs]
    await reach(bench.monitor.watch(JOB), JobState.RUNNING)
    bench.scheduler.ends = {job: replace(seen, job_id=job) for job in jobs}
    bench.scheduler.statuses = {JOB: seen}
    await reach(watches[-1], JobState.UNKNOWN)
    bench.clock.now += 1000
    await bench.looks(12)
    assert set(bench.scheduler.ends_asked) == set(jobs)
    assert {watch.status.state for watch in watches} == {JobState.UNKNOWN}


async def test_a_record_that_is_not_final(bench: Bench) -> None:
    bench.scheduler.ends = {JOB: status(JobState.RUNNING)}
    watch = bench.monitor.watch(JOB)
    await bench.looks(2)
    assert watch.status.state is JobState.UNKNOWN


@pytest.mark.parametrize("known", [True, False])
async def test_the_end_is_told_once_and_in_full(bench: Bench, known: bool) -> None:
    bench.scheduler.statuses = {JOB: finished()}
    if known:
        bench.scheduler.ends = {JOB: finished("bob")}
    else:
        bench.scheduler.end_fault = AWAY
    seen = await reach(bench.monitor.watch(JOB), JobState.FINISHED)
    assert seen.end is not None
    assert seen.end.cancelled_by == ("bob" if known else None)


async def test_a_slow_accounting_does_not_hold_up(bench: Bench) -> None:
    jobs = [JobId(str(number)) for number in range(1, 31)]
    bench.scheduler.statuses = {job: finished(job=job) for job in jobs}
    bench.scheduler.slow_end = 6
    watches = [bench.monitor.watch(job) for job in jobs]
    for watch in watches:
        await reach(watch, JobState.FINISHED)
    assert len(bench.scheduler.ends_asked) == 2
    assert len(bench.scheduler.asked) == 1


async def test_unwatched_while_asked(bench: Bench) -> None:
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    bench.scheduler.meanwhile = lambda: bench.monitor.unwatch(JOB)
    watch = bench.monitor.watch(JOB)
    await bench.until(lambda: bool(bench.scheduler.asked))
    await asyncio.sleep(0.03)
    assert watch.status.state is JobState.UNKNOWN
    assert len(bench.scheduler.asked) == 1


async def test_estimates(bench: Bench) -> None:
    bench.scheduler.statuses = {JOB: status(JobState.PENDING)}
    bench.scheduler.estimates = {JOB: BEGUN}
    watch = bench.monitor.watch(JOB)
    await bench.looks(3)
    assert watch.status.estimated_start == BEGUN
    assert bench.scheduler.estimates_asked == 1
    bench.scheduler.estimates = {}
    bench.clock.now += 31
    await bench.looks(3)
    assert watch.status.estimated_start is None
    assert bench.scheduler.estimates_asked == 2
    bench.scheduler.estimate_fault = AWAY
    bench.clock.now += 31
    await bench.looks(2)
    assert ("estimates", "cluster_unavailable") in bench.queries
    assert bench.monitor.health.state is HealthState.UP


async def test_a_fault_of_our_own_is_told_and_survived(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.scheduler.fault = KeyError("oops")
    with caplog.at_level(logging.ERROR):
        watch = bench.monitor.watch(JOB)
        await bench.until(lambda: bench.monitor.health.state is HealthState.DOWN)
    assert "Traceback" in caplog.text
    assert "oops" in bench.monitor.health.detail
    bench.scheduler.fault = None
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    await reach(watch, JobState.RUNNING)


async def test_slow(bench: Bench) -> None:
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    bench.scheduler.slow = 7
    bench.monitor.watch(JOB)
    await bench.until(lambda: bench.monitor.health.state is HealthState.SLOW)
    assert "7 s" in str(bench.monitor.health.words)


@pytest.mark.parametrize(
    ("state", "slow", "failures", "pause"),
    [
        (JobState.RUNNING, 0.01, 0, 30.0),
        (JobState.SUSPENDED, 0.01, 0, 30.0),
        (JobState.PENDING, 0.01, 0, 1.5),
        (JobState.ENDING, 0.01, 0, 1.5),
        (JobState.UNKNOWN, 0.01, 0, 1.5),
        (JobState.PENDING, 2.0, 0, 8.0),
        (JobState.PENDING, 0.01, 1, 3.0),
        (JobState.PENDING, 0.01, 3, 12.0),
        (JobState.PENDING, 10.0, 1, 40.0),
        (JobState.PENDING, 0.01, 50, 60.0),
        (JobState.PENDING, 30.0, 0, 60.0),
    ],
)
async def test_pauses(state: JobState, slow: float, failures: int, pause: float) -> None:
    monitor = JobMonitor(cast(Scheduler, ScriptedScheduler(Clock())))
    monitor.watch(JOB).tell(status(state))
    monitor._last_duration = slow
    monitor._failures = failures
    assert monitor._choose_pause() == pause


async def test_wishes_are_gathered() -> None:
    """At once after a wish, together with those of the next 0.3 s."""
    bench = Bench()
    bench.monitor = JobMonitor(cast(Scheduler, bench.scheduler), clock=bench.clock)
    bench.scheduler.statuses = {JOB: status(JobState.RUNNING)}
    async with running(bench):
        watch = bench.monitor.watch(JOB)
        await reach(watch, JobState.RUNNING)
        bench.scheduler.statuses[JOB] = status(JobState.SUSPENDED)
        started = asyncio.get_running_loop().time()
        for _ in range(5):
            bench.monitor.ask_soon()
            await asyncio.sleep(0.02)
        await reach(watch, JobState.SUSPENDED)
        assert 0.25 <= asyncio.get_running_loop().time() - started < 1.5
        assert len(bench.scheduler.asked) == 2


async def test_cancelled_in_the_midst_of_a_question() -> None:
    class Hanging(ScriptedScheduler):
        async def fetch_statuses(self, jobs: Collection[JobId]) -> Mapping[JobId, JobStatus]:
            self.asked.append(tuple(jobs))
            await asyncio.Event().wait()
            raise AssertionError

    bench = Bench()
    scheduler = Hanging(bench.clock)
    bench.monitor = JobMonitor(
        cast(Scheduler, scheduler),
        metrics=lambda query, outcome, _: bench.queries.append((query, outcome)),
    )
    watch = bench.monitor.watch(JOB)
    async with running(bench):
        await bench.until(lambda: bool(scheduler.asked))
    assert bench.queries == [("statuses", "cancelled")]
    assert watch.status.state is JobState.UNKNOWN
