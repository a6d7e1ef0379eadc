"""States, reasons, ends and refusals in words, English and French."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
from gateway.schedulers.slurm import reasons, refusals, states
from gateway.transport.base import CommandResult
from gateway.values.jobs import JobState, Outcome

# squeue(1), JOB STATE CODES, of 22.05.8 and 26.05.3.
NATIVE = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "CONFIGURING",
    "COMPLETING",
    "DEADLINE",
    "EXPEDITING",
    "FAILED",
    "LAUNCH_FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PENDING",
    "POWER_UP_NODE",
    "PREEMPTED",
    "RECONFIG_FAIL",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "REQUEUED",
    "RESIZING",
    "RESV_DEL_HOLD",
    "REVOKED",
    "RUNNING",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
    "TIMEOUT",
    "UPDATE_DB",
]
LIMITS = [
    "QOSMaxJobsPerUserLimit",
    "QOSMaxSubmitJobPerUserLimit",
    "QOSMaxCpuPerUserLimit",
    "QOSGrpCpuLimit",
    "QOSMaxWallDurationPerJobLimit",
    "QOSMaxGRESPerJob",
    "QOSMinCpuNotSatisfied",
    "QOSMaxGRESPerUser",
    "QOSMaxJobsPerAccountLimit",
    "AssocGrpGRES",
    "AssocMaxJobsLimit",
    "AssocMaxWallDurationPerJobLimit",
    "AssocGrpCPUMinutesLimit",
    "AssocMaxCpuPerJobLimit",
    "AssocMaxNodePerJobLimit",
]
NAMED = [
    "Resources",
    "Priority",
    "Dependency",
    "BeginTime",
    "JobHeldUser",
    "JobHeldAdmin",
    "PartitionTimeLimit",
    "PartitionDown",
    "PartitionInactive",
    "PartitionNodeLimit",
    "Reservation",
    "Licenses",
    "BadConstraints",
    "JobArrayTaskLimit",
    "None",
]
SENTENCES = (
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    "ReqNodeNotAvail, May be reserved for other job",
    "ReqNodeNotAvail, Reserved for maintenance",
    "ReqNodeNotAvail, UnavailableNodes:c1",
    "launch failed requeued held",
)


def never(native: str) -> None:
    raise AssertionError(native)


def result(status: int, stderr: str = "") -> CommandResult:
    return CommandResult(("sbatch",), status, b"", stderr.encode(), 0.0)


@pytest.mark.parametrize("native", NATIVE)
def test_every_documented_state_is_known(native: str) -> None:
    assert isinstance(states.build_state(native, never), JobState)


@given(native=st.text(max_size=30))
def test_an_unheard_of_state_ends_nothing(native: str) -> None:
    met: list[str] = []
    state = states.build_state(native, met.append)
    assert native in NATIVE or (state is JobState.UNKNOWN and met == [native])


@pytest.mark.parametrize("reason", [*NAMED, *LIMITS, *SENTENCES])
def test_reasons_in_both_languages(reason: str) -> None:
    words = reasons.explain_reason("PENDING", reason)
    assert not str(words).startswith("The scheduler says")
    assert words.render("fr") != words.render("en")


def test_particular_reasons() -> None:
    def said(reason: str) -> str:
        return str(reasons.explain_reason("PENDING", reason))

    assert "as many jobs as you may" in said("QOSMaxJobsPerUserLimit")
    assert "as many jobs as you may" in said("AssocMaxJobsLimit")
    assert said("QOSMaxWallDurationPerJobLimit").startswith("The walltime is longer")
    assert said("AssocGrpGRES").startswith("The account has reached its limit (AssocGrpGRES)")
    assert said("Odd new reason.") == "The scheduler says: Odd new reason."
    assert str(reasons.explain_reason("CONFIGURING", "None")) == (
        "The compute node is being prepared."
    )


@given(reason=st.text(max_size=300))
def test_any_reason_has_words(reason: str) -> None:
    words = reasons.explain_reason("PENDING", reason)
    assert words.render("en")
    assert words.render("fr")


END = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize("state", states.OUTCOMES)
def test_every_end_has_words(state: str) -> None:
    end = states.build_end(state, ended_at=END)
    assert end.outcome is states.OUTCOMES[state]
    assert end.words.render("fr") != end.words.render("en")
    assert end.ended_at == END


def test_ends() -> None:
    def said(state: str, **more: object) -> tuple[Outcome, str]:
        end = states.build_end(state, **more)  # type: ignore[arg-type]
        return end.outcome, str(end.words)

    assert said("FAILED", code=3) == (Outcome.FAILED, "The job ended with exit code 3.")
    assert said("FAILED", code=0, signal=9)[1] == "The job was ended by signal 9 (SIGKILL)."
    assert said("FAILED", code=0, signal=99)[1] == "The job was ended by signal 99."
    assert said("FAILED", code=0, signal=53)[0] is Outcome.NOT_STARTED
    assert "output file" in said("FAILED", code=0, signal=53)[1]
    assert said("FAILED", reason="OutOfMemory")[0] is Outcome.OUT_OF_MEMORY
    assert "4G" in said("OUT_OF_MEMORY", memory="4G")[1]
    for walltime, shown in (
        (timedelta(hours=2), "2 h"),
        (timedelta(minutes=90), "01:30:00"),
        (timedelta(minutes=20), "20 min"),
    ):
        assert said("TIMEOUT", walltime=walltime)[1].endswith(f"limit of {shown}.")
    cancelled = [
        said("CANCELLED", cancelled_by=by, owners=frozenset({"alice", "1001"}))[1]
        for by in ("1001", "alice", "0", "bob")
    ]
    assert cancelled == [
        "The job was cancelled by its owner.",
        "The job was cancelled by its owner.",
        "The job was cancelled by an administrator of the cluster.",
        "The job was cancelled by user bob of the cluster.",
    ]


REFUSED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("Invalid account or account/partition combination specified", "account"),
        ("Invalid qos specification", "qos"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "walltime"),
        ("Invalid generic resource (gres) specification", "gpus"),
        ("More processors requested than permitted", "cores"),
        ("Unspecified error", None),
    ],
)
def test_what_the_user_must_change(words: str, field: str | None) -> None:
    error = refusals.explain_refusal(result(1, f"{REFUSED}{words}\n"))
    assert isinstance(error, RequestRejected)
    assert list(error.fields) == ([field] if field else [])
    assert words in error.user_message.render("fr")


@pytest.mark.parametrize(
    "words",
    [
        *(f"{REFUSED}Socket timed out on send/recv operation", "", "Killed"),
        *(f"{REFUSED}Zero Bytes were transmitted or received", "sbatch: warning: odd"),
        *(
            f"{REFUSED}Slurm backup controller in standby mode",
            f"{REFUSED}Connection reset by peer",
        ),
        *(f"{REFUSED}Slurm temporarily unable to accept job, sleeping and retrying",),
        *(f"{REFUSED}Unexpected message received", f"{REFUSED}Protocol authentication error"),
    ],
)
def test_what_is_no_clear_refusal(words: str) -> None:
    for status in (0, 1, 137):
        assert isinstance(refusals.explain_refusal(result(status, words)), SubmitAmbiguous)


@given(status=st.integers(0, 255), words=st.text(max_size=120))
def test_any_failure_is_an_error_of_ours(status: int, words: str) -> None:
    assert isinstance(refusals.explain_refusal(result(status, words)), GatewayError)
    assert isinstance(refusals.explain_failure(result(status, words), "squeue"), GatewayError)
    refusals.explain_cancel(result(status, words))


def test_failures_by_who_must_act() -> None:
    def kind(status: int, words: str) -> type[GatewayError]:
        return type(refusals.explain_failure(result(status, words), "squeue"))

    assert kind(127, "sh: 1: squeue: not found") is ConfigurationError
    assert kind(1, "") is ClusterUnavailable
    assert kind(137, "") is ClusterUnavailable
    assert kind(1, "squeue: error: Invalid user: x") is ClusterRefused
    assert isinstance(refusals.explain_refusal(result(127, "not found")), ConfigurationError)
    gone = "scancel: error: Kill job error on job id 1: Invalid job id specified"
    assert refusals.explain_cancel(result(1, gone)) is None
