"""The argv of every command."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ClusterRefused, RequestRejected
from gateway.profiles.models import GridEngineSchedulerProfile
from gateway.schedulers.command_environment import ANSWERED
from gateway.schedulers.gridengine.commands import (
    EACH_LINE,
    EFFECT_LINE,
    QUERY_LINE,
    GridEngineCommands,
    program_name,
)
from gateway.values.identity import ClusterUser
from gateway.values.jobs import JobId, JobRequest
from gateway.values.resources import GpuRequest, MemorySize, ResourceRequest
from tests.unit.schedulers.gridengine.recordings import PROFILE


def request(**changes: Any) -> JobRequest:
    """A request of alice; `changes` are fields of the resources."""
    resources = ResourceRequest(
        partition="small.q", walltime=timedelta(hours=2), cores=1, memory=MemorySize(1000)
    )
    return JobRequest(
        launch_id="1",
        name="lf-1",
        user=ClusterUser("north", "alice"),
        resources=replace(resources, **changes),
        environment="plain",
        directory="/home/alice/launch",
        log_path="/home/alice/launch/job log",
        agent_path="/home/alice/agent",
    )


def commands(**changes: Any) -> GridEngineCommands:
    return GridEngineCommands(PROFILE.model_copy(update=changes))


def options(argv: list[str]) -> dict[str, str]:
    words = argv[argv.index("-N") :]
    if "-pe" in words:  # the one with two values
        place = words.index("-pe")
        words = words[:place] + words[place + 3 :]
    return dict(zip(words[::2], words[1::2], strict=False))


def test_a_small_submit() -> None:
    argv = commands().build_submit(request())
    assert argv == [
        *("sh", "-c", EFFECT_LINE, "sh", "qsub", "-terse", "-w", "e", "-N", "lf-1"),
        *("-S", "/bin/bash", "-r", "n", "-j", "y", "-o", "/home/alice/launch/job log"),
        *("-wd", "/home/alice/launch", "-q", "small.q", "-l", "h_rt=7200,h_vmem=1000M"),
    ]
    assert not {"-V", "-v"} & set(argv)


def test_a_large_submit() -> None:
    asked = request(cores=3, gpus=GpuRequest(2), account="physics", reservation="17")
    given = options(commands().build_submit(asked))
    assert given["-l"] == "h_rt=7200,h_vmem=334M,gpu=2"
    assert (given["-P"], given["-ar"]) == ("physics", "17")
    argv = commands().build_submit(asked)
    place = argv.index("-pe")
    assert argv[place : place + 3] == ["-pe", "smp", "3"]


def test_complexes_that_count_otherwise() -> None:
    other = commands(memory_per="job", memory_complex="mem", gpu_per="slot")
    given = options(other.build_submit(request(cores=2, gpus=GpuRequest(4))))
    assert given["-l"] == "h_rt=7200,mem=1000M,gpu=2"
    assert options(other.build_submit(request(gpus=GpuRequest(0))))["-l"].endswith("mem=1000M")


@pytest.mark.parametrize(
    ("changes", "profile", "field"),
    [
        ({"reservation": "class"}, {}, "reservation"),
        ({"qos": "normal"}, {}, "qos"),
        ({"gpus": GpuRequest(1, "a100")}, {}, "gpus"),
        ({"gpus": GpuRequest(1)}, {"gpu_complex": None}, "gpus"),
        ({"gpus": GpuRequest(1), "cores": 2}, {"gpu_per": "slot"}, "gpus"),
    ],
)
def test_what_cannot_be_said(changes: Any, profile: Any, field: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        commands(**profile).build_submit(request(**changes))
    assert list(caught.value.fields) == [field]
    (words,) = caught.value.fields.values()
    assert words.render("fr") != words.render("en")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "1"},
        {"name": "a*"},
        {"log_path": "/home/a,b"},
        {"log_path": "c1:/tmp"},
        {"directory": "/home/$JOB_ID"},
    ],
)
def test_names_that_mean_something_else(changes: dict[str, Any]) -> None:
    with pytest.raises(ClusterRefused):
        commands().build_submit(replace(request(), **changes))
    with pytest.raises(ClusterRefused):
        commands().build_submit(request(partition="a.q,b.q"))
    with pytest.raises(ClusterRefused):
        commands().build_cancel(JobId("1,2"))


def test_where_the_cluster_is() -> None:
    there = commands(root="/opt/sge", cell="main", bin_directory=Path("/opt/sge/bin"))
    cancel = there.build_cancel(JobId("7"))
    cell = ["env", "SGE_ROOT=/opt/sge", "SGE_CELL=main"]
    assert cancel == ["sh", "-c", EFFECT_LINE, "sh", *cell, "/opt/sge/bin/qdel", "7"]
    assert program_name(cancel) == "qdel"
    loop = ["sh", "-c", EACH_LINE, "sh"]
    assert there.build_projects(["a", "b"])[4:] == [
        *cell,
        *loop,
        *("/opt/sge/bin/qconf", "-sprj", "a", "b"),
    ]
    plain = commands().build_projects(["a"])
    assert plain == ["sh", "-c", QUERY_LINE, *loop[:1], *loop, "qconf", "-sprj", "a"]
    assert program_name(plain) == "qconf"
    assert program_name(commands().build_groups("alice")) == "id"


def test_each_name_is_asked_for() -> None:
    argv = commands(bin_directory=Path("/nonexistent")).build_projects(["a", "b"])
    argv[argv.index("/nonexistent/qconf")] = "echo"
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == f"-sprj a\n-sprj b\n{ANSWERED}\n"
    argv[argv.index("echo")] = "false"
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 1


def test_queries() -> None:
    built = commands()
    for argv, words in (
        (built.build_queue(), "qstat -u * -s prs -r -xml"),
        (built.build_queue(["alice", "bob"]), "qstat -u alice,bob -s prs -r -xml"),
        (built.build_queue_of("alice"), "qstat -u alice -s prsz -r -xml"),
        (built.build_reasons([JobId("1"), JobId("2")]), "qstat -xml -j 1,2"),
        (built.build_accounting(JobId("1")), "qacct -j 1"),
        (built.build_accounting_by_name("alice", "lf-1"), "qacct -o alice -d 7 -j lf-1"),
        (built.build_queue_configurations(), "qconf -sq *"),
        (built.build_project_names(), "qconf -sprjl"),
        (built.build_access_lists(["a", "b"]), "qconf -su a,b"),
        (built.build_user("alice"), "qconf -suser alice"),
        (built.build_reservation_ids(), "qrstat -u * -xml"),
        (built.build_reservations(["1", "2"]), "qrstat -ar 1,2 -xml"),
        (built.build_groups("alice"), "id -Gn -- alice"),
        (built.build_version(), "qstat -help"),
    ):
        assert argv == ["sh", "-c", QUERY_LINE, "sh", *words.split(" ")]
    instances = built.build_queue_instances()
    assert instances[instances.index("-F") + 1] == "slots,mem_total,h_rt,gpu"
    without = commands(gpu_complex=None).build_queue_instances()
    assert without[without.index("-F") + 1] == "slots,mem_total,h_rt"


def test_verify_asks_for_the_same() -> None:
    asked = request(cores=2)
    submit, verify = commands().build_submit(asked), commands().build_verify(asked)
    assert options(submit) == options(verify)
    assert verify[4:8] == ["qsub", "-w", "v", "-N"]


def test_the_profile_has_defaults() -> None:
    profile = GridEngineSchedulerProfile(kind="gridengine", parallel_environment="smp")
    assert (profile.memory_complex, profile.memory_per) == ("h_vmem", "slot")
    assert (profile.gpu_complex, profile.gpu_per, profile.root) == (None, "job", None)
