"""The contract of `gateway.schedulers.base.Scheduler`, for every implementation.

A test module gives a fixture `site` (a `Site`) and a class of its own:
`class TestMine(SchedulerContract): ...`. Jobs must really run on the site's nodes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from gateway.errors import ClusterUnavailable, RequestRejected, SubmitAmbiguous
from gateway.schedulers.base import Scheduler
from gateway.transport.base import Actor
from gateway.values.identity import ClusterUser
from gateway.values.jobs import (
    JobId,
    JobRequest,
    JobScript,
    JobState,
    JobStatus,
    Outcome,
)
from gateway.values.resources import GpuRequest, MemorySize, ResourceRequest

T = TypeVar("T")
SLEEP = "#!/bin/sh\nexec sleep 300\n"


@dataclass(frozen=True, slots=True)
class Site:
    """One cluster to test against. `largest_job` (cores) can run once at a time in `partition`;
    `log_directory` exists and both users may write there. `refused_partition` exists, and `user`
    may not use it. `account` may be charged by `user`, `refused_account` not; `None` where the
    cluster keeps no accounts."""

    scheduler: Scheduler
    user: Actor
    other: Actor
    partition: str
    nodes: frozenset[str]
    largest_job: int
    log_directory: str
    unknown_job: JobId
    gpu_partition: str | None = None
    gpu_kind: str | None = None
    refused_partition: str | None = None
    account: str | None = None
    refused_account: str | None = None

    def request(self, **changes: object) -> JobRequest:
        """A small job of `user`; `changes` are fields of `ResourceRequest`."""
        launch = secrets.token_hex(8)
        resources = ResourceRequest(
            partition=self.partition,
            walltime=timedelta(minutes=10),
            cores=1,
            memory=MemorySize(100),
        )
        return JobRequest(
            launch_id=launch,
            name=f"lf-{launch}",
            user=ClusterUser("site", self.user.name),
            resources=replace(resources, **changes),  # type: ignore[arg-type]
            environment="test",
            directory=self.log_directory,
            log_path=f"{self.log_directory}/{launch}.log",
            agent_path="/nonexistent",
        )

    async def submit(self, script: str = SLEEP, **changes: object) -> JobId:
        """Submit a job of `user`."""
        return await self.scheduler.submit(self.user, self.request(**changes), JobScript(script))

    async def status(self, job: JobId) -> JobStatus:
        """Ask for one job."""
        return (await self.scheduler.fetch_statuses([job]))[job]

    async def reach(self, job: JobId, *states: JobState) -> JobStatus:
        """Ask until the job is in one of these states; like the monitor, ask the accounting about
        a job that the queue lists no more."""

        async def ask() -> JobStatus:
            status = await self.status(job)
            if status.state is not JobState.MISSING:
                return status
            return await self.scheduler.fetch_end(job) or status

        return await until(ask, lambda status: status.state in states)


def has_ended(status: JobStatus | None) -> bool:
    """Tell whether the accounting has a final record."""
    return status is not None and status.state is JobState.FINISHED


async def until(ask: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """Ask until the answer is good, for half a minute."""
    answer = await ask()
    for _ in range(100):
        if good(answer):
            return answer
        await asyncio.sleep(0.3)
        answer = await ask()
    raise AssertionError(f"still {answer}")


class SchedulerContract:
    """Each test leaves no job behind when it passes."""

    async def test_a_job_runs_and_is_cancelled(self, site: Site) -> None:
        before = datetime.now(UTC)
        request = site.request()
        job = await site.scheduler.submit(site.user, request, JobScript(SLEEP))
        status = await site.reach(job, JobState.RUNNING)
        assert status.job_id == job
        assert status.owner == site.user.name
        assert status.partition == site.partition
        assert status.batch_node in site.nodes
        assert status.nodes == (status.batch_node,)
        assert status.end is None
        assert status.started_at is not None
        # Grid Engine tells of a running job only since when it runs.
        for moment in (status.submitted_at or status.started_at, status.started_at):
            assert abs(moment - before) < timedelta(minutes=2)
        assert status.ends_at is not None
        assert status.ends_at - status.started_at == timedelta(minutes=10)
        record = await site.scheduler.fetch_end(job)
        assert record is None or record.state is not JobState.FINISHED
        await site.scheduler.cancel(site.user, job)
        ended = await site.reach(job, JobState.FINISHED)
        assert ended.end is not None
        assert ended.end.outcome is Outcome.CANCELLED
        assert ended.end.ended_at is not None
        assert ended.end.ended_at >= status.started_at
        # That it has ended already is no error.
        await site.scheduler.cancel(site.user, job)

    async def test_jobs_are_found_by_their_name(self, site: Site) -> None:
        request = site.request()
        assert await site.scheduler.find_by_name(site.user, request.name) == ()
        first = await site.scheduler.submit(site.user, request, JobScript(SLEEP))
        second = await site.scheduler.submit(site.user, request, JobScript(SLEEP))
        assert await site.scheduler.find_by_name(site.user, request.name) == (first, second)
        assert await site.scheduler.find_by_name(site.other, request.name) == ()
        await site.scheduler.cancel(site.user, second)
        await site.reach(second, JobState.FINISHED)
        assert first in await site.scheduler.find_by_name(site.user, request.name)
        await site.scheduler.cancel(site.user, first)

    async def test_only_the_owner_cancels(self, site: Site) -> None:
        job = await site.submit()
        with pytest.raises(RequestRejected):
            await site.scheduler.cancel(site.other, job)
        assert (await site.reach(job, JobState.RUNNING)).end is None
        await site.scheduler.cancel(site.user, job)

    async def test_an_unknown_job_is_missing(self, site: Site) -> None:
        alone = await site.scheduler.fetch_statuses([site.unknown_job])
        assert alone[site.unknown_job].state is JobState.MISSING
        job = await site.submit()
        both = await site.scheduler.fetch_statuses([site.unknown_job, job])
        assert set(both) == {site.unknown_job, job}
        assert both[site.unknown_job].state is JobState.MISSING
        assert both[job].state in (JobState.PENDING, JobState.RUNNING)
        assert await site.scheduler.fetch_statuses([]) == {}
        assert await site.scheduler.fetch_end(site.unknown_job) is None
        await site.scheduler.cancel(site.user, job)

    @pytest.mark.parametrize(
        ("script", "outcome", "code", "signal"),
        [
            ("exit 0", Outcome.COMPLETED, 0, None),
            ("exit 3", Outcome.FAILED, 3, None),
            ("kill -9 $$", Outcome.FAILED, 0, 9),
        ],
    )
    async def test_how_a_job_ended(
        self, site: Site, script: str, outcome: Outcome, code: int, signal: int | None
    ) -> None:
        job = await site.submit(f"#!/bin/sh\n{script}\n")
        status = await site.reach(job, JobState.FINISHED)
        assert status.end is not None
        assert status.end.outcome is outcome

        async def ask() -> JobStatus | None:
            return await site.scheduler.fetch_end(job)

        ended = await until(ask, has_ended)
        assert ended is not None
        assert ended.end is not None
        assert ended.state is JobState.FINISHED
        assert (ended.end.outcome, ended.end.exit_code, ended.end.signal) == (outcome, code, signal)
        assert ended.end.words.render("fr") != ended.end.words.render("en")

    async def test_who_cancelled(self, site: Site) -> None:
        job = await site.submit()
        await site.reach(job, JobState.RUNNING)
        await site.scheduler.cancel(site.user, job)
        await site.reach(job, JobState.FINISHED)

        async def ask() -> JobStatus | None:
            return await site.scheduler.fetch_end(job)

        ended = await until(ask, has_ended)
        assert ended is not None
        assert ended.end is not None
        assert ended.end.outcome is Outcome.CANCELLED

    async def test_a_job_waits_with_a_reason(self, site: Site) -> None:
        jobs = [await site.submit(cores=site.largest_job) for _ in range(len(site.nodes) + 1)]
        waiting = jobs[-1]

        def explained(status: JobStatus) -> bool:
            return status.state is JobState.PENDING and status.native_reason not in ("", "None")

        status = await until(lambda: site.status(waiting), explained)
        assert status.batch_node is None
        assert status.started_at is None
        assert status.ends_at is None
        assert status.reason_words is not None
        assert status.reason_words.render("fr") != status.reason_words.render("en")
        estimates = await site.scheduler.fetch_estimates(jobs)
        assert set(estimates) <= {waiting}
        assert all(moment.tzinfo is not None for moment in estimates.values())
        # One that waits is cancelled as well as one that runs.
        for job in reversed(jobs):
            await site.scheduler.cancel(site.user, job)
        ended = await site.reach(waiting, JobState.FINISHED)
        assert ended.end is not None
        assert ended.end.outcome is Outcome.CANCELLED
        assert ended.started_at is None
        for job in jobs:
            await site.reach(job, JobState.FINISHED)

    async def test_a_refusal_names_the_field(self, site: Site) -> None:
        refused: list[tuple[str, str]] = [("partition", "nosuch")]
        if site.refused_partition is not None:
            refused.append(("partition", site.refused_partition))
        if site.refused_account is not None:
            refused.append(("account", site.refused_account))
        refused.append(("reservation", "nosuch"))
        for field, value in refused:
            request = site.request(**{field: value})
            with pytest.raises(RequestRejected) as caught:
                await site.scheduler.submit(site.user, request, JobScript(SLEEP))
            assert list(caught.value.fields) == [field], caught.value
            assert await site.scheduler.find_by_name(site.user, request.name) == ()

    async def test_partitions(self, site: Site) -> None:
        partitions = {one.name: one for one in await site.scheduler.fetch_partitions()}
        mine = partitions[site.partition]
        assert mine.up
        assert mine.cores_free == mine.cores_total
        assert mine.nodes_free == mine.nodes_total == len(site.nodes)
        assert mine.cores_largest_node >= site.largest_job
        assert mine.max_walltime is None or mine.max_walltime >= timedelta(minutes=10)
        assert mine.memory_largest_node is not None
        assert sum(one.default for one in partitions.values()) <= 1
        job = await site.submit(cores=site.largest_job)
        await site.reach(job, JobState.RUNNING)
        partitions = {one.name: one for one in await site.scheduler.fetch_partitions()}
        assert partitions[site.partition].cores_free == mine.cores_total - site.largest_job
        assert partitions[site.partition].cores_total == mine.cores_total
        await site.scheduler.cancel(site.user, job)
        await site.reach(job, JobState.FINISHED)

    async def test_gpus(self, site: Site) -> None:
        if site.gpu_partition is None:
            pytest.skip("the site has no GPUs")

        async def free() -> tuple[int, int]:
            partitions = await site.scheduler.fetch_partitions()
            (mine,) = [one for one in partitions if one.name == site.gpu_partition]
            (kind,) = [one for one in mine.gpus if one.kind == site.gpu_kind]
            return kind.free, kind.total

        before, total = await free()
        assert before == total >= 1
        job = await site.submit(
            partition=site.gpu_partition, gpus=GpuRequest(1, site.gpu_kind), account=site.account
        )
        await site.reach(job, JobState.RUNNING)
        assert await free() == (total - 1, total)
        await site.scheduler.cancel(site.user, job)
        await site.reach(job, JobState.FINISHED)
        with pytest.raises(RequestRejected) as caught:
            await site.submit(partition=site.gpu_partition, gpus=GpuRequest(total + 60))
        assert list(caught.value.fields) == ["gpus"]

    async def test_associations(self, site: Site) -> None:
        mine = await site.scheduler.fetch_associations(site.user.name)
        if site.account is None:
            assert mine == ()
            return
        accounts = [one.account for one in mine]
        assert site.account in accounts
        assert site.refused_account not in accounts
        assert sum(one.default for one in mine) == 1
        assert await site.scheduler.fetch_associations("nosuchuser") == ()
        job = await site.submit(account=site.account)
        await site.scheduler.cancel(site.user, job)

    async def test_an_empty_reservation_list_and_version(self, site: Site) -> None:
        assert await site.scheduler.fetch_reservations(site.user.name) == ()
        assert await site.scheduler.fetch_version()

    async def test_many_questions_at_once(self, site: Site) -> None:
        async def ask(_: int) -> JobState:
            return (await site.status(site.unknown_job)).state

        states: Sequence[JobState] = await asyncio.gather(*map(ask, range(10)))
        assert set(states) == {JobState.MISSING}


async def check_unavailable(site: Site) -> None:
    """What holds while the scheduler does not answer; for modules that can stop it."""
    # At once: each may take as long as the scheduler's own time-out.
    answers = await asyncio.gather(
        site.status(site.unknown_job),
        site.scheduler.find_by_name(site.user, "lf-0000"),
        site.scheduler.cancel(site.user, site.unknown_job),
        site.scheduler.fetch_partitions(),
        site.submit(),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in answers]
    assert kinds == [*[ClusterUnavailable] * 4, SubmitAmbiguous], answers
