"""The monitor: what it concludes, and on which evidence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.schedulers import monitor as module
from gateway.schedulers.monitor import Watch
from gateway.values.jobs import JobId, JobState
from tests.unit.schedulers.monitor_bench import (
    AWAY,
    BEGUN,
    JOB,
    OTHER,
    Bench,
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
