"""The scheduler contract over the rehearsal cluster: the same adapter as for a real Slurm."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import RequestRejected
from gateway.rehearsal.slurm_model import default_reservations
from gateway.schedulers.slurm.adapter import SlurmScheduler
from gateway.transport.base import Actor, Role
from gateway.transport.ssh import SshTransport
from gateway.values.jobs import JobId, JobScript, JobState, Outcome
from tests.contract.scheduler import SLEEP, SchedulerContract, Site, check_unavailable, until
from tests.unit.rehearsal.site import Site as Cluster
from tests.unit.rehearsal.site import open_pool, open_site


@pytest.fixture
async def rehearsal(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with open_site(tmp_path / "cluster", reservations=(), walltime_step=1) as opened:
        yield opened


@pytest.fixture
async def site(rehearsal: Cluster, tmp_path: Path) -> AsyncIterator[Site]:
    profile, pool = open_pool(rehearsal, tmp_path)
    transport = SshTransport(pool)
    yield Site(
        scheduler=SlurmScheduler(transport, profile, Actor(Role.OBSERVER, "observer")),
        user=Actor(Role.USER, "alice"),
        other=Actor(Role.USER, "bob"),
        partition="interactive",
        nodes=frozenset({"r1", "r2", "r4"}),
        largest_job=4,
        log_directory=str(tmp_path),
        unknown_job=JobId("999999"),
        gpu_partition="gpu",
        gpu_kind="a100",
        account="astro",
        refused_account="hydro",
    )
    await transport.close()


class TestRehearsal(SchedulerContract):
    """Every promise, over SSH and the look-alike commands."""


async def test_an_absent_controller(rehearsal: Cluster, site: Site) -> None:
    rehearsal.cluster.state.answers = False
    await check_unavailable(site)


async def test_walltime_and_launch_failure(site: Site) -> None:
    late = await site.submit(walltime=timedelta(seconds=1))
    request = dataclasses.replace(site.request(), log_path="/nonexistent/log")
    lost = await site.scheduler.submit(site.user, request, JobScript(SLEEP))
    for job, outcome in ((late, Outcome.WALLTIME), (lost, Outcome.NOT_STARTED)):
        await site.reach(job, JobState.FINISHED)
        ended = await site.scheduler.fetch_end(job)
        assert ended is not None
        assert ended.end is not None
        assert ended.end.outcome is outcome
    long = await site.submit(walltime=timedelta(hours=9))
    status = await until(lambda: site.status(long), lambda now: now.native_reason != "None")
    assert status.native_reason == "PartitionTimeLimit"


async def test_what_a_job_leaves_running_ends_with_it(rehearsal: Cluster, site: Site) -> None:
    job = await site.submit("#!/bin/sh\nsetsid sleep 1000 &\nexit 0\n")
    await site.reach(job, JobState.FINISHED)
    assert rehearsal.cluster.state.jobs[int(job)].state == "COMPLETED"


async def test_reservations(rehearsal: Cluster, site: Site) -> None:
    now = datetime.now(UTC)
    rehearsal.cluster.state.reservations += default_reservations(int(now.timestamp()))
    names = {one.name for one in await site.scheduler.fetch_reservations("alice")}
    assert names == {"class", "maintenance"}
    (mine,) = await site.scheduler.fetch_reservations("carol")
    assert (mine.name, mine.maintenance, mine.active) == ("maintenance", True, False)
    job = await site.submit(reservation="class")
    status = await site.reach(job, JobState.RUNNING)
    assert status.batch_node == "r4"
    carol = Actor(Role.USER, "carol")
    with pytest.raises(RequestRejected):
        await site.scheduler.submit(carol, site.request(reservation="class"), JobScript(SLEEP))
