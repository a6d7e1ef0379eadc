"""The scheduler contract against real Slurm in the test bed, and what only real Slurm shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import RequestRejected
from gateway.profiles.models import ClusterProfile
from gateway.schedulers.monitor import HealthState, JobMonitor
from gateway.schedulers.slurm.adapter import SlurmScheduler
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult, Role
from gateway.values.jobs import JobId, JobScript, JobState, Outcome
from gateway.values.resources import MemorySize
from tests.contract.scheduler import SLEEP, SchedulerContract, Site, check_unavailable, until
from tests.testbed.bed import Bed
from tests.testbed.fixtures import bed

__all__ = ["bed"]

pytestmark = [pytest.mark.testbed, pytest.mark.timeout(120)]

ALICE, BOB = Actor(Role.USER, "alice"), Actor(Role.USER, "bob")
OBSERVER = Actor(Role.OBSERVER, "observer")
# What a user's start-up files may set; none of it may change what we ask or get.
HOSTILE = {
    "SBATCH_PARTITION": "nosuch",
    "SBATCH_JOB_NAME": "other",
    "SBATCH_EXPORT": "NONE",
    "SLURM_CLUSTERS": "elsewhere",
    "SLURM_TIME_FORMAT": "relative",
    "SQUEUE_STATES": "FAILED",
    "SQUEUE_FORMAT": "%j",
    "SQUEUE_ACCOUNT": "nosuch",
    "SACCT_FORMAT": "JobName",
    "SCANCEL_NAME": "other",
    "SINFO_FORMAT": "%P",
    "TZ": "Asia/Kolkata",
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
        done = await asyncio.to_thread(
            self._bed.run,
            "login",
            list(argv),
            user=actor.name,
            input=stdin.decode(),
            timeout=timeout.total_seconds(),
            env=HOSTILE,
        )
        assert len(done.stdout) <= output_limit
        return CommandResult(
            tuple(argv),
            done.returncode,
            done.stdout.encode(),
            done.stderr.encode(),
            time.monotonic() - started,
        )

    async def close(self) -> None: ...


def build_profile(*, accounting: bool) -> ClusterProfile:
    return ClusterProfile.model_validate(
        {
            "name": "testbed",
            "title": {"en": "Test bed", "fr": "Banc d'essai"},
            "scheduler": {"kind": "slurm", "accounting": accounting},
            "login": {"hosts": [{"host": "login"}], "known_hosts": Path("/nonexistent")},
            "roles": {"observer": {"name": "observer"}},
            "partitions": {"interactive": {"max_walltime": "8h", "max_memory": "20G"}},
            "environments": {"plain": {"title": {"en": "Plain", "fr": "Simple"}}},
        }
    )


def build_site(bed: Bed, *, accounting: bool = True) -> Site:
    transport = BedTransport(bed)
    return Site(
        scheduler=SlurmScheduler(transport, build_profile(accounting=accounting), OBSERVER),
        user=ALICE,
        other=BOB,
        partition="small",
        nodes=frozenset({"c3"}),
        largest_job=8,
        log_directory="/tmp",
        unknown_job=JobId("7"),
        gpu_partition="gpu",
        gpu_kind="a100",
        refused_partition="long",
        account="def-alice" if accounting else None,
        refused_account="def-carol",
    )


@pytest.fixture
async def site(bed: Bed) -> AsyncIterator[Site]:
    yield build_site(bed)
    left = bed.run("login", ["squeue", "--noheader", "--format=%i"]).stdout.split()
    if left:
        bed.run("login", ["scancel", *left])
    await until(lambda: asyncio.to_thread(bed.is_idle), bool)


class TestSlurm(SchedulerContract):
    """Real Slurm with accounting."""


async def test_the_end_of_a_job_without_accounting(bed: Bed, site: Site) -> None:
    job = await site.submit("#!/bin/sh\nexit 42\n")
    await site.reach(job, JobState.FINISHED)
    bare = build_site(bed, accounting=False).scheduler
    ended = await bare.fetch_end(job)
    assert ended is not None
    assert ended.end is not None
    assert (ended.end.outcome, ended.end.exit_code) == (Outcome.FAILED, 42)
    assert await bare.fetch_associations("alice") == ()


async def test_the_job_starts_clean_and_srun_works(bed: Bed, site: Site) -> None:
    output = bed.scratch / "srun-output"
    output.mkdir(mode=0o777, exist_ok=True)
    output.chmod(0o777)
    script = f"""#!/bin/bash -l
