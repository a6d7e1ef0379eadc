"""The adapter over a transport that answers from a script."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.errors import (
    ClusterRefused,
    ClusterUnavailable,
    GatewayError,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.profiles.models import ClusterProfile, SlurmSchedulerProfile
from gateway.schedulers.gridengine import adapter
from gateway.schedulers.gridengine.adapter import GridEngineScheduler
from gateway.schedulers.gridengine.commands import program_name
from gateway.text import text
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult, Role
from gateway.values.jobs import JobId, JobScript, JobState, Outcome
from tests.unit.schedulers.gridengine.recordings import (
    BED,
    PROFILE,
    SINGLE,
    answered,
    asked,
    load,
    one,
)
from tests.unit.schedulers.gridengine.test_commands import request
from tests.unit.schedulers.gridengine.test_parsers import JOB, jobs

ALICE, OBSERVER = Actor(Role.USER, "alice"), Actor(Role.OBSERVER, "observer")
ID = JobId("17")
SCRIPT = JobScript("#!/bin/sh\n# é\n")
Answer = CommandResult | GatewayError
DOWN = ClusterUnavailable(text("The login node does not answer."), detail="timed out")


def ok(output: str = "") -> CommandResult:
    return CommandResult((), 0, output.encode(), b"", 0.0)


def failed(stderr: str, status: int = 1) -> CommandResult:
    return CommandResult((), status, b"", stderr.encode(), 0.0)


NO_ANSWER = one(SINGLE, "down-qstat")
NO_RECORD = failed("error: job id 17 not found\n")
WAITING = JOB.replace("<state>r<", "<state>qw<").replace("small.q@c3", "")


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
        answer = self.answers[program_name(argv)].pop(0)
        if isinstance(answer, GatewayError):
            raise answer
        return answer

    async def close(self) -> None: ...


def build(transport: ScriptedTransport, **changes: Any) -> GridEngineScheduler:
    clock = changes.pop("clock", lambda: 0.0)
    told = changes.pop("told", None)
    scheduler = PROFILE.model_copy(update=changes)
    profile = cast(ClusterProfile, SimpleNamespace(scheduler=scheduler))
    return GridEngineScheduler(transport, profile, OBSERVER, on_unheard_of=told, clock=clock)


def test_the_profile_of_another_scheduler() -> None:
    other = cast(ClusterProfile, SimpleNamespace(scheduler=SlurmSchedulerProfile(kind="slurm")))
    with pytest.raises(TypeError):
        GridEngineScheduler(ScriptedTransport(), other, OBSERVER)


async def test_submit() -> None:
    transport = ScriptedTransport(qsub=ok("17\n"))
    assert await build(transport).submit(ALICE, request(), SCRIPT) == "17"
    assert transport.stdin == SCRIPT.text.encode()
    assert transport.asked[0][0] == "alice"


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([DOWN], SubmitAmbiguous),
        ([ok("")], SubmitAmbiguous),
        ([ok("Welcome\n17\n")], SubmitAmbiguous),
        ([one(SINGLE, "down-qsub")], SubmitAmbiguous),
        ([one(SINGLE, "qsub-badqueue")], RequestRejected),
        ([ClusterRefused(text("Not let in."))], ClusterRefused),
        ([one(BED, "qsub-we-gpus"), one(BED, "qsub-wv-gpus")], RequestRejected),
        ([one(BED, "qsub-we-gpus"), DOWN], RequestRejected),
    ],
)
async def test_a_submit_that_fails(answers: list[Answer], kind: type[GatewayError]) -> None:
    transport = ScriptedTransport(qsub=answers)
    with pytest.raises(GatewayError) as caught:
        await build(transport).submit(ALICE, request(), SCRIPT)
    assert type(caught.value) is kind
    assert {actor for actor, _ in transport.asked} == {"alice"}
    # What was refused is asked about again in such a way that no job can come of it.
    assert all(argv[1:3] == ("-w", "v") for _, argv in transport.asked[1:])


NAMED = JOB.replace("<slots>", "<JB_name>lf-1</JB_name><slots>")


async def test_find_by_name() -> None:
    older = NAMED.replace(">17<", ">9<")
    stranger = NAMED.replace(">17<", ">8<").replace("alice", "bob")
    other = NAMED.replace(">17<", ">7<").replace("lf-1", "lf-2")
    queue = ok(jobs(NAMED, older, stranger, other))
    assert await build(ScriptedTransport(qstat=queue)).find_by_name(ALICE, "lf-1") == ("9", "17")
    ended = asked(BED, "qacct-by-name")
    transport = ScriptedTransport(qstat=ok(jobs()), qacct=ended)
    (found,) = await build(transport).find_by_name(ALICE, "lf-1")
    assert found.isdigit()
    assert {actor for actor, _ in transport.asked} == {"alice"}
    bob = Actor(Role.USER, "bob")
    assert (
        await build(ScriptedTransport(qstat=ok(jobs()), qacct=ended)).find_by_name(bob, "lf-1")
        == ()
    )
    none = ScriptedTransport(qstat=ok(jobs()), qacct=one(BED, "qacct-no-name"))
    assert await build(none).find_by_name(ALICE, "lf-1") == ()
    bare = build(ScriptedTransport(qstat=ok(jobs())), accounting=False)
    assert await bare.find_by_name(ALICE, "lf-1") == ()


@pytest.mark.parametrize("answer", [NO_ANSWER, DOWN, ok(""), ok(jobs(JOB)[:-30])])
async def test_no_whole_answer_is_never_nothing(answer: Answer) -> None:
    with pytest.raises((ClusterUnavailable, ClusterRefused)):
        await build(ScriptedTransport(qstat=answer)).find_by_name(ALICE, "lf-1")
    with pytest.raises((ClusterUnavailable, ClusterRefused)):
        await build(ScriptedTransport(qstat=answer)).fetch_statuses([ID])
    with pytest.raises((ClusterUnavailable, ClusterRefused)):
        await build(ScriptedTransport(qacct=answer)).fetch_end(ID)


async def test_statuses() -> None:
    stranger = JOB.replace(">17<", ">99<")
    transport = ScriptedTransport(qstat=ok(jobs(JOB, stranger)))
    odd = JobId("-u bob")
    found = await build(transport).fetch_statuses([ID, JobId("18"), odd])
    assert {job: status.state for job, status in found.items()} == {
        ID: JobState.RUNNING,
        "18": JobState.MISSING,
        odd: JobState.UNKNOWN,
    }
    assert len(transport.asked) == 1
    assert await build(ScriptedTransport()).fetch_statuses([]) == {}
    assert await build(ScriptedTransport()).fetch_estimates([ID]) == {}


async def test_only_the_owners_jobs_are_asked_for_once_they_are_known() -> None:
    other = JOB.replace(">17<", ">18<").replace("alice", "bob")
    queue = ok(jobs(JOB, other))
    transport = ScriptedTransport(qstat=[queue] * 4)
    scheduler = build(transport)
    for asked_for in ([ID], [ID], [ID, JobId("18")], [JobId("18"), ID]):
        found = await scheduler.fetch_statuses(asked_for)
        assert {status.state for status in found.values()} == {JobState.RUNNING}
    users = [argv[argv.index("-u") + 1] for _, argv in transport.asked]
    assert users == ["*", "alice", "*", "alice,bob"]


async def test_why_jobs_wait_is_asked_now_and_then() -> None:
    now = 0.0
    why = answered(
        "<detailed_job_info><djob_info><element><JB_job_number>17</JB_job_number></element>"
        "</djob_info><messages><element><SME_global_message_list><element>"
        "<MES_message>All queues dropped because of overload or full</MES_message></element>"
        "</SME_global_message_list></element></messages></detailed_job_info>"
    )
    held = WAITING.replace(">qw<", ">Eqw<")
    queue = ok(jobs(WAITING))
    transport = ScriptedTransport(
        qstat=[queue, ok(why), queue, queue, NO_ANSWER, ok(jobs(held)), ok(why), ok(jobs(JOB))]
    )
    scheduler = build(transport, clock=lambda: now)

    async def reason() -> str:
        return (await scheduler.fetch_statuses([ID]))[ID].native_reason

    assert (await reason()).startswith("All queues")
    assert (await reason()).startswith("All queues")
    assert len(transport.asked) == 3
    now = 11.0
    # That there is no answer to this is no failure.
    assert await reason() == ""
    assert (await reason()).startswith("All queues")
    assert await reason() == ""
    assert transport.answers["qstat"] == []


async def test_an_unheard_of_state_is_told(caplog: pytest.LogCaptureFixture) -> None:
    met: list[str] = []
    dreaming = ok(jobs(JOB.replace("<state>r<", "<state>rX<")))
    scheduler = build(ScriptedTransport(qstat=[dreaming, dreaming]), told=met.append)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert (await scheduler.fetch_statuses([ID]))[ID].state is JobState.UNKNOWN
    assert met == ["rX", "rX"]
    assert len(caplog.records) == 1


def killed(**changes: str) -> CommandResult:
    written: str = load(SINGLE)["qacct-fin-sigkill"]["stdout"].replace(" 26 ", " 17 ")
    for old, new in changes.items():
        written = written.replace(old, new)
    return ok(answered(written))


async def test_the_end() -> None:
    ended = await build(ScriptedTransport(qacct=killed())).fetch_end(ID)
    assert ended is not None
    assert ended.end is not None
    assert (ended.end.outcome, ended.end.signal) == (Outcome.FAILED, 9)
    # Of another job, of one that goes on, and of none.
    for answer in (killed(alice="bob"), asked(SINGLE, "qacct-fin-exit99"), NO_RECORD):
        job = JobId("29") if b"exit99" in answer.stdout else ID
        found = await build(ScriptedTransport(qacct=answer)).fetch_end(job)
        assert found is None or found.owner == "bob"
    assert await build(ScriptedTransport(qacct=asked(BED, "qacct-oom"))).fetch_end(ID) is None
    assert await build(ScriptedTransport(), accounting=False).fetch_end(ID) is None


async def test_the_last_record_counts() -> None:
    older = killed().text.removesuffix("landfall:answered\n").replace("18:53:38", "10:53:38")
    again = killed().text.replace("failed       100", "failed       25 ")
    both = ok(older + killed().text)
    ended = await build(ScriptedTransport(qacct=both)).fetch_end(ID)
    assert ended is not None
    assert ended.submitted_at is not None
    assert ended.submitted_at.hour == 18
    reran = ok(again.removesuffix("landfall:answered\n") + killed().text)
    assert await build(ScriptedTransport(qacct=reran)).fetch_end(ID) is not None
    back = ok(killed().text.removesuffix("landfall:answered\n") + again)
    assert await build(ScriptedTransport(qacct=back)).fetch_end(ID) is None


async def test_what_was_cancelled_is_remembered() -> None:
    registered = ok("alice has registered the job 17 for deletion\n")
    transport = ScriptedTransport(qdel=registered, qacct=killed())
    scheduler = build(transport)
    await scheduler.cancel(ALICE, ID)
    ended = await scheduler.fetch_end(ID)
    assert ended is not None
    assert ended.end is not None
    assert ended.end.outcome is Outcome.CANCELLED
    # Cancelled by somebody else, and seen on its way.
    dying = ok(jobs(JOB.replace("<state>r<", "<state>dr<")))
    scheduler = build(ScriptedTransport(qstat=dying, qacct=[killed(), NO_RECORD]))
    assert (await scheduler.fetch_statuses([ID]))[ID].state is JobState.ENDING
    ended = await scheduler.fetch_end(ID)
    assert ended is not None
    assert ended.end is not None
    assert ended.end.outcome is Outcome.CANCELLED
    # Its record may be on the way still.
    assert await scheduler.fetch_end(ID) is None


async def test_a_job_cancelled_before_it_ran() -> None:
    deleted = ok("alice has deleted job 17\n")
    again = ok("alice has registered the job 17 for deletion\n")
    transport = ScriptedTransport(qdel=[deleted, again], qacct=NO_RECORD)
    scheduler = build(transport)
    await scheduler.cancel(ALICE, ID)
    await scheduler.cancel(ALICE, ID)
    ended = await scheduler.fetch_end(ID)
    assert ended is not None
    assert ended.end is not None
    assert (ended.state, ended.owner) == (JobState.FINISHED, "alice")
    assert (ended.end.outcome, ended.started_at) == (Outcome.CANCELLED, None)


async def test_not_too_much_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "REMEMBERED", 1)
    answers: list[Answer] = [ok(f"alice has deleted job {job}\n") for job in (17, 18)]
    scheduler = build(ScriptedTransport(qdel=answers, qacct=[NO_RECORD, NO_RECORD]))
    for job in ("17", "18"):
        await scheduler.cancel(ALICE, JobId(job))
    assert await scheduler.fetch_end(ID) is None
    assert await scheduler.fetch_end(JobId("18")) is not None


async def test_cancel() -> None:
    for answer in (one(SINGLE, "qdel-unknown"), one(SINGLE, "qdel-running-again")):
        await build(ScriptedTransport(qdel=answer)).cancel(ALICE, ID)
    with pytest.raises(RequestRejected):
        await build(ScriptedTransport(qdel=one(BED, "qdel-not-mine"))).cancel(ALICE, ID)
    with pytest.raises(ClusterUnavailable):
        await build(ScriptedTransport(qdel=one(SINGLE, "down-qdel"))).cancel(ALICE, ID)


async def test_partitions_and_version() -> None:
    transport = ScriptedTransport(
        qstat=[asked(BED, "qstat-f-F-r-xml"), asked(BED, "qstat-help")],
        qconf=asked(BED, "qconf-sq"),
    )
    scheduler = build(transport)
    assert (await scheduler.fetch_partitions())[0].name == "gpu.q"
    assert await scheduler.fetch_version() == "SGE 8.1.9"


async def test_associations() -> None:
    names, projects = asked(BED, "qconf-sprjl"), asked(BED, "qconf-sprj")
    lists, user = asked(BED, "qconf-su"), asked(BED, "qconf-suser")
    transport = ScriptedTransport(qconf=[names, projects, lists, user])
    (mine,) = await build(transport).fetch_associations("alice")
    assert (mine.account, mine.default) == ("physics", True)
    grouped = ok(lists.text.replace("carol", "@staff"))
    transport = ScriptedTransport(
        qconf=[names, projects, grouped, user], id=ok(answered("alice staff\n"))
    )
    found = await build(transport).fetch_associations("alice")
    assert [one.account for one in found] == ["chemistry", "physics"]
    everybody = ok(projects.text.replace("acl physics", "acl NONE").replace("chemistry", "NONE"))
    transport = ScriptedTransport(qconf=[names, everybody, user])
    assert len(await build(transport).fetch_associations("newcomer")) == 2
    assert await build(ScriptedTransport(), accounting=False).fetch_associations("alice") == ()
    for none in (failed("no project defined\n"), ok(answered(""))):
        assert await build(ScriptedTransport(qconf=none)).fetch_associations("alice") == ()
    with pytest.raises(ClusterUnavailable):
        await build(ScriptedTransport(qconf=NO_ANSWER)).fetch_associations("alice")


async def test_reservations() -> None:
    ids, details = asked(BED, "qrstat-xml"), asked(BED, "qrstat-ar-xml")
    groups = ok(answered("bob longrun\n"))
    for user, count in (("alice", 2), ("bob", 1)):
        transport = ScriptedTransport(qrstat=[ids, details], id=groups)
        assert len(await build(transport).fetch_reservations(user)) == count
    plain = ok(details.text.replace("@longrun", "carol"))
    transport = ScriptedTransport(qrstat=[ids, plain])
    assert len(await build(transport).fetch_reservations("carol")) == 1
    none = ScriptedTransport(qrstat=asked(SINGLE, "qrstat-xml"))
    assert await build(none).fetch_reservations("alice") == ()
