"""The adapter: what it asks, in which order, and what it makes of broken answers."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest

from gateway.errors import (
    ClusterRefused,
    ClusterUnavailable,
    ConfigurationError,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.schedulers.pbs import queries
from gateway.schedulers.pbs.adapter import PbsScheduler
from gateway.text import text
from gateway.values.jobs import JobId, JobScript, JobState
from tests.unit.schedulers.pbs.recordings import one
from tests.unit.schedulers.pbs.server import (
    ALICE,
    OBSERVER,
    Answer,
    Server,
    Told,
    job,
    profile,
    scheduler,
)
from tests.unit.schedulers.pbs.test_commands import REQUEST


async def states(asked: PbsScheduler, *ids: str) -> list[JobState]:
    found = await asked.fetch_statuses([JobId(one) for one in ids])
    return [found[JobId(one)].state for one in ids]


async def test_all_jobs_in_one_question() -> None:
    asked, told = scheduler(Server({f"{n}.pbs": job() for n in range(1, 301)}))
    ids = [f"{n}.pbs" for n in range(300, 0, -1)]
    assert set(await states(asked, *ids)) == {JobState.RUNNING}
    assert [actor for actor, _ in told.asked] == ["observer"]
    assert told.asked[0][1][6:8] == ["1.pbs", "2.pbs"]
    assert await asked.fetch_statuses([]) == {}
    assert len(told.asked) == 1


async def test_too_many_for_one_command_line() -> None:
    count = queries.JOBS_PER_QUESTION + 1
    asked, told = scheduler(Server({f"{n}.pbs": job() for n in range(1, count + 1)}))
    await states(asked, *(f"{n}.pbs" for n in range(1, count + 1)))
    assert len(told.asked) == 2


async def test_unknown_hidden_and_malformed() -> None:
    server = Server({"1.pbs": job(), "2.pbs": job()})
    server.hidden = {"2.pbs"}
    asked, told = scheduler(server)
    assert await states(asked, "9.pbs") == [JobState.MISSING]
    assert await states(asked, "1.pbs", "9.pbs") == [JobState.RUNNING, JobState.MISSING]
    assert len(told.asked) == 3
    # Who may not see a job is told nothing of it: it is not gone.
    assert await states(asked, "1.pbs", "2.pbs") == [JobState.RUNNING, JobState.UNKNOWN]
    assert await states(asked, "2.pbs") == [JobState.UNKNOWN]
    assert await states(asked, "x", "1[].pbs") == [JobState.UNKNOWN] * 2


async def test_one_broken_job_does_not_hide_the_others() -> None:
    server = Server({f"{n}.pbs": job() for n in range(1, 65)})
    server.broken = {"23.pbs"}
    asked, told = scheduler(server)
    ids = [f"{n}.pbs" for n in range(1, 65)]
    assert set(await states(asked, *ids)) == {JobState.RUNNING}
    assert len(told.asked) <= 15
    # From then on it is asked about by itself, in the other format.
    told.asked.clear()
    assert set(await states(asked, *ids)) == {JobState.RUNNING}
    assert [command[command.index("-F") + 1] for _, command in told.asked] == ["json", "dsv"]
    assert told.asked[1][1][-1] == "23.pbs"
    del server.jobs["23.pbs"]
    assert await states(asked, "23.pbs") == [JobState.MISSING]
    assert not asked._queries._odd


async def test_many_broken_jobs_are_found_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({f"{n}.pbs": job() for n in range(1, 41)})
    server.broken = {f"{n}.pbs" for n in range(1, 41, 2)}
    asked, told = scheduler(server)
    ids = [f"{n}.pbs" for n in range(1, 41)]
    most = queries.QUESTIONS_PER_LOOK + queries.ODD_PER_LOOK
    found: set[str] = set()
    for _ in range(10):
        told.asked.clear()
        answer = await states(asked, *ids)
        assert set(answer) <= {JobState.RUNNING, JobState.UNKNOWN}
        assert len(told.asked) <= most
        found |= {one for one, state in zip(ids, answer, strict=True) if state is JobState.RUNNING}
    assert found == set(ids)
    assert set(asked._queries._odd) == server.broken
    monkeypatch.setattr(queries, "MOST_ODD", 10)
    await states(asked, *ids)
    assert len(asked._queries._odd) == 10


async def test_a_user_forges_only_about_their_own() -> None:
    # A value with the bars and line ends of the format, as DSV might print it.
    forged = "x|job_state=F\nJob Id: 2.pbs|job_state=F|Job_Owner=bob@login"
    server = Server({"1.pbs": job(Variable_List=forged), "2.pbs": job()})
    server.broken = {"1.pbs"}
    asked, _ = scheduler(server)
    assert await states(asked, "1.pbs", "2.pbs") == [JobState.RUNNING] * 2


@pytest.mark.parametrize(
    "jobs",
    [
        '{"2.pbs": {"job_state": "F", "Job_Owner": "bob@x"}}',
        '{"1.pbs": {"job_state": "F", "job_state": "R", "Job_Owner": "bob@x"}}',
        '{"1.pbs": {"job_state": "R", "Job_Owner": "b@x", "A": {"x": 1, "x": 2}}}',
        '{"1.pbs": {"job_state": 5, "Job_Owner": "bob@x"}}',
        '{"1.pbs": {"job_state": "R", "Job_Owner": "@x"}}',
        '{"1.pbs": {"job_state": "R"}}',
        '{"1.pbs": 7}',
        '{"x": {"1.pbs":{"job_state": "F"}}}',
        "[1]",
        "Infinity",
    ],
)
async def test_answers_that_cannot_be(jobs: str) -> None:
    def answer(argv: list[str]) -> Answer:
        if "dsv" in argv:
            return 0, "garbage\n", ""
        return 0, f'{{"timestamp": 1, "Jobs": {jobs}}}', ""

    asked, _ = scheduler(answer)
    with pytest.raises(ClusterRefused) as caught:
        await states(asked, "1.pbs")
    assert caught.value.reason == "not_understood"


@pytest.mark.parametrize("output", ["", "[]", "{}", "null", "not json", "[" * 100_000])
async def test_garbage_is_an_error_and_not_an_end(output: str) -> None:
    asked, told = scheduler(lambda argv: (0, output if "json" in argv else "?", ""))
    with pytest.raises(ClusterRefused):
        await states(asked, *(f"{n}.pbs" for n in range(1, 500)))
    assert len(told.asked) <= queries.QUESTIONS_PER_LOOK + queries.ODD_PER_LOOK


async def test_variables_that_come_twice_are_the_users_business() -> None:
    twice = '{"timestamp": 1, "Jobs": {"1.pbs": {"job_state": "R", "Job_Owner": "a@x",'
    twice += ' "Variable_List": {"A": 1, "A": 2}}}}'
    asked, _ = scheduler(lambda _: (0, twice, ""))
    assert await states(asked, "1.pbs") == [JobState.RUNNING]


async def test_an_answer_in_dsv_without_the_job() -> None:
    def answer(argv: list[str]) -> Answer:
        if "dsv" not in argv:
            return 0, "nan", ""
        lines = {
            "1.pbs": "Job Id: 1.pbs|job_state=R|Job_Owner=a@x|odd|job_state.x=1\n",
            "2.pbs": "",
        }
        return 0, lines[argv[-1]], ""

    asked, _ = scheduler(answer)
    assert await states(asked, "1.pbs", "2.pbs") == [JobState.RUNNING, JobState.UNKNOWN]


async def test_a_server_without_history() -> None:
    server = Server({"1.pbs": job()})
    server.history = False
    asked, told = scheduler(server)
    assert await states(asked, "1.pbs", "2.pbs") == [JobState.RUNNING, JobState.MISSING]
    assert ["-x" in command for _, command in told.asked] == [True, False, False]
    assert await asked.fetch_end(JobId("1.pbs")) is None
    # Switched on meanwhile: the server says so.
    server.history = True
    server.jobs["1.pbs"] = job("F", substate=92, Exit_status=0)
    told.asked.clear()
    assert await states(asked, "1.pbs") == [JobState.FINISHED]
    assert ["-x" in command for _, command in told.asked] == [False, True]
    assert await asked.fetch_end(JobId("1.pbs")) is not None


async def test_a_server_that_does_not_answer() -> None:
    away = "Connection refused\nqstat: cannot connect to server pbs (errno=15010)"
    asked, _ = scheduler(lambda _: (255, "", away))
    for question in (
        asked.fetch_statuses([JobId("1.pbs")]),
        asked.fetch_partitions(),
        asked.fetch_reservations("alice"),
        asked.find_by_name(ALICE, "lf-1"),
        asked.cancel(ALICE, JobId("1.pbs")),
    ):
        with pytest.raises(ClusterUnavailable):
            await question
    with pytest.raises(SubmitAmbiguous):
        await asked.submit(ALICE, REQUEST, JobScript("#!/bin/sh\n"))
    asked, _ = scheduler(lambda _: (127, "", "sh: qstat: not found"))
    with pytest.raises(ConfigurationError):
        await asked.fetch_statuses([JobId("1.pbs")])
    asked, _ = scheduler(lambda _: (2, "", "qstat: illegal option"))
    with pytest.raises(ClusterRefused):
        await asked.fetch_statuses([JobId("1.pbs")])
    broken = "qstat: illegal\n"
    asked, _ = scheduler(lambda argv: (0, "nan", "") if "json" in argv else (2, "", broken))
    with pytest.raises(ClusterRefused) as caught:
        await asked.fetch_statuses([JobId("1.pbs")])
    assert caught.value.reason == "scheduler_refused"


def say(out: str, _: list[str]) -> Answer:
    return 0, out, ""


async def test_submit() -> None:
    asked, told = scheduler(lambda _: (0, "words of a hook\n17.pbs\n", ""))
    job_id = await asked.submit(ALICE, REQUEST, JobScript("#!/bin/sh\nexit\n"))
    assert job_id == "17.pbs"
    assert told.asked[0][0] == "alice"
    assert told.stdin == b"#!/bin/sh\nexit\n"
    for out in ("", "17.pbs cancelled\n", "nothing\n"):
        asked, _ = scheduler(partial(say, out))
        with pytest.raises(SubmitAmbiguous):
            await asked.submit(ALICE, REQUEST, JobScript("#!/bin/sh\n"))
    asked, _ = scheduler(lambda _: (127, "", "sh: qsub: not found"))
    with pytest.raises(ConfigurationError):
        await asked.submit(ALICE, REQUEST, JobScript("#!/bin/sh\n"))
    asked, _ = scheduler(lambda _: (170, "", "qsub: Unknown queue"))
    with pytest.raises(RequestRejected):
        await asked.submit(ALICE, REQUEST, JobScript("#!/bin/sh\n"))

    def give_up(_: list[str]) -> Answer:
        raise ClusterUnavailable(text("The command took too long."))

    asked, _ = scheduler(give_up)
    with pytest.raises(SubmitAmbiguous):
        await asked.submit(ALICE, REQUEST, JobScript("#!/bin/sh\n"))


async def test_find_by_name() -> None:
    asked, told = scheduler(lambda _: (0, "23.pbs\n7.pbs\n", ""))
    assert await asked.find_by_name(ALICE, "lf-1") == ("7.pbs", "23.pbs")
    assert told.asked == [("alice", ["qselect", "-x", "-u", "alice", "-N", "lf-1"])]
    no_history = "qselect: PBS is not configured to maintain job history"
    asked, told = scheduler(lambda argv: (180, "", no_history) if "-x" in argv else (0, "", ""))
    assert await asked.find_by_name(ALICE, "lf-1") == ()
    assert await asked.find_by_name(ALICE, "lf-1") == ()
    assert ["-x" in command for _, command in told.asked] == [True, False, False]
    asked, _ = scheduler(lambda _: (0, "23.pbs\nwhat?\n", ""))
    with pytest.raises(ClusterRefused):
        await asked.find_by_name(ALICE, "lf-1")


async def test_cancel() -> None:
    asked, told = scheduler(lambda _: (0, "", ""))
    await asked.cancel(ALICE, JobId("17.pbs"))
    assert told.asked == [("alice", ["qdel", "17.pbs"])]
    asked, _ = scheduler(lambda _: (35, "", "qdel: Job has finished 17.pbs"))
    await asked.cancel(ALICE, JobId("17.pbs"))
    asked, _ = scheduler(lambda _: (159, "", "qdel: Unauthorized Request  17.pbs"))
    with pytest.raises(RequestRejected):
        await asked.cancel(ALICE, JobId("17.pbs"))
    # Killed by a signal of that number: no word of the server's.
    asked, _ = scheduler(lambda _: (153, "", ""))
    with pytest.raises(ClusterUnavailable):
        await asked.cancel(ALICE, JobId("17.pbs"))


async def test_estimates() -> None:
    server = Server(
        {
            "1.pbs": job("Q", estimated={"start_time": 1795200000}),
            "2.pbs": job("Q", estimated={"start_time": "Fri Nov 20 18:42:54 2026"}),
            "3.pbs": job("Q"),
            "4.pbs": job("R", estimated={"start_time": 1795200000}),
        }
    )
    asked, _ = scheduler(server)
    assert await asked.fetch_estimates([JobId(f"{n}.pbs") for n in range(1, 5)]) == {
        "1.pbs": datetime.fromtimestamp(1795200000, UTC),
        "2.pbs": datetime(2026, 11, 20, 18, 42, 54, tzinfo=UTC),
    }


async def test_partitions_reservations_version_and_accounts() -> None:
    answers = {
        "-av": one("main-2026-04", "pbsnodes-av-json").text,
        "-Q": one("main-2026-04", "qstat-Q-f-json").text,
        "-B": one("main-2026-04", "qstat-B-f-json").text,
        "--version": "pbs_version = 2024.1.1\n",
    }
    asked, _ = scheduler(lambda argv: (0, answers[argv[1]], ""))
    assert [one.name for one in await asked.fetch_partitions()][:2] == ["workq", "shortq"]
    assert await asked.fetch_version() == "PBS 2024.1.1"
    assert await asked.fetch_associations("alice") == ()
    later = one("main-2026-04", "rstat-later-F").text
    repairs = later.replace("Resv ID: R1105", "Resv ID: M7").replace("R1105", "M7")
    ours = later.replace("R1105", "R9").replace(
        "Authorized_Users = alice,alice@pbs1,bob", "Authorized_Groups = +ocean,-physics"
    )

    def answer(argv: list[str]) -> Answer:
        return (0, "ocean staff\n", "") if argv[0] == "id" else (0, later + repairs + ours, "")

    asked, told = scheduler(answer)
    assert [one.name for one in await asked.fetch_reservations("alice")] == ["R1105", "M7", "R9"]
    assert told.asked[1][1] == ["id", "-Gn", "--", "alice"]
    asked, _ = scheduler(lambda _: (0, later + repairs, ""))
    assert [one.name for one in await asked.fetch_reservations("carol")] == ["M7"]
    asked, _ = scheduler(lambda _: (0, "", ""))
    assert await asked.fetch_reservations("carol") == ()


async def test_states_that_nobody_has_heard_of(caplog: pytest.LogCaptureFixture) -> None:
    met: list[str] = []
    asked, _ = scheduler(Server({"1.pbs": job("Z")}), on_unheard_of=met.append)
    assert await states(asked, "1.pbs") == [JobState.UNKNOWN]
    assert await states(asked, "1.pbs") == [JobState.UNKNOWN]
    assert met == ["Z", "Z"]
    assert len(caplog.records) == 1
    asked, _ = scheduler(Server({"1.pbs": job("Z")}))
    assert await states(asked, "1.pbs") == [JobState.UNKNOWN]


def test_a_profile_of_another_kind() -> None:
    with pytest.raises(ConfigurationError):
        PbsScheduler(Told(lambda _: (0, "", "")), profile("slurm"), OBSERVER)
