"""The argv of every command."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.errors import ClusterRefused
from gateway.schedulers.command_environment import ANSWERED, command_name
from gateway.schedulers.slurm.commands import SlurmCommands
from gateway.values.identity import ClusterUser
from gateway.values.jobs import JobId, JobRequest
from gateway.values.resources import GpuRequest, MemorySize, ResourceRequest

COMMANDS = SlurmCommands()
RESOURCES = ResourceRequest("cpu", timedelta(hours=30), 4, MemorySize(2048))


def request(**changes: object) -> JobRequest:
    return JobRequest(
        launch_id="00ff",
        name="lf-00ff",
        user=ClusterUser("test", "alice"),
        resources=replace(RESOURCES, **changes),  # type: ignore[arg-type]
        environment="plain",
        directory="/home/alice/d",
        log_path="/home/alice/100%/%j.log",
        agent_path="/home/alice/agent.py",
    )


def test_submit() -> None:
    argv = COMMANDS.build_submit(request())
    assert argv[4:] == [
        *("sbatch", "--parsable", "--job-name=lf-00ff", "--output=/home/alice/100%%/%%j.log"),
        *("--open-mode=append", "--export=ALL", "--no-requeue", "--partition=cpu"),
        *("--time=1-06:00:00", "--nodes=1", "--ntasks=1", "--cpus-per-task=4", "--mem=2048M"),
    ]
    more = COMMANDS.build_submit(
        request(gpus=GpuRequest(2, "a100"), account="x", qos="y", reservation="z")
    )
    assert more[len(argv) :] == [
        "--gres=gpu:a100:2",
        "--account=x",
        "--qos=y",
        "--reservation=z",
    ]
    assert COMMANDS.build_submit(request(gpus=GpuRequest(1)))[-1] == "--gres=gpu:1"
    assert COMMANDS.build_submit(request(gpus=GpuRequest(0))) == argv


def test_a_single_job_is_asked_for_twice() -> None:
    assert COMMANDS.build_queue([JobId("17")])[-1] == "--jobs=17,17"
    assert COMMANDS.build_queue([JobId("17"), JobId("18")])[-1] == "--jobs=17,18"


def test_bin_directory() -> None:
    argv = SlurmCommands(Path("/opt/slurm/bin")).build_version()
    assert argv[4] == "/opt/slurm/bin/sinfo"
    assert command_name(argv) == "sinfo"


@pytest.mark.parametrize("value", ["", "1,2", "-u alice", "17\n", "1_2", "0", "a" * 200, "--me"])
def test_what_would_change_the_meaning_is_refused(value: str) -> None:
    job = JobId(value)
    for build in (COMMANDS.build_cancel, COMMANDS.build_accounting, COMMANDS.build_exit_code):
        with pytest.raises(ClusterRefused):
            build(job)
    with pytest.raises(ClusterRefused):
        COMMANDS.build_queue([JobId("17"), job])
    if value not in ("1_2", "0"):
        for text in (COMMANDS.build_queue_by_name, COMMANDS.build_associations):
            with pytest.raises(ClusterRefused):
                text(value)


def test_jobs_are_found_by_name_in_hidden_partitions_too() -> None:
    assert "--all" in COMMANDS.build_queue_by_name("lf-0123456789abcdef")


def run(argv: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=20, check=False
    )


def test_the_environment_of_a_command(tmp_path: Path) -> None:
    """Nothing of the account's environment reaches the command but what it needs."""
    for name in ("squeue", "scancel"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\nenv | sort\n[ $# -lt 9 ] || exit 3\n")
        program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOME": "/home/al ice",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_PARTITION": "x",
        "SQUEUE_FORMAT": "y",
        "SECRET": "z",
        "TZ": "Asia/Kolkata",
        "ODD": "a\nSLURM_CLUSTERS=b",
    }
    asked = run(COMMANDS.build_queue([JobId("17")]), environment)
    assert asked.returncode == 0
    *lines, last = asked.stdout.splitlines()
    assert last == ANSWERED
    names = {line.partition("=")[0] for line in lines} - {"PWD", "SHLVL", "_"}
    assert names == {"PATH", "HOME", "SLURM_CONF", "TZ"}
    assert "HOME=/home/al ice" in lines
    assert "TZ=UTC0" in lines
    done = run(COMMANDS.build_cancel(JobId("17")), environment)
    assert "TZ" not in done.stdout
    assert ANSWERED not in done.stdout
    # What failed keeps its exit status and has no closing line.
    many = [JobId(str(number)) for number in range(1, 3)]
    failed = run([*COMMANDS.build_queue(many), *"abcdef"], environment)
    assert failed.returncode == 3
    assert ANSWERED not in failed.stdout
    missing = run(SlurmCommands(Path("/nonexistent")).build_version(), environment)
    assert missing.returncode == 127
