"""The scheduler contract against real Grid Engine in the test bed, and what only it shows."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ClusterUnavailable, RequestRejected
from gateway.profiles.models import ClusterProfile
from gateway.rendering.renderer import Renderer
from gateway.schedulers.gridengine.adapter import GridEngineScheduler
from gateway.schedulers.monitor import HealthState, JobMonitor
from gateway.text import text
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult, Role
from gateway.values.jobs import JobId, JobScript, JobState, JobStatus, Outcome
from gateway.values.resources import MemorySize
from tests.contract.scheduler import SLEEP, SchedulerContract, Site, check_unavailable, until
from tests.testbed.bed import Bed
from tests.testbed.fixtures import bed
from tests.testbed.gridengine import GridEngine, why_no_gridengine

__all__ = ["bed"]

pytestmark = [pytest.mark.testbed, pytest.mark.timeout(120)]

ALICE, BOB = Actor(Role.USER, "alice"), Actor(Role.USER, "bob")
OBSERVER = Actor(Role.OBSERVER, "observer")
# What a user's start-up files may set; none of it may change what we ask or get.
HOSTILE = {
    "SGE_ROOT": "/nonexistent",
    "SGE_CELL": "elsewhere",
    "SGE_SINGLE_LINE": "1",
    "SGE_LONG_QNAMES": "99",
    "TZ": "Asia/Kolkata",
    "LC_ALL": "fr_FR.UTF-8",
    "PRIVATE_THING": "not for the job",
}


class BedTransport:
    """Runs argv on the bed's login node as the actor, without SSH."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed

    async def run(
        self,
        actor: Actor,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta,
        output_limit: int = OUTPUT_LIMIT,
    ) -> CommandResult:
        started = time.monotonic()
        try:
            done = await asyncio.to_thread(
                self._bed.run,
                "login",
                list(argv),
                user=actor.name,
                input=stdin.decode(),
                timeout=timeout.total_seconds(),
                env=HOSTILE,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterUnavailable(text("The login node does not answer.")) from error
        assert len(done.stdout) <= output_limit
        return CommandResult(
            tuple(argv),
            done.returncode,
            done.stdout.encode(),
            done.stderr.encode(),
            time.monotonic() - started,
        )

    async def close(self) -> None: ...


def build_profile(engine: GridEngine, **changes: object) -> ClusterProfile:
    return ClusterProfile.model_validate(
        {
            "name": "testbed",
            "title": {"en": "Test bed", "fr": "Banc d'essai"},
            "scheduler": {
                "kind": "gridengine",
                "parallel_environment": "smp",
                "gpu_complex": "gpu",
                "root": str(engine.root),
                "command_timeout": "5s",
                **changes,
            },
            "login": {"hosts": [{"host": "login"}], "known_hosts": Path("/nonexistent")},
            "roles": {"observer": {"name": "observer"}},
            "partitions": {"small.q": {"max_walltime": "2h", "max_memory": "20G"}},
            "environments": {"test": {"title": {"en": "Plain", "fr": "Simple"}}},
        }
    )


def build_scheduler(engine: GridEngine, observer: Actor = OBSERVER) -> GridEngineScheduler:
    return GridEngineScheduler(BedTransport(engine.bed), build_profile(engine), observer)


@pytest.fixture(scope="module")
def engine(bed: Bed) -> GridEngine:
    reason = why_no_gridengine()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return GridEngine.up(bed)


@pytest.fixture
async def site(engine: GridEngine) -> AsyncIterator[Site]:
    yield Site(
        scheduler=build_scheduler(engine),
        user=ALICE,
        other=BOB,
        partition="small.q",
        nodes=frozenset({"c3"}),
        largest_job=8,
        log_directory="/tmp",
        unknown_job=JobId("9999999"),
        gpu_partition="gpu.q",
        refused_partition="long.q",
        account="physics",
        refused_account="chemistry",
    )
    await asyncio.to_thread(engine.clear)


class TestGridEngine(SchedulerContract):
    """Real Grid Engine with accounting and projects."""


async def ended(site: Site, job: JobId) -> JobStatus:
    return await site.reach(job, JobState.FINISHED)


async def test_memory_and_walltime(site: Site) -> None:
    eat = "#!/bin/sh\nfor n in 1 2 3 4; do python3 -c 'x = bytearray(60 << 20); import time;"
    hungry = await site.submit(f"{eat} time.sleep(30)' & done; wait\n", memory=MemorySize(100))
    late = await site.submit(walltime=timedelta(seconds=3))
    for job, outcome in ((hungry, Outcome.OUT_OF_MEMORY), (late, Outcome.WALLTIME)):
        status = await ended(site, job)
        assert status.end is not None
        assert status.end.outcome is outcome, status


async def test_a_job_in_error_is_explained(site: Site) -> None:
    request = replace(site.request(), log_path="/nonexistent/log")
    job = await site.scheduler.submit(site.user, request, JobScript(SLEEP))
    status = await until(lambda: site.status(job), lambda status: "E" in status.native_state)
    assert status.state is JobState.PENDING
    assert "/nonexistent/log" in status.native_reason
    assert "its output file could not be written" in str(status.reason_words)
    await site.scheduler.cancel(site.user, job)
    status = await ended(site, job)
    assert status.end is not None
    assert status.end.outcome is Outcome.NOT_STARTED


async def test_what_is_too_much_is_refused_by_its_field(site: Site) -> None:
    amounts: dict[str, Any] = {
        "walltime": timedelta(hours=3),
        "memory": MemorySize(90 * 1024),
        "cores": 9,
    }
    for field, amount in amounts.items():
        with pytest.raises(RequestRejected) as caught:
            await site.submit(**{field: amount})
        assert list(caught.value.fields) == [field], caught.value


async def test_the_rendered_job_starts_clean(engine: GridEngine, site: Site) -> None:
    output = engine.bed.scratch / "ge-output"
    output.mkdir(mode=0o777, exist_ok=True)
    output.chmod(0o777)
    request = replace(
        site.request(cores=2),
        directory=str(output),
        log_path=f"{output}/log",
        agent_path=f"{output}/agent.py",
    )
    script = Renderer([]).render(build_profile(engine), request)
    (output / "agent.py").write_text("import os; print(sorted(os.environ.items()))\n")
    job = await site.scheduler.submit(site.user, request, script)
    status = await ended(site, job)
    said = (output / "log").read_text()
    assert status.end is not None
    assert status.end.outcome is Outcome.COMPLETED, said
    assert "('NSLOTS', '2')" in said
    assert "('HOME', '/home/alice')" in said
    assert "PRIVATE_THING" not in said
    assert "Kolkata" not in said


async def test_another_users_words_forge_nothing(engine: GridEngine, site: Site) -> None:
    job = await site.submit()
    await site.reach(job, JobState.RUNNING)
    forged = f"</JB_name></job_list><job_list><JB_job_number>{job}</JB_job_number>"
    argv = ["qsub", "-terse", "-h", "-b", "y", "-N", forged.replace("/", "")]
    argv += ["-v", f"X={forged},Y=\x01\x02&lt;!ENTITY", "-q", "small.q", "true"]
    forger = JobId(engine.run(argv, "bob").stdout.strip())
    statuses = await site.scheduler.fetch_statuses([forger, job])
    assert statuses[job].state is JobState.RUNNING
    assert statuses[job].owner == "alice"
    assert statuses[forger].state is JobState.PENDING
    assert statuses[forger].owner == "bob"
    assert str(statuses[forger].reason_words).startswith("Held")


async def test_another_user_sees_all_jobs(engine: GridEngine, site: Site) -> None:
    job = await site.submit()
    seen = await build_scheduler(engine, Actor(Role.OBSERVER, "carol")).fetch_statuses([job])
    assert seen[job].state in (JobState.PENDING, JobState.RUNNING)
    assert seen[job].owner == "alice"


async def test_a_dead_qmaster(engine: GridEngine, site: Site) -> None:
    job = await site.submit()
    await site.reach(job, JobState.RUNNING)
    monitor = JobMonitor(site.scheduler, busy_interval=0.2, idle_interval=0.2)
    watch = monitor.watch(job)
    task = asyncio.create_task(monitor.run())
    seen = await asyncio.wait_for(watch.changed(watch.status), 20)
    assert seen.state is JobState.RUNNING
    await asyncio.to_thread(engine.bed.kill, "login", "sge_qmaster")
    try:
        await check_unavailable(site)

        async def is_down() -> bool:
            return monitor.health.state is HealthState.DOWN

        await until(is_down, bool)
        assert watch.status == seen
        # The accounting is a file: it answers, and knows no end.
        assert await site.scheduler.fetch_end(job) is None
    finally:
        await asyncio.to_thread(engine.start, "login", "sge_qmaster")
    await asyncio.to_thread(engine.bed.pause, "login", "sge_qmaster")
    try:
        await check_unavailable(site)
    finally:
        await asyncio.to_thread(engine.bed.resume, "login", "sge_qmaster")
    await until(lambda: site.status(job), lambda status: status.state is JobState.RUNNING)
    monitor.ask_soon()
    await site.scheduler.cancel(site.user, job)
    status = watch.status
    while status.state is not JobState.FINISHED:
        status = await asyncio.wait_for(watch.changed(status), 40)
    assert status.end is not None
    assert status.end.outcome is Outcome.CANCELLED
    task.cancel()


async def test_reservations(engine: GridEngine, site: Site) -> None:
    later = (datetime.now(UTC) + timedelta(days=2)).astimezone().strftime("%Y%m%d%H%M.%S")
    numbers = []
    for words in (
        ["-d", "1800", "-q", "small.q", "-u", "alice"],
        ["-a", later, "-d", "600", "-q", "interactive.q", "-u", "@longrun"],
    ):
        # A job may ask only for complexes that its reservation holds.
        held = ["qrsub", "-pe", "smp", "4", "-l", "h_vmem=1G", *words]
        said = engine.run(held, "observer").stdout
        numbers.append(next(word for word in said.split() if word.isdigit()))
    now, then = numbers
    try:
        of = site.scheduler.fetch_reservations
        assert [one.name for one in await of("alice")] == [now]
        assert [one.name for one in await of("bob")] == [then]
        assert await of("carol") == ()
        await until(lambda: of("alice"), lambda found: found[0].active)
        (mine,) = await of("alice")
        assert (mine.partition, mine.nodes, mine.maintenance) == ("small.q", 1, False)
        assert mine.ends_at - mine.starts_at == timedelta(minutes=30)
        assert abs(mine.starts_at - datetime.now(UTC)) < timedelta(minutes=1)
        job = await site.submit(reservation=now)
        await site.reach(job, JobState.RUNNING)
        await site.scheduler.cancel(site.user, job)
        await ended(site, job)
        for mistaken in (now, "77777"):
            with pytest.raises(RequestRejected) as caught:
                await site.scheduler.submit(
                    site.other, site.request(reservation=mistaken), JobScript(SLEEP)
                )
            assert list(caught.value.fields) == ["reservation"], caught.value
    finally:
        engine.run(["qrdel", *numbers], "observer")


async def test_the_node_admits_its_users_while_their_jobs_run(
    engine: GridEngine, site: Site
) -> None:
    """What the compute-node end of a tunnel needs; the bed's sshd asks Grid Engine too."""
    argv = [*engine.bed.ssh_argv("alice", "c3"), "hostname"]

    def enter() -> str:
        return engine.bed.run("hub", argv).stdout

    assert await asyncio.to_thread(enter) == ""
    job = await site.submit()
    await site.reach(job, JobState.RUNNING)
    assert await asyncio.to_thread(enter) == "c3\n"
    await site.scheduler.cancel(site.user, job)
