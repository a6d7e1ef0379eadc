"""The argv of every PBS command."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClusterRefused, GatewayError, RequestRejected
from gateway.profiles.models import PbsSchedulerProfile
from gateway.schedulers.command_environment import ANSWERED
from gateway.schedulers.pbs.commands import (
    EFFECT_LINE,
    QUERY_LINE,
    PbsCommands,
    format_hours,
    is_job_id,
    job_number,
)
from gateway.values.identity import ClusterUser
from gateway.values.jobs import JobId, JobRequest
from gateway.values.resources import GpuRequest, MemorySize, ResourceRequest

RESOURCES = ResourceRequest("shared", timedelta(hours=36), 4, MemorySize(2048))
REQUEST = JobRequest(
    launch_id="0123456789abcdef",
    name="lf-0123456789abcdef",
    user=ClusterUser("north", "alice"),
    resources=RESOURCES,
    environment="science",
    directory="/home/alice/d",
    log_path="/home/alice/d/job.log",
    agent_path="/home/alice/a.py",
)


def commands(**profile: Any) -> PbsCommands:
    return PbsCommands(PbsSchedulerProfile(kind="pbs", **profile))


def submit(resources: ResourceRequest = RESOURCES, **profile: Any) -> list[str]:
    argv = commands(**profile).build_submit(replace(REQUEST, resources=resources))
    assert argv[:4] == ["sh", "-c", EFFECT_LINE, "sh"]
    return argv[4:]


def amounts(resources: ResourceRequest = RESOURCES, **profile: Any) -> list[str]:
    argv = submit(resources, **profile)
    return [argv[at + 1] for at, word in enumerate(argv) if word == "-l"]


def test_submit() -> None:
    assert submit() == [
        *("qsub", "-f", "-N", "lf-0123456789abcdef", "-q", "shared", "-S", "/bin/sh"),
        *("-j", "oe", "-o", "/home/alice/d/job.log", "-r", "n", "-m", "n", "-W", "umask=077"),
        *("-l", "select=1:ncpus=4:mem=2048mb", "-l", "walltime=36:00:00"),
    ]


def test_amounts() -> None:
    gpus = replace(RESOURCES, gpus=GpuRequest(2))
    assert amounts(gpus)[0] == "select=1:ncpus=4:mem=2048mb:ngpus=2"
    assert amounts(gpus, place="pack:shared")[-1] == "place=pack:shared"
    kind = replace(RESOURCES, gpus=GpuRequest(2, "a100"))
    assert amounts(kind, gpu_resource="accelerators", gpu_kind_resource="gpu_type")[0] == (
        "select=1:ncpus=4:mem=2048mb:accelerators=2:gpu_type=a100"
    )
    old = amounts(gpus, request_style="resources", place="free")
    assert old == ["ncpus=4", "mem=2048mb", "ngpus=2", "walltime=36:00:00"]
    assert amounts(replace(RESOURCES, gpus=GpuRequest(0)))[0] == "select=1:ncpus=4:mem=2048mb"
    with pytest.raises(RequestRejected) as caught:
        submit(kind)
    assert list(caught.value.fields) == ["gpus"]


def test_account_reservation_and_qos() -> None:
    charged = submit(replace(RESOURCES, account="ocean"))
    assert charged[charged.index("-P") + 1] == "ocean"
    charged = submit(replace(RESOURCES, account="ocean"), account_option="account")
    assert charged[charged.index("-A") + 1] == "ocean"
    assert "-P" not in charged
    inside = submit(replace(RESOURCES, reservation="R12"))
    assert inside[inside.index("-q") + 1] == "R12"
    with pytest.raises(RequestRejected) as caught:
        submit(replace(RESOURCES, qos="high"))
    assert list(caught.value.fields) == ["qos"]


@pytest.mark.parametrize(
    "change",
    [
        {"partition": "-V"},
        {"partition": "a b"},
        {"partition": "shared@elsewhere"},
        {"account": "a,b"},
        {"gpus": GpuRequest(1, "a100:ncpus=64")},
        {"gpus": GpuRequest(1, "a100+2")},
    ],
)
def test_words_that_mean_more_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ClusterRefused):
        submit(replace(RESOURCES, **change), gpu_kind_resource="gpu_type")


@given(st.text(), st.text(), st.text())
def test_no_name_becomes_an_option(queue: str, account: str, name: str) -> None:
    resources = replace(RESOURCES, partition=queue, account=account)
    try:
        argv = commands().build_submit(replace(REQUEST, resources=resources, name=name))
    except GatewayError:
        return
    values = [argv[argv.index(option) + 1] for option in ("-N", "-q", "-P")]
    assert values == [name, queue, account]
    assert not any(value.startswith("-") or " " in value for value in values)


def test_questions() -> None:
    one, two = JobId("17.pbs.example.org"), JobId("18")
    built = commands(bin_directory=Path("/opt/pbs/bin"))
    assert built.build_status([one, two, one], history=True)[3:] == [
        *("sh", "/opt/pbs/bin/qstat", "-E", "-x", "-f", "-F", "json", one, two)
    ]
    built = commands()
    assert built.build_status([one], history=False, form="dsv")[4:] == [
        *("qstat", "-E", "-f", "-F", "dsv", one)
    ]
    assert built.build_cancel(one) == ["sh", "-c", EFFECT_LINE, "sh", "qdel", one]
    assert built.build_find("alice", "lf-1", history=True)[4:] == [
        *("qselect", "-x", "-u", "alice", "-N", "lf-1")
    ]
    assert "-x" not in built.build_find("alice", "lf-1", history=False)
    for argv in (built.build_queues(), built.build_server(), built.build_nodes()):
        assert argv[2] == QUERY_LINE
        assert argv[-2:] == ["-F", "json"]
    assert built.build_reservations()[4:] == ["pbs_rstat", "-F"]
    assert built.build_groups("alice")[4:] == ["id", "-Gn", "--", "alice"]
    assert built.build_version()[4:] == ["qstat", "--version"]


@pytest.mark.parametrize("job", ["", "-x", "1[].pbs", "1.pbs 2.pbs", "1.pbs\n", "1.-p", "a.pbs"])
def test_what_is_no_job_id(job: str) -> None:
    assert not is_job_id(job)
    with pytest.raises(ClusterRefused):
        commands().build_cancel(JobId(job))
    with pytest.raises(ClusterRefused):
        commands().build_status([JobId("1"), JobId(job)], history=True)


def test_job_number_and_hours() -> None:
    assert job_number(JobId("0017.pbs1")) == 17
    assert format_hours(timedelta(days=14, seconds=61)) == "336:01:01"


def test_the_environment_of_a_question(tmp_path: Path) -> None:
    program = tmp_path / "qstat"
    program.write_text("#!/bin/sh\nenv\n")
    program.chmod(0o755)
    done = subprocess.run(
        commands().build_queues(),
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "HOME": "/home/alice",
            "PBS_CONF_FILE": "/etc/other.conf",
            "PBS_DPREFIX": "#X",
            "PBS_DEFAULT": "elsewhere",
            "TZ": "Asia/Kolkata",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, last = done.stdout.splitlines()
    assert last == ANSWERED
    names = {line.partition("=")[0] for line in lines} - {"PWD", "SHLVL", "_"}
    assert names == {"PATH", "HOME", "PBS_CONF_FILE", "TZ"}
