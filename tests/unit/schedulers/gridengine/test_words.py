"""States, reasons, ends and refusals in words, English and French."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    ClusterRefused,
    ClusterUnavailable,
    ConfigurationError,
    GatewayError,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.schedulers.gridengine import reasons, refusals, states
from gateway.schedulers.gridengine.parsers import AccountingRow, QueueRow
from gateway.transport.base import CommandResult
from gateway.values.jobs import JobId, JobState, Outcome
from tests.unit.schedulers.gridengine.recordings import BED, PROFILE, SINGLE, load, one

BEGAN = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("native", "state"),
    [
        ("qw", JobState.PENDING),
        ("hqw", JobState.PENDING),
        ("Eqw", JobState.PENDING),
        ("EhRqw", JobState.PENDING),
        ("Rq", JobState.PENDING),
        ("t", JobState.RUNNING),
        ("r", JobState.RUNNING),
        ("hr", JobState.RUNNING),
        ("Rr", JobState.RUNNING),
        ("Rt", JobState.RUNNING),
        ("s", JobState.SUSPENDED),
        ("S", JobState.SUSPENDED),
        ("tT", JobState.SUSPENDED),
        ("dr", JobState.ENDING),
        ("dRt", JobState.ENDING),
        ("ds", JobState.ENDING),
        ("z", JobState.MISSING),
    ],
)
def test_states(native: str, state: JobState) -> None:
    def never(_: str) -> None:
        raise AssertionError

    assert states.build_state(native, never) is state


@pytest.mark.parametrize("native", ["", "x", "rX", "E", "h", "r w"])
def test_states_that_are_not_known(native: str) -> None:
    met: list[str] = []
    assert states.build_state(native, met.append) is JobState.UNKNOWN
    assert met == [native]


@given(st.text(max_size=6))
def test_any_state(native: str) -> None:
    met: list[str] = []
    assert (states.build_state(native, met.append) is JobState.UNKNOWN) == bool(met)


def queue_row(state: str) -> QueueRow:
    return QueueRow(
        JobId("17"), state, "lf-1", "alice", "a.q", "c1", 1, None, BEGAN, timedelta(hours=1)
    )


def test_statuses() -> None:
    met: list[str] = []
    again = states.build_status(queue_row("Rr"), "", met.append)
    assert (again.restarts, again.ends_at) == (1, BEGAN + timedelta(hours=1))
    waiting = states.build_status(queue_row("Rqw"), "full", met.append)
    assert (waiting.started_at, waiting.nodes, waiting.native_reason) == (None, (), "full")
    assert states.build_status(queue_row("z"), "", met.append).state is JobState.MISSING
    assert met == []


SAID = {
    ("qw", ""): "Waiting in the queue.",
    ("hqw", "anything"): "Held; it starts once it is released.",
    ("qw", 'has no permission for cluster queue "a.q"'): "You may not use this queue.",
    ("qw", "job dropped because of user quota"): "You have as many jobs",
    ("qw", "job dependencies not fulfilled"): "Waiting for another job to end.",
    ("qw", 'queue "a.q@c1" dropped because it is disabled'): "The queue does not start jobs now.",
    ("qw", 'queue "a.q@c1" dropped because it is temporarily not available'): "The compute nodes",
    ("qw", "job requests unknown resource (gpu)"): "The queue or the reservation does not offer",
    ("qw", "advance reservation 7 is not running"): "Waiting for its reservation to begin.",
    ("qw", "All queues dropped because of overload or full"): "Next in line",
    ("qw", 'queue "a.q@c1" dropped because it is disabled; "a.q@c2" dropped because it is full'): (
        "Next in line"
    ),
    ("qw", 'cannot run in PE "smp" because it only offers 0 slots'): "Next in line",
    ("qw", "something\x00 new."): "The scheduler says: something? new.",
    ("Eqw", "error: can't open output file"): "its output file could not be written",
    ("Eqw", "error: can't chdir to /x"): "its directory is not there",
    ("Eqw", "can't get password entry for user"): "does not know your account",
    ("Eqw", "unable to find shell"): "there is no /bin/bash",
    ("Eqw", "exit_status of job start = 100"): "exit code 100",
    ("Eqw", "prolog exited with 1"): "the site's prolog failed",
    ("Eqw", "a new kind of error."): "a new kind of error. It will not start",
    ("Eqw", ""): "The compute node could not start the job. It will not start; cancel it.",
}


@pytest.mark.parametrize(("state", "reason"), list(SAID))
def test_reasons(state: str, reason: str) -> None:
    words = reasons.explain_reason(state, reason)
    assert SAID[state, reason] in words.render("en")
    assert words.render("fr") != words.render("en")


@given(st.text(max_size=300), st.sampled_from(["qw", "Eqw"]))
def test_any_reason(reason: str, state: str) -> None:
    assert reasons.explain_reason(state, reason).render("fr").isprintable()


def record(**changes: Any) -> AccountingRow:
    values: dict[str, Any] = {
        "job_id": JobId("17"),
        "owner": "alice",
        "queue": "a.q",
        "node": "c1",
        "slots": 2,
        "failed": 0,
        "failed_words": "",
        "exit_status": 0,
        "submitted_at": BEGAN,
        "started_at": BEGAN,
        "ended_at": BEGAN + timedelta(hours=1),
        "memory_used": 0.0,
        "requests": {"h_rt": "7200", "h_vmem": "1G"},
        **changes,
    }
    return AccountingRow(**values)


GIB = float(1 << 30)


@pytest.mark.parametrize(
    ("changes", "outcome", "words"),
    [
        ({}, Outcome.COMPLETED, "The job came to its end."),
        ({"exit_status": 137}, Outcome.FAILED, "exit code 137"),
        ({"failed": 100, "exit_status": 139}, Outcome.FAILED, "signal 11 (SIGSEGV)"),
        ({"failed": 100, "exit_status": 255}, Outcome.FAILED, "signal 127"),
        ({"failed": 100, "exit_status": 137}, Outcome.FAILED, "signal 9 (SIGKILL)"),
        # Older versions do not say 37.
        (
            {"failed": 100, "exit_status": 137, "requests": {"h_rt": "3600"}},
            Outcome.WALLTIME,
            "its time limit of 1 h",
        ),
        (
            {"failed": 100, "exit_status": 152, "requests": {"h_rt": "0:60:0"}},
            Outcome.WALLTIME,
            "its time limit of 1 h",
        ),
        (
            {"failed": 37, "requests": {"h_rt": "90:00"}},
            Outcome.WALLTIME,
            "one of its limits (time or memory)",
        ),
        (
            {"failed": 37, "requests": {"h_rt": "1800"}},
            Outcome.WALLTIME,
            "its time limit of 30 min",
        ),
        (
            {"failed": 37, "memory_used": 2.1 * GIB},
            Outcome.OUT_OF_MEMORY,
            "more memory than the 2G",
        ),
        ({"failed": 37, "memory_used": 1.1 * GIB, "started_at": None}, Outcome.WALLTIME, "limits"),
        ({"failed": 19}, Outcome.NODE_FAILURE, "The compute node failed."),
        ({"failed": 26}, Outcome.NOT_STARTED, "its output file could not be written"),
        ({"failed": 27}, Outcome.NOT_STARTED, "there is no /bin/bash"),
        ({"failed": 8, "failed_words": "in prolog"}, Outcome.NOT_STARTED, "started: in prolog."),
        ({"failed": 21}, Outcome.NOT_STARTED, "started: failed 21."),
        ({"failed": 15, "exit_status": 3}, Outcome.FAILED, "exit code 3"),
    ],
)
def test_ends(changes: dict[str, Any], outcome: Outcome, words: str) -> None:
    status = states.build_ended_status(
        record(**changes), memory_complex="h_vmem", memory_per_slot=True, cancelled=False
    )
    assert status is not None
    assert status.end is not None
    assert status.end.outcome is outcome
    assert words in status.end.words.render("en")
    assert status.end.words.render("fr") != status.end.words.render("en")


def test_ends_of_cancelled_jobs_and_of_whole_job_limits() -> None:
    def end(*, cancelled: bool = True, **changes: Any) -> Outcome:
        status = states.build_ended_status(
            record(**changes), memory_complex="h_vmem", memory_per_slot=False, cancelled=cancelled
        )
        assert status is not None
        assert status.end is not None
        return status.end.outcome

    assert end(failed=100, exit_status=137) is Outcome.CANCELLED
    assert end(failed=100, exit_status=143) is Outcome.CANCELLED
    assert end(failed=21, started_at=None) is Outcome.CANCELLED
    assert end(failed=26, started_at=None) is Outcome.NOT_STARTED
    # It had reached a limit before anybody cancelled it.
    assert end(failed=37, memory_used=1.1 * GIB) is Outcome.OUT_OF_MEMORY
    assert end() is Outcome.COMPLETED


def failed(words: str, status: int = 1, *, stdout: str = "") -> CommandResult:
    return CommandResult((), status, stdout.encode(), words.encode(), 0.0)


@pytest.mark.parametrize("name", [name for name in load(SINGLE) if name.startswith("down-")])
def test_every_dead_qmaster(name: str) -> None:
    result = one(SINGLE, name)
    if result.exit_status == 0:
        return
    if name == "down-qsub":
        assert isinstance(refusals.explain_refusal(result, PROFILE), SubmitAmbiguous)
    elif name == "down-qdel":
        assert isinstance(refusals.explain_cancel(result), ClusterUnavailable)
    else:
        assert isinstance(refusals.explain_failure(result, "qstat"), ClusterUnavailable)


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (failed("", 1), ClusterUnavailable),
        (failed("Killed", 137), ClusterUnavailable),
        (failed("sh: qstat: not found", 127), ConfigurationError),
        (one(BED, "no-cell"), ConfigurationError),
        (one(BED, "no-cell-qacct"), ConfigurationError),
        (failed('denied: host "c1" is neither submit nor admin host'), ConfigurationError),
        (failed("denied: something new"), ClusterRefused),
    ],
)
def test_failures(result: CommandResult, kind: type[GatewayError]) -> None:
    error = refusals.explain_failure(result, "qstat")
    assert type(error) is kind
    assert error.user_message.render("fr") != error.user_message.render("en")


REFUSED = "Unable to run job: {}\nExiting.\n"


@pytest.mark.parametrize(
    ("result", "kind", "fields"),
    [
        (one(SINGLE, "qsub-badqueue"), RequestRejected, ["partition"]),
        (one(SINGLE, "qsub-badproject"), RequestRejected, ["account"]),
        (one(SINGLE, "qsub-badrt"), RequestRejected, ["walltime"]),
        (one(SINGLE, "qsub-badpe"), RequestRejected, ["cores"]),
        (one(SINGLE, "qsub-badopt"), RequestRejected, []),
        (one(SINGLE, "qsub-badname"), RequestRejected, []),
        (one(SINGLE, "qsub-emptyscript"), ConfigurationError, None),
        (one(SINGLE, "qsub-empty-stdin"), ConfigurationError, None),
        (one(BED, "qsub-noproject"), RequestRejected, ["account"]),
        (one(BED, "qsub-noar"), RequestRejected, ["reservation"]),
        (one(BED, "no-cell-qsub"), ConfigurationError, None),
        (
            failed(REFUSED.format('denied: host "c1" is not a submit host')),
            ConfigurationError,
            None,
        ),
        (
            failed(REFUSED.format('the requested parallel environment "smp" does not exist')),
            ConfigurationError,
            None,
        ),
        (failed("sh: qsub: not found", 127), ConfigurationError, None),
        (failed("Error reading answer list from qmaster"), SubmitAmbiguous, None),
        (failed("", 1), SubmitAmbiguous, None),
        (failed("", 0, stdout="Your job 17"), SubmitAmbiguous, None),
    ],
)
def test_refusals(
    result: CommandResult, kind: type[GatewayError], fields: list[str] | None
) -> None:
    error = refusals.explain_refusal(result, PROFILE)
    assert type(error) is kind
    assert error.user_message.render("fr") != error.user_message.render("en")
    if isinstance(error, RequestRejected):
        assert list(error.fields) == fields
        assert "Exiting" not in str(error.user_message)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("queue", "partition"),
        ("walltime", "walltime"),
        ("memory", "memory"),
        ("cores", "cores"),
        ("gpus", "gpus"),
        ("no-gpus", "gpus"),
    ],
)
def test_what_no_queue_can_run(name: str, field: str) -> None:
    refused = one(BED, f"qsub-we-{name}")
    assert refusals.is_unsuitable(refused)
    error = refusals.explain_unsuitable(one(BED, f"qsub-wv-{name}"), refused, PROFILE)
    assert isinstance(error, RequestRejected)
    assert list(error.fields) == [field]
    assert "interactive.q" not in str(error.user_message)


@pytest.mark.parametrize(
    "verified", [one(BED, "qsub-wv-fine"), failed(""), one(SINGLE, "down-qsub")]
)
def test_no_better_words(verified: CommandResult) -> None:
    refused = one(BED, "qsub-we-queue")
    error = refusals.explain_unsuitable(verified, refused, PROFILE)
    assert isinstance(error, RequestRejected)
    assert "no suitable queues" in str(error.user_message)


def test_cancel() -> None:
    for name in ("qdel-queued-again", "qdel-unknown"):
        assert refusals.explain_cancel(one(SINGLE, name)) is None
    for version, name in ((SINGLE, "qdel-other-user"), (BED, "qdel-not-mine")):
        assert isinstance(refusals.explain_cancel(one(version, name)), RequestRejected)
    assert isinstance(refusals.explain_cancel(failed("odd")), ClusterRefused)
    assert refusals.was_deleted_at_once(one(SINGLE, "qdel-queued"), "21")
    assert not refusals.was_deleted_at_once(one(SINGLE, "qdel-queued"), "22")
    assert not refusals.was_deleted_at_once(one(SINGLE, "qdel-running"), "18")
    assert not refusals.was_deleted_at_once(one(SINGLE, "qdel-queued-again"), "21")


def test_no_record() -> None:
    for version, name in (
        (SINGLE, "qacct-unknown"),
        (SINGLE, "qacct-deleted-queued"),
        (BED, "qacct-no-name"),
    ):
        assert refusals.has_no_record(one(version, name))
    assert refusals.has_no_record(failed("no jobs running since startup"))
    assert not refusals.has_no_record(one(BED, "no-cell-qacct"))
    assert not refusals.has_no_record(one(SINGLE, "qacct-fin-ok"))


@given(st.text(max_size=200), st.integers(min_value=0, max_value=255))
def test_any_refusal(words: str, status: int) -> None:
    result = failed(words.encode(errors="replace").decode(), status)
    for error in (
        refusals.explain_refusal(result, PROFILE),
        refusals.explain_unsuitable(result, result, PROFILE),
        refusals.explain_failure(result, "qstat"),
    ):
        assert error.user_message.render("en").isprintable()
