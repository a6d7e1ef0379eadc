"""Every relevant recording of real Slurm, 22.05 and 26.05, through the parsers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from gateway.errors import (
    ClusterUnavailable,
    ConfigurationError,
    GatewayError,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.schedulers.slurm.cluster_parsers import (
    parse_associations,
    parse_nodes,
    parse_partitions,
    parse_reservations,
    parse_version,
)
from gateway.schedulers.slurm.parsers import parse_accounting, parse_queue, parse_submitted
from gateway.schedulers.slurm.refusals import explain_cancel, explain_failure, explain_refusal
from gateway.schedulers.slurm.states import build_accounted_status, build_status
from gateway.values.jobs import JobState, JobStatus, Outcome
from tests.unit.schedulers.recordings import (
    VERSIONS,
    Recording,
    answered,
    as_accounting,
    as_associations,
    as_nodes,
    as_queue,
    load,
    one,
)

ACCOUNTED = "22.05-slurmdbd"


def never(native: str) -> None:
    raise AssertionError(native)


def statuses(recording: Recording) -> dict[str, JobStatus]:
    rows = parse_queue(as_queue(recording.stdout))
    return {row.job_id: build_status(row, never) for row in rows}


@pytest.mark.parametrize("version", [*VERSIONS, ACCOUNTED])
def test_every_squeue(version: str) -> None:
    seen = 0
    for recording in load(version):
        wide = any("%i|%T|%r|%B|%N|%P|%u|%a|%j|%V|%S|%e|" in word for word in recording.argv)
        if recording.argv[0] == "squeue" and recording.exit_status == 0 and wide:
            found = statuses(recording)
            assert len(found) == len(recording.stdout.splitlines()), recording.path
            for status in found.values():
                assert status.state is not JobState.UNKNOWN
                assert (status.state is JobState.FINISHED) == (status.end is not None)
                assert (status.state is JobState.PENDING) == (status.reason_words is not None)
                seen += 1
    assert seen > 10


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("squeue-fmt-running", JobState.RUNNING),
        ("squeue-fmt-held", JobState.PENDING),
        ("squeue-fmt-begintime", JobState.PENDING),
        ("squeue-fmt-gpu-waiting", JobState.PENDING),
        ("squeue-fmt-suspended", JobState.SUSPENDED),
        ("squeue-completing", JobState.ENDING),
        ("squeue-fmt-cancelled-pending", JobState.FINISHED),
        ("squeue-fmt-timeout", JobState.PENDING),
    ],
)
def test_states(version: str, name: str, state: JobState) -> None:
    (status,) = statuses(one(version, name)).values()
    assert status.state is state


@pytest.mark.parametrize("version", VERSIONS)
def test_many_jobs_one_unknown(version: str) -> None:
    found = statuses(one(version, "squeue-fmt-many"))
    assert set(found) == {"23", "3", "19", "18", "17"}
    assert found["17"].nodes == (found["17"].batch_node,)
    assert found["3"].end is not None
    assert found["3"].end.outcome is Outcome.FAILED
    begin = found["19"].estimated_start
    assert begin is not None
    assert begin.tzinfo is UTC
    assert "down, drained" in str(found["23"].reason_words)
    assert parse_queue(as_queue(one(version, "squeue-empty").stdout)) == ()
    assert parse_queue(as_queue(one(version, "squeue-unknown-twice").stdout)) == ()


def test_a_cancelled_pending_job_never_started() -> None:
    (status,) = statuses(one("22.05", "squeue-fmt-cancelled-pending")).values()
    assert status.started_at is None
    assert status.batch_node is None
    assert status.end is not None
    assert status.end.ended_at == datetime(2026, 11, 20, 18, 33, 48, tzinfo=UTC)


REFUSED = {
    "sbatch-badpartition": "partition",
    "sbatch-badtime": "walltime",
    "sbatch-badres": "reservation",
    "sbatch-toobigmem": "memory",
    "sbatch-badmem": "memory",
    "sbatch-badgres": "gpus",
    "sbatch-toomanygpu": "gpus",
    "sbatch-in-reservation-denied": "reservation",
    "sbatch-badconstraint": None,
    "sbatch-badoption": None,
    "sbatch-baddirective": None,
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", REFUSED)
def test_refusals(version: str, name: str) -> None:
    recording = one(version, name)
    error = explain_refusal(
        recording.result, gpus="g" in name and "gres" in " ".join(recording.argv)
    )
    assert isinstance(error, RequestRejected)
    field = REFUSED[name]
    assert list(error.fields) == ([field] if field else [])
    words = recording.stderr.splitlines()[-1].split(": ")[-1].split('"')[0]
    assert words.rstrip("!") in str(error)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("sbatch-unknown-account", "account"),
        ("sbatch-account-of-another", "account"),
        ("sbatch-unknown-qos", "qos"),
        ("sbatch-qos-not-allowed", "qos"),
        ("sbatch-forbidden-partition", "partition"),
        ("sbatch-qos-submit-limit", None),
        ("sbatch-assoc-submit-limit", None),
    ],
)
def test_refusals_with_accounting(name: str, field: str | None) -> None:
    error = explain_refusal(one(ACCOUNTED, name).result)
    assert isinstance(error, RequestRejected)
    assert list(error.fields) == ([field] if field else [])


@pytest.mark.parametrize("version", [*VERSIONS, ACCOUNTED])
def test_every_sbatch(version: str) -> None:
    for recording in load(version):
        if recording.argv[0] != "sbatch" or "--parsable" not in recording.argv:
            continue
        job = parse_submitted(recording.stdout)
        assert (job is not None) == (recording.exit_status == 0), recording.path
        if job is None:
            error = explain_refusal(recording.result)
            ambiguous = "down" in recording.name or "hung" in recording.name
            assert isinstance(error, SubmitAmbiguous) == ambiguous, (recording.path, error)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["sbatch-empty", "sbatch-noshebang", "sbatch-crlf"])
def test_scripts_that_are_none(version: str, name: str) -> None:
    assert isinstance(explain_refusal(one(version, name).result), ConfigurationError)


@pytest.mark.parametrize("version", [*VERSIONS, ACCOUNTED])
def test_daemons_that_do_not_answer(version: str) -> None:
    seen = 0
    for recording in load(version):
        away = any(word in recording.name for word in ("-down-", "-hung-"))
        if away and recording.exit_status and recording.argv[0] not in ("sbatch", "scancel"):
            error = explain_failure(recording.result, recording.argv[0])
            assert isinstance(error, ClusterUnavailable), (recording.path, error)
            seen += 1
    assert seen


@pytest.mark.parametrize("version", VERSIONS)
def test_scancel(version: str) -> None:
    def explained(name: str) -> type[GatewayError] | None:
        error = explain_cancel(one(version, name).result)
        return type(error) if error is not None else None

    assert explained("scancel-other") is RequestRejected
    assert explained("scancel-bad") is None
    assert explained("ctld-down-scancel") is ClusterUnavailable
    for name in ("scancel-unknown", "scancel-pending", "scancel-again"):
        assert one(version, name).exit_status == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["sacct-nodb", "sacctmgr-nodb"])
def test_no_accounting(version: str, name: str) -> None:
    error = explain_failure(one(version, name).result, name)
    assert isinstance(error, ConfigurationError)
    assert "scheduler.accounting" in str(error)


@pytest.mark.parametrize("version", VERSIONS)
def test_partitions(version: str) -> None:
    nodes = parse_nodes(as_nodes(one(version, "sinfo-N").stdout))
    first, second = parse_partitions(answered(one(version, "show-partition").stdout), nodes)
    assert (first.name, first.default, first.up) == ("interactive", True, True)
    assert (first.max_walltime, first.default_walltime) == (timedelta(hours=8), timedelta(hours=1))
    assert (first.cores_total, first.cores_free, first.cores_largest_node) == (16, 16, 8)
    assert (first.nodes_total, first.nodes_free) == (2, 2)
    assert first.memory_largest_node is not None
    assert first.memory_largest_node.mib == 20000
    assert first.allowed_accounts is first.allowed_qos is first.allowed_groups is None
    assert (second.name, second.default, second.default_walltime) == ("gpu", False, None)
    (kind,) = second.gpus
    assert (kind.kind, kind.total, kind.free, kind.largest_node) == ("a100", 2, 2, 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_reservations(version: str) -> None:
    rows = parse_reservations(answered(one(version, "resv-show").stdout))
    first, second, third = (row.reservation for row in rows)
    assert (first.name, first.active, first.users) == ("workshop1", True, frozenset({"alice"}))
    assert (second.name, second.active, second.partition) == ("alice_2", False, "interactive")
    assert second.users == {"alice", "bob"}
    assert (third.name, third.maintenance, third.nodes) == ("maint1", True, 2)
    assert third.ends_at - third.starts_at == timedelta(hours=2)
    assert parse_reservations(answered(one(version, "resv-none").stdout)) == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_version(version: str) -> None:
    assert version in parse_version(answered(one(version, "version-squeue").stdout))


def test_every_sacct() -> None:
    outcomes: dict[str, set[Outcome]] = {}
    states: dict[str, JobState | None] = {}
    for recording in load(ACCOUNTED):
        if recording.argv[0] != "sacct" or not recording.stdout.startswith("JobID|JobIDRaw"):
            continue
        if "Comment" not in recording.stdout or recording.exit_status:
            continue
        for row in parse_accounting(as_accounting(recording.stdout)):
            status = build_accounted_status(row, never)
            states[recording.name] = status.state if status is not None else None
            if status is not None and status.end is not None:
                outcomes.setdefault(recording.name, set()).add(status.end.outcome)
    assert outcomes["sacct-oom"] == {Outcome.OUT_OF_MEMORY}
    assert outcomes["sacct-timeout"] == {Outcome.WALLTIME}
    assert outcomes["sacct-preempted"] == {Outcome.PREEMPTED}
    assert outcomes["sacct-node-fail"] == {Outcome.NODE_FAILURE}
    assert outcomes["sacct-cancelled-user"] == {Outcome.CANCELLED}
    for running in ("sacct-running", "sacct-pending", "sacct-suspended", "sacct-requeued"):
        assert running not in outcomes
    assert states["sacct-running"] is JobState.RUNNING
    assert states["sacct-pending"] is JobState.PENDING
    assert states["sacct-suspended"] is JobState.SUSPENDED


def test_the_words_of_the_accounting() -> None:
    def words(name: str) -> str:
        (row,) = parse_accounting(as_accounting(one(ACCOUNTED, name).stdout))
        status = build_accounted_status(row, never)
        assert status is not None
        assert status.end is not None
        return str(status.end.words)

    assert words("sacct-cancelled-root") == (
        "The job was cancelled by an administrator of the cluster."
    )
    assert words("sacct-cancelled-operator") == (
        "The job was cancelled by user 6100 of the cluster."
    )
    assert words("sacct-timeout") == "The job reached its time limit of 1 min."


def test_associations() -> None:
    rows = parse_associations(as_associations(one(ACCOUNTED, "sacctmgr-user").stdout))
    assert [(row.association.account, row.association.default) for row in rows] == [
        ("rrg-physics", False),
        ("def-alice", True),
    ]
    assert rows[1].association.qos == ("normal", "scavenger", "short")


GARBLERS: list[Callable[[str], str]] = [
    lambda text: text[:-1],
    lambda text: text[: len(text) // 2],
    lambda text: text[2:],
    lambda text: text.replace("|", " ", 1),
    lambda text: "Welcome to the cluster!\n" + text,
    lambda _: "",
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("garble", GARBLERS)
def test_a_garbled_answer_is_not_understood(version: str, garble: Callable[[str], str]) -> None:
    text = garble(as_queue(one(version, "squeue-fmt-many").stdout))
    with pytest.raises(GatewayError) as caught:
        parse_queue(text)
    assert caught.value.reason == "not_understood"
