"""The adapter over a transport that answers from a script."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.errors import (
    ClusterRefused,
    ClusterUnavailable,
    GatewayError,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.profiles.models import ClusterProfile, SlurmSchedulerProfile
from gateway.schedulers.slurm.adapter import SlurmScheduler
from gateway.text import text
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult, Role
from gateway.values.jobs import JobId, JobScript, JobState, Outcome
from tests.unit.schedulers.recordings import answered, one
from tests.unit.schedulers.test_commands import request
from tests.unit.schedulers.test_parsers import ROW, SACCT

ALICE, OBSERVER = Actor(Role.USER, "alice"), Actor(Role.OBSERVER, "observer")
JOB = JobId("17")
SCRIPT = JobScript("#!/bin/sh\n# é\n")
Answer = CommandResult | GatewayError
DOWN = ClusterUnavailable(text("The login node does not answer."), detail="timed out")


def ok(output: str = "") -> CommandResult:
    return CommandResult((), 0, output.encode(), b"", 0.0)


def failed(status: int, stderr: str) -> CommandResult:
    return CommandResult((), status, b"", stderr.encode(), 0.0)


NO_ANSWER = failed(1, "slurm_load_jobs error: Unable to contact slurm controller")


class ScriptedTransport:
    """Gives the next answer for a program; keeps what it was asked."""

    def __init__(self, **answers: Answer | list[Answer]) -> None:
        self.answers = {
            name: list(answer) if isinstance(answer, list) else [answer]
            for name, answer in answers.items()
        }
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.stdin = b""

    async def run(
        self,
        actor: Actor,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta,
        output_limit: int = OUTPUT_LIMIT,
    ) -> CommandResult:
        assert timeout == timedelta(seconds=30)
        self.asked.append((actor.name, tuple(argv[4:])))
        self.stdin = stdin
        answer = self.answers[Path(argv[4]).name].pop(0)
        if isinstance(answer, GatewayError):
            raise answer
        return answer

    async def close(self) -> None: ...


def build(transport: ScriptedTransport, *, accounting: bool = True) -> SlurmScheduler:
    scheduler = SlurmSchedulerProfile(kind="slurm", accounting=accounting)
    profile = cast(ClusterProfile, SimpleNamespace(scheduler=scheduler))
    return SlurmScheduler(transport, profile, OBSERVER)


async def test_submit() -> None:
    transport = ScriptedTransport(sbatch=ok("17\n"))
    assert await build(transport).submit(ALICE, request(), SCRIPT) == "17"
    assert transport.stdin == SCRIPT.text.encode()
    assert transport.asked[0][0] == "alice"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (DOWN, SubmitAmbiguous),
        (ok(""), SubmitAmbiguous),
        (ok("Welcome\n17\n"), SubmitAmbiguous),
        (one("22.05", "ctld-down-sbatch").result, SubmitAmbiguous),
        (failed(1, "sbatch: error: Batch job submission failed: Access denied"), RequestRejected),
        (ClusterRefused(text("Not let in.")), ClusterRefused),
    ],
)
async def test_a_submit_that_fails(answer: Answer, kind: type[GatewayError]) -> None:
    with pytest.raises(GatewayError) as caught:
        await build(ScriptedTransport(sbatch=answer)).submit(ALICE, request(), SCRIPT)
    assert type(caught.value) is kind


async def test_find_by_name() -> None:
    older = ROW.replace("17|", "9|").replace("18:33:34", "17:33:34")
    stranger = ROW.replace("17|", "8|").replace("alice", "bob")
    queue = answered(f"{ROW}\n{older}\n{stranger}\n")
    assert await build(ScriptedTransport(squeue=ok(queue))).find_by_name(ALICE, "lf-1") == (
        "9",
        "17",
    )
    accounted = answered("17|2026-11-20T18:33:34|alice|\n9|2026-11-20T18:33:34|bob|\n")
    transport = ScriptedTransport(squeue=ok(answered("")), sacct=ok(accounted))
    assert await build(transport).find_by_name(ALICE, "lf-1") == ("17",)
    assert {actor for actor, _ in transport.asked} == {"alice"}
    bare = build(ScriptedTransport(squeue=ok(answered(""))), accounting=False)
    assert await bare.find_by_name(ALICE, "lf-1") == ()


@pytest.mark.parametrize("answer", [NO_ANSWER, DOWN, ok(""), ok("17|RUN")])
async def test_no_whole_answer_is_never_nothing(answer: Answer) -> None:
    with pytest.raises((ClusterUnavailable, ClusterRefused)):
        await build(ScriptedTransport(squeue=answer)).find_by_name(ALICE, "lf-1")
    with pytest.raises((ClusterUnavailable, ClusterRefused)):
        await build(ScriptedTransport(squeue=answer)).fetch_statuses([JOB])
    with pytest.raises((ClusterUnavailable, ClusterRefused)):
        await build(ScriptedTransport(squeue=answer)).fetch_estimates([JOB])
    # Nor when the queue is empty and the accounting says nothing.
    transport = ScriptedTransport(squeue=ok(answered("")), sacct=answer)
    with pytest.raises((ClusterUnavailable, ClusterRefused)):
        await build(transport).find_by_name(ALICE, "lf-1")


async def test_statuses() -> None:
    transport = ScriptedTransport(squeue=ok(answered(ROW + "\n")))
    odd = JobId("-u bob")
    found = await build(transport).fetch_statuses([JOB, JobId("18"), odd])
    assert {job: status.state for job, status in found.items()} == {
        JOB: JobState.RUNNING,
        "18": JobState.MISSING,
        odd: JobState.UNKNOWN,
    }
    assert transport.asked[0][1][-1] == "--jobs=17,18"
    nothing = ScriptedTransport()
    assert await build(nothing).fetch_statuses([]) == {}
    stranger = ScriptedTransport(squeue=ok(answered(ROW.replace("17|", "99|") + "\n")))
    with pytest.raises(ClusterRefused):
        await build(stranger).fetch_statuses([JOB])


async def test_an_unheard_of_state_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    met: list[str] = []
    answer = ok(answered(ROW.replace("RUNNING", "DREAMING") + "\n"))
    profile = cast(ClusterProfile, SimpleNamespace(scheduler=SlurmSchedulerProfile(kind="slurm")))
    transport = ScriptedTransport(squeue=[answer, answer])
    slurm = SlurmScheduler(transport, profile, OBSERVER, on_unheard_of=met.append)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert (await slurm.fetch_statuses([JOB]))[JOB].state is JobState.UNKNOWN
    assert met == ["DREAMING", "DREAMING"]
    assert len(caplog.records) == 1
    # Nobody has to listen.
    deaf = build(ScriptedTransport(squeue=answer))
    assert (await deaf.fetch_statuses([JOB]))[JOB].native_state == "DREAMING"


FAILED = ok(answered(ROW.replace("RUNNING", "FAILED") + "\n"))


async def test_the_end_from_the_accounting() -> None:
    before = SACCT.replace("18:33:34", "10:33:34").replace("FAILED", "TIMEOUT")
    transport = ScriptedTransport(sacct=ok(answered(f"{before}\n{SACCT}\n")))
    ended = await build(transport).fetch_end(JOB)
    assert ended is not None
    assert ended.end is not None
    assert (ended.end.outcome, ended.end.exit_code) == (Outcome.FAILED, 3)


@pytest.mark.parametrize(
    "sacct", [ok(answered("")), ok(answered(SACCT.replace("FAILED", "RUNNING") + "\n")), NO_ANSWER]
)
async def test_the_end_from_the_queue(sacct: CommandResult) -> None:
    transport = ScriptedTransport(sacct=sacct, squeue=[FAILED, ok(answered("17  768\n"))])
    ended = await build(transport).fetch_end(JOB)
    assert ended is not None
    assert ended.end is not None
    assert (ended.end.outcome, ended.end.exit_code) == (Outcome.FAILED, 3)
    # It left the queue between the two questions.
    bare = build(ScriptedTransport(squeue=[FAILED, ok(answered(""))]), accounting=False)
    ended = await bare.fetch_end(JOB)
    assert ended is not None
    assert ended.end is not None
    assert ended.end.exit_code is None


async def test_what_the_accounting_knows_to_live() -> None:
    """A queue that shows nothing (it may be shown to nobody) does not outweigh it."""
    sacct = ok(answered(SACCT.replace("FAILED", "RUNNING") + "\n"))
    record = await build(ScriptedTransport(sacct=sacct, squeue=ok(answered("")))).fetch_end(JOB)
    assert record is not None
    assert record.state is JobState.RUNNING
    assert record.end is None
    assert record.submitted_at is not None


async def test_no_end() -> None:
    empty = ok(answered(""))
    assert await build(ScriptedTransport(sacct=empty, squeue=empty)).fetch_end(JOB) is None
    with pytest.raises(ClusterUnavailable):
        await build(ScriptedTransport(sacct=NO_ANSWER, squeue=empty)).fetch_end(JOB)


async def test_estimates() -> None:
    pending = ROW.replace("RUNNING|c1|c1", "PENDING|n/a|")
    other = pending.replace("17|", "18|").replace("2026-11-20T18:33:35", "N/A")
    transport = ScriptedTransport(squeue=ok(answered(f"{pending}\n{other}\n")))
    found = await build(transport).fetch_estimates([JOB, JobId("18")])
    assert list(found) == [JOB]


async def test_cancel() -> None:
    gone = failed(1, "scancel: error: Kill job error on job id 17: Invalid job id specified")
    for answer in (ok(), gone):
        await build(ScriptedTransport(scancel=answer)).cancel(ALICE, JOB)
    other = one("26.05", "scancel-other").result
    with pytest.raises(RequestRejected):
        await build(ScriptedTransport(scancel=other)).cancel(ALICE, JOB)
    down = one("22.05", "ctld-down-scancel").result
    with pytest.raises(ClusterUnavailable):
        await build(ScriptedTransport(scancel=down)).cancel(ALICE, JOB)


async def test_associations_of_several_clusters() -> None:
    rows = ok(answered("alice|x|one|x|||n||||\nalice|x|two|y|||n||||\n"))
    config = ok(answered("ClusterName = two\n"))
    slurm = build(ScriptedTransport(sacctmgr=[rows, rows], scontrol=config))
    for _ in range(2):
        assert [one.account for one in await slurm.fetch_associations("alice")] == ["y"]
    assert await build(ScriptedTransport(), accounting=False).fetch_associations("alice") == ()


def reservation(name: str, more: str) -> str:
    times = "StartTime=2026-11-20T18:33:52 EndTime=2026-11-20T19:33:52 NodeCnt=1"
    return f"ReservationName={name} {times} State=ACTIVE {more}\n"


async def test_reservations() -> None:
    lines = [
        reservation("mine", "Users=alice,bob"),
        reservation("not-mine", "Users=bob"),
        reservation("maintenance", "Users=root Flags=MAINT"),
        reservation("group", "Groups=staff"),
        reservation("other-group", "Groups=other"),
        reservation("account", "Accounts=x"),
        reservation("other-account", "Accounts=y"),
        reservation("not-bob", "Users=-bob"),
        reservation("not-alice", "Users=-alice"),
        reservation("not-x", "Accounts=-x"),
        reservation("both", "Users=alice Accounts=y"),
        reservation("nobody", "Licenses=z"),
    ]
    transport = ScriptedTransport(
        scontrol=ok(answered("".join(lines))),
        sacctmgr=ok(answered("alice|x|one|x|||n||||\n")),
        id=ok(answered("alice staff\n")),
    )
    names = [one.name for one in await build(transport).fetch_reservations("alice")]
    assert names == ["mine", "maintenance", "group", "account", "not-bob"]
    plain = ok(answered(lines[0]))
    assert await build(ScriptedTransport(scontrol=plain)).fetch_reservations("carol") == ()
    none = ok(answered("No reservations in the system\n"))
    assert await build(ScriptedTransport(scontrol=none)).fetch_reservations("alice") == ()


async def test_partitions_and_version() -> None:
    nodes = ok(answered("c1 small* idle 0/8/0/8 0 20000 (null) (null)\n"))
    partitions = ok(answered("PartitionName=small State=UP\n"))
    slurm = build(
        ScriptedTransport(sinfo=[nodes, ok(answered("slurm 26.05.3\n"))], scontrol=partitions)
    )
    (partition,) = await slurm.fetch_partitions()
    assert (partition.cores_free, partition.gpus) == (8, ())
    assert await slurm.fetch_version() == "slurm 26.05.3"
