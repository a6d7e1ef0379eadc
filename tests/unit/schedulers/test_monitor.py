"""The monitor: how often it asks, and what it tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import timedelta
from typing import cast

import pytest

from gateway.errors import ClusterRefused
from gateway.schedulers import monitor as module
from gateway.schedulers.base import Scheduler
from gateway.schedulers.monitor import HealthState, JobMonitor
from gateway.text import text
from gateway.values.jobs import JobId, JobState, JobStatus
from tests.unit.schedulers.monitor_bench import (
    AWAY,
    BEGUN,
    JOB,
    OTHER,
    Bench,
    Clock,
    ScriptedScheduler,
    finished,
    reach,
    running,
    status,
)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "COALESCE", timedelta(milliseconds=1))
    made = Bench()
    async with running(made):
        yield made


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
