"""The Slurm look-alike, through its commands."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.unit.rehearsal.site import Site, open_site

QUEUE = "%i|%T|%r|%B|%N|%P|%u|%a|%j|%l|%C|%m|%b|%v|%q"


async def ended(site: Site, job: int, seconds: float = 15) -> str:
    async with asyncio.timeout(seconds):
        while site.cluster.state.jobs[job].live:
            await asyncio.sleep(0.05)
    return site.cluster.state.jobs[job].state


async def squeue(site: Site, job: int, form: str = QUEUE) -> str:
    status, out, err = await site.run("observer", f"squeue -h -t all -j {job},{job} -o '{form}'")
    assert (status, err) == (0, "")
    return out.rstrip("\n")


async def test_a_job_runs_with_slurms_environment_and_leaves_its_record(site: Site) -> None:
    script = "echo $SLURM_JOB_ID $SLURMD_NODENAME $USER; srun hostname; pwd; exit 3"
    job = await site.submit("alice", "-J 'a name' -c 2 --mem=2G -o out-%j.log", script)
    assert await ended(site, job) == "FAILED"
    home = site.cluster.hosts.home("alice")
    assert (home / f"out-{job}.log").read_text() == f"{job} r1 alice\nr1\n{home}\n"
    assert await squeue(site, job) == (
        f"{job}|FAILED|NonZeroExitCode|r1|r1|interactive|alice|astro|a name|1:00:00|2|2G|N/A"
        "|(null)|normal"
    )
    _, out, _ = await site.run("observer", f"sacct -XnP -j {job} -o JobID,State,ExitCode,User")
    assert out == f"{job}|FAILED|3:0|alice\n"
    _, out, _ = await site.run("observer", f"squeue -h -t all -j {job} -O JobID:8,exit_code:6")
    assert out == f"{job:<8}768   \n"


async def test_jobs_queue_for_cores_in_order(site: Site) -> None:
    first = [await site.submit("alice", "-c 4") for _ in range(2)]
    waiting = await site.submit("bob", "-c 4")
    behind = await site.submit("alice", "-c 1")
    assert (await squeue(site, waiting, "%T %r %N")) == "PENDING Resources "
    assert (await squeue(site, behind, "%T %r")) == "PENDING Priority"
    _, out, _ = await site.run("bob", f"squeue -h --start -j {waiting} -o %S")
    assert out.startswith("20")
    await site.run("alice", f"scancel {first[0]}")
    await ended(site, first[0])
    assert (await squeue(site, waiting, "%T %r %N")) == "RUNNING None r1"


async def test_gpus_are_counted(site: Site) -> None:
    await site.submit("alice", "-p gpu --gres=gpu:a100:2")
    job = await site.submit("alice", "-p gpu --gres=gpu:1")
    assert await squeue(site, job, "%r|%b") == "Resources|gres:gpu:1"
    _, out, _ = await site.run("alice", "sinfo -hN -p gpu -O NodeList:4,CPUsState:9,GresUsed:24")
    assert out.split() == ["r3", "1/7/0/8", "gpu:a100:2(IDX:0-1)"]


@pytest.mark.parametrize(
    ("user", "options", "words"),
    [
        ("alice", "-p nope", "Invalid partition name specified"),
        ("alice", "-A nope", "Invalid account or account/partition combination specified"),
        ("observer", "", "Invalid account or account/partition combination specified"),
        ("carol", "-p long", "Invalid account or account/partition combination specified"),
        ("alice", "-q nope", "Invalid qos specification"),
        ("alice", "--mem=900G", "Memory specification can not be satisfied"),
        ("alice", "--gres=gpu:h100:1", "Requested node configuration is not available"),
        ("alice", "--reservation=nope", "Requested reservation is invalid"),
        ("carol", "--reservation=class", "Access denied to requested reservation"),
        ("alice", "--nope", "unrecognized option '--nope'"),
        ("alice", "-t xyz", "Invalid --time specification"),
    ],
)
async def test_refusals_in_slurms_words(site: Site, user: str, options: str, words: str) -> None:
    status, out, err = await site.run(user, f"sbatch --parsable {options}", "#!/bin/sh\ntrue\n")
    assert status in (1, 255)
    assert out == ""
    assert words in err
    assert site.cluster.state.jobs == {}


async def test_limits_and_holds_say_why_a_job_waits(site: Site) -> None:
    waits = {
        "PartitionTimeLimit": await site.submit("alice", "-t 3-0"),
        "PartitionConfig": await site.submit("alice", "-c 900 --mem=1G"),
        "JobHeldUser": await site.submit("alice", "-H"),
        "BeginTime": await site.submit("alice", "--begin=now+1hour"),
    }
    await site.submit("carol", "")
    waits["AssocMaxJobsLimit"] = await site.submit("carol", "")
    for reason, job in waits.items():
        assert await squeue(site, job, "%T %r") == f"PENDING {reason}"
    await site.submit("carol", "")
    await site.submit("carol", "")
    _, _, err = await site.run("carol", "sbatch", "#!/bin/sh\n")
    assert "AssocMaxSubmitJobLimit" in err
    await site.run("alice", f"scontrol release {waits['JobHeldUser']}")
    assert await squeue(site, waits["JobHeldUser"], "%T") == "RUNNING"


async def test_walltime_ends_a_job_that_ignores_sigterm_and_all_it_started(site: Site) -> None:
    script = "trap '' TERM; setsid sleep 1000 & echo $! > pid; while :; do sleep 0.1; done"
    job = await site.submit("alice", "-t 00:00:01", script)
    assert await ended(site, job) == "TIMEOUT"
    child = int((site.cluster.hosts.home("alice") / "pid").read_text())
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()  # gone, or only not yet reaped
    assert await squeue(site, job, "%T %r") == "TIMEOUT TimeLimit"


async def test_cancel_is_the_owners_and_harmless_afterwards(site: Site) -> None:
    job = await site.submit("alice", "")
    status, _, err = await site.run("bob", f"scancel {job}")
    assert (status, "Access/permission denied" in err) == (210, True)
    assert (await site.run("alice", f"scancel {job}"))[0] == 0
    assert await ended(site, job) == "CANCELLED"
    assert await squeue(site, job, "%T %r") == "CANCELLED None"
    assert (await site.run("alice", f"scancel {job}; scancel 999"))[0] == 0
    _, out, _ = await site.run("alice", f"sacct -Xn -P -j {job} -o State,ExitCode")
    assert out == f"CANCELLED by {os.getuid()}|0:0\n"


async def test_output_that_cannot_be_opened_is_a_launch_failure(site: Site) -> None:
    job = await site.submit("alice", "-o /nonexistent/x.log")
    assert await ended(site, job) == "FAILED"
    assert await squeue(site, job, "%T|%r") == "FAILED|JobLaunchFailure"
    _, out, _ = await site.run("alice", f"sacct -XnP -j {job} -o ExitCode")
    assert out == "0:53\n"


async def test_unknown_ids(site: Site) -> None:
    status, out, err = await site.run("alice", "squeue -h -j 77")
    assert (status, out, err) == (1, "", "slurm_load_jobs error: Invalid job id specified\n")
    assert await site.run("alice", "squeue -h -j 77,77") == (0, "", "")
    assert (await site.run("alice", "scontrol show job 77"))[0] == 1


async def test_the_reservation_keeps_its_node_for_its_users(site: Site) -> None:
    for _ in range(2):
        await site.submit("bob", "-c 4")
    outside = await site.submit("alice", "-c 1")
    inside = await site.submit("alice", "-c 1 --reservation=class")
    assert await squeue(site, outside, "%T") == "PENDING"
    assert await squeue(site, inside, "%T %N %v") == "RUNNING r4 class"


async def test_environment_of_the_job_follows_export(site: Site) -> None:
    script = "echo ${KEPT-none} ${GIVEN-none}"
    for export, words in (("ALL", "yes none"), ("NONE", "none none"), ("NONE,GIVEN=1", "none 1")):
        _, out, _ = await site.run(
            "bob", f"KEPT=yes sbatch --parsable --export={export} -o log", f"#!/bin/sh\n{script}\n"
        )
        await ended(site, int(out))
        assert (site.cluster.hosts.home("bob") / "log").read_text() == f"{words}\n"


async def test_partition_of_the_environment_loses_against_the_command_line(site: Site) -> None:
    _, out, _ = await site.run("bob", "SBATCH_PARTITION=gpu sbatch --parsable", "#!/bin/sh\n")
    assert site.cluster.state.jobs[int(out)].partition == "gpu"
    _, out, _ = await site.run(
        "bob", "SBATCH_PARTITION=gpu sbatch --parsable -p long", "#!/bin/sh\n#SBATCH -p gpu\n"
    )
    assert site.cluster.state.jobs[int(out)].partition == "long"


async def test_accounts_and_absent_controller(site: Site) -> None:
    _, out, _ = await site.run(
        "observer", "sacctmgr -nP show assoc user=alice format=Account,QOS,DefaultQOS,MaxJobs"
    )
    assert out == "astro|normal,long|normal|\ngeo|normal|normal|\n"
    site.cluster.state.answers = False
    status, _, err = await site.run("alice", "squeue")
    assert (status, "Unable to contact slurm controller" in err) == (1, True)
    assert (await site.run("alice", "scancel 1"))[0] == 8
    assert (await site.run("alice", "sacct -X"))[0] == 0


async def test_ended_jobs_leave_the_queue_and_stay_accounted(tmp_path: Path) -> None:
    async with open_site(tmp_path, min_job_age=0.0) as site:
        job = await site.submit("alice", "", "true")
        async with asyncio.timeout(10):
            while job in site.cluster.state.jobs:
                await asyncio.sleep(0.05)
        assert (await site.run("alice", f"squeue -h -j {job}"))[0] == 1
        assert (await site.run("alice", f"sacct -XnP -j {job} -o State"))[1] == "COMPLETED\n"