exec >{output}/out 2>&1
env | grep -E '^(SBATCH_|SLURM_CLUSTERS|SLURM_TIME_FORMAT|TZ=|PRIVATE_THING)' && echo leaked
echo home=$HOME user=$USER export=$SLURM_EXPORT_ENV cpus=$SLURM_CPUS_PER_TASK
ulimit -c
srun --ntasks=2 --cpus-per-task=1 --overcommit sh -c 'echo rank $SLURM_PROCID of $SLURM_NTASKS'
srun --ntasks=1 sh -c 'echo srun on $(hostname) path=$PATH' && touch {output}/done
"""
    job = await site.submit(script, cores=2)
    await site.reach(job, JobState.FINISHED)
    text = (output / "out").read_text()
    assert "leaked" not in text
    assert "home=/home/alice user=alice export= cpus=2" in text, text
    assert "srun on c3 path=/usr/local" in text, text
    # what an MPI program needs: its ranks
    assert {"rank 0 of 2", "rank 1 of 2"} <= set(text.splitlines()), text
    assert (output / "done").exists()


async def test_another_users_job_name_forges_nothing(bed: Bed, site: Site) -> None:
    job = await site.submit()
    running = await site.reach(job, JobState.RUNNING)
    line = f"{job}|FAILED|c3|c3|small|alice|N/A|N/A|N/A|None|."
    argv = ["sbatch", "--parsable", "--output=/dev/null", "--partition=interactive"]
    argv += ["-J", f"x\n{line}\nlandfall:answered\n", "--comment", line, "--wrap=sleep 300"]
    forger = JobId(bed.run("login", argv, user="bob", check=True).stdout.strip())
    await site.reach(forger, JobState.RUNNING)
    statuses = await site.scheduler.fetch_statuses([forger, job])
    assert statuses[job].state is JobState.RUNNING
    assert statuses[job].started_at == running.started_at
    record = await site.scheduler.fetch_end(job)
    assert record is None or record.state in (JobState.PENDING, JobState.RUNNING)
    await site.scheduler.cancel(site.user, job)


async def test_memory_walltime_and_output_path(bed: Bed, site: Site) -> None:
    eat = "#!/bin/sh\nexec python3 -c 'x = bytearray(400 << 20); import time; time.sleep(30)'\n"
    hungry = await site.submit(eat, memory=MemorySize(50))
    request = site.request()
    unwritable = type(request)(
        **{name: getattr(request, name) for name in request.__dataclass_fields__}
        | {"log_path": "/nonexistent/log"}
    )
    lost = await site.scheduler.submit(site.user, unwritable, JobScript(SLEEP))
    await site.reach(hungry, JobState.FINISHED)
    await site.reach(lost, JobState.FINISHED)
    for job, outcome in ((hungry, Outcome.OUT_OF_MEMORY), (lost, Outcome.NOT_STARTED)):

        async def ask(job: JobId = job) -> Outcome | None:
            ended = await site.scheduler.fetch_end(job)
            return ended.end.outcome if ended is not None and ended.end is not None else None

        assert await until(ask, lambda answer: answer is not None) is outcome
    # Over the partition's limit: accepted, and it waits for ever.
    long = await site.submit(walltime=timedelta(hours=3))
    status = await until(
        lambda: site.status(long), lambda status: status.native_reason == "PartitionTimeLimit"
    )
    assert "walltime" in str(status.reason_words)
    await site.scheduler.cancel(site.user, long)


async def test_private_jobs_are_not_gone(bed: Bed, site: Site) -> None:
    """A query without permission lists nothing: never the end of a job not seen before."""
    job = await site.submit()
    await site.reach(job, JobState.RUNNING)
    carol = SlurmScheduler(
        BedTransport(bed), build_profile(accounting=False), Actor(Role.OBSERVER, "carol")
    )
    monitor = JobMonitor(carol, busy_interval=0.1)
    watch = monitor.watch(JobId("8"))
    task = asyncio.create_task(monitor.run())
    await asyncio.sleep(2)
    task.cancel()
    assert watch.status.state is JobState.UNKNOWN
    await site.scheduler.cancel(site.user, job)


async def test_a_stopped_controller(bed: Bed, site: Site) -> None:
    job = await site.submit()
    await site.reach(job, JobState.RUNNING)
    monitor = JobMonitor(site.scheduler, busy_interval=0.2, idle_interval=0.2)
    watch = monitor.watch(job)
    task = asyncio.create_task(monitor.run())
    seen = await asyncio.wait_for(watch.changed(watch.status), 20)
    assert seen.state is JobState.RUNNING
    bed.pause("login", "slurmctld")
    try:
        await check_unavailable(site)
        assert monitor.health.state is HealthState.DOWN
        assert watch.status == seen
    finally:
        bed.resume("login", "slurmctld")
    monitor.ask_soon()

    async def is_up() -> bool:
        return monitor.health.state is not HealthState.DOWN

    await until(is_up, bool)
    assert watch.status.state is JobState.RUNNING
    await site.scheduler.cancel(site.user, job)
    status = watch.status
    while status.state is not JobState.FINISHED:
        status = await asyncio.wait_for(watch.changed(status), 40)
    assert status.end is not None
    assert status.end.outcome is Outcome.CANCELLED
    assert str(status.end.words) == "The job was cancelled by its owner."
    task.cancel()


async def test_reservations(bed: Bed, site: Site) -> None:
    create = ["scontrol", "create", "reservation"]
    shown = ["StartTime=now", "Duration=30", "Nodes=c3"]
    later = ["StartTime=now+2days", "Duration=30", "Nodes=ALL", "Flags=MAINT", "Users=root"]
    bed.run("login", [*create, "ReservationName=class", *shown, "Users=alice"], check=True)
    bed.run("login", [*create, "ReservationName=repairs", *later], check=True)
    physics = ["StartTime=now+1hour", "Duration=30", "Nodes=c2", "Accounts=rrg-physics"]
    bed.run("login", [*create, "ReservationName=physics", *physics], check=True)
    try:
        of = site.scheduler.fetch_reservations
        assert {one.name for one in await of("alice")} == {"class", "repairs", "physics"}
        assert {one.name for one in await of("bob")} == {"repairs", "physics"}
        assert {one.name for one in await of("carol")} == {"repairs"}
        (mine,) = [one for one in await of("alice") if one.name == "class"]
        assert (mine.active, mine.maintenance, mine.nodes) == (True, False, 1)
        assert mine.ends_at - mine.starts_at == timedelta(minutes=30)
        assert abs((mine.starts_at - datetime.now(mine.starts_at.tzinfo)).total_seconds()) < 60
        job = await site.submit(reservation="class")
        await site.reach(job, JobState.RUNNING)
        await site.scheduler.cancel(site.user, job)
        await site.reach(job, JobState.FINISHED)
        with pytest.raises(RequestRejected):
            await site.scheduler.submit(
                site.other, site.request(reservation="class"), JobScript(SLEEP)
            )
    finally:
        for name in ("class", "repairs", "physics"):
            bed.run("login", ["scontrol", "delete", f"ReservationName={name}"])
