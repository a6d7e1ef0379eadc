"""Every relevant recording of OpenPBS, 23.06.06 and main, through the parsers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.errors import (
    ClusterRefused,
    ClusterUnavailable,
    ConfigurationError,
    GatewayError,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.profiles.models import PbsSchedulerProfile
from gateway.schedulers.pbs.cluster_parsers import (
    parse_nodes,
    parse_partitions,
    parse_reservations,
)
from gateway.schedulers.pbs.parsers import (
    parse_ids,
    parse_job_line,
    parse_jobs,
    parse_submitted,
    parse_version,
    says_no_history,
)
from gateway.schedulers.pbs.refusals import explain_cancel, explain_failure, explain_refusal
from gateway.schedulers.pbs.states import build_status
from gateway.values.jobs import JobId, JobState, JobStatus, Outcome
from gateway.values.resources import GpuRequest, MemorySize, ResourceRequest
from tests.unit.schedulers.pbs.recordings import VERSIONS, Recording, about_jobs, load, one

PROFILE = PbsSchedulerProfile(kind="pbs")
REQUEST = ResourceRequest("shared", timedelta(hours=1), 1, MemorySize(100))
# Users made these; 23.06.06 prints them raw.
BROKEN = ("nan", "inf", "dot", "plus", "var-bs-d", "var-bs-u")


def never(native: str) -> None:
    raise AssertionError(native)


def listed(recording: Recording) -> list[JobId]:
    """The ids that the text has, whatever a parser makes of it."""
    ids = [word.split('"')[1] for word in recording.text.splitlines() if '.pbs1":' in word]
    return list(dict.fromkeys(map(JobId, ids)))


def statuses(recording: Recording) -> dict[JobId, JobStatus]:
    answer = parse_jobs(recording.text, listed(recording))
    return {job: build_status(job, found, never) for job, found in answer.jobs.items()}


def status(version: str, name: str) -> JobStatus:
    (found,) = statuses(one(version, name)).values()
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_answer_about_jobs(version: str) -> None:
    understood, refused = 0, set()
    for recording in about_jobs(version):
        ids = listed(recording)
        if any("[" in job for job in ids):
            continue
        try:
            found = statuses(recording)
        except ClusterRefused:
            refused.add(recording.name)
            continue
        understood += 1
        assert list(found) == ids, recording.path
        for status in found.values():
            assert status.state is not JobState.UNKNOWN
            assert status.owner in ("alice", "bob", "carol", "root"), recording.path
            assert status.submitted_at is not None
            assert (status.state is JobState.FINISHED) == (status.end is not None)
            assert (status.state is JobState.PENDING) == (status.reason_words is not None)
            assert status.nodes or status.started_at is None, recording.path
            if status.end is not None:
                assert status.end.ended_at is not None
                assert status.end.outcome is not Outcome.UNKNOWN
    assert understood > 60
    twice = {"qstat-same-id-twice"} if version == "23.06.06" else set()
    assert twice <= refused
    for name in refused - twice:
        assert version == "23.06.06"
        assert any(word in name for word in BROKEN), name
    assert len(refused) > 10 or version != "23.06.06"


@pytest.mark.parametrize("version", VERSIONS)
def test_text_and_json_say_the_same(version: str) -> None:
    seen = 0
    for recording in about_jobs(version, "dsv"):
        job = JobId(recording.argv[-1])
        asked = [
            one
            for one in about_jobs(version)
            if one.argv[-1] == job and "same-id" not in one.name and "many" not in one.name
        ]
        (lined,) = parse_job_line(recording.text, job).jobs.values()
        mine = build_status(job, lined, never)
        others = [
            found[job]
            for found in map(statuses, asked)
            if job in found and found[job].native_state == mine.native_state
        ]
        if others:
            seen += 1
            assert mine in others, recording.path
    assert seen > 5


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("qstat-x-f-json-running", JobState.RUNNING),
        ("qstat-x-f-json-queued-insufficient", JobState.PENDING),
        ("qstat-x-f-json-held-user", JobState.PENDING),
        ("qstat-x-f-json-waiting", JobState.PENDING),
        ("qstat-x-f-json-dependency-held", JobState.PENDING),
        ("qstat-x-f-json-suspended", JobState.SUSPENDED),
        ("qstat-f-json-exiting", JobState.ENDING),
        ("qstat-f-json-qdel-force", JobState.ENDING),
        ("qstat-x-f-json-finished-ok", JobState.FINISHED),
        # A former run's exit status says nothing of the run that goes on.
        ("qstat-x-f-json-after-qrerun", JobState.RUNNING),
    ],
)
def test_states(version: str, name: str, state: JobState) -> None:
    assert status(version, name).state is state


@pytest.mark.parametrize("version", VERSIONS)
def test_a_running_job(version: str) -> None:
    found = status(version, "qstat-x-f-json-running")
    assert (found.name, found.owner, found.partition) == ("sim.run_1", "alice", "workq")
    assert (found.batch_node, found.nodes) == ("pbs1", ("pbs1",))
    assert found.started_at is not None
    assert found.started_at.tzinfo is UTC
    assert found.ends_at == found.started_at + timedelta(minutes=10)
    assert found.restarts == 0
    assert status(version, "qstat-x-f-json-after-qrerun").restarts == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "outcome", "code", "signal", "words"),
    [
        ("finished-ok", Outcome.COMPLETED, 0, None, "The job came to its end."),
        ("finished-exit3", Outcome.FAILED, 3, None, "The job ended with exit code 3."),
        ("finished-exit255", Outcome.FAILED, 255, None, "The job ended with exit code 255."),
        ("finished-sigkill-self", Outcome.FAILED, 0, 9, "The job was ended by signal 9 (SIGKILL)."),
        ("finished-sigsegv-child", Outcome.FAILED, 0, 11, "signal 11 (SIGSEGV)"),
        ("finished-walltime", Outcome.WALLTIME, None, None, "time limit of 00:00:05"),
        ("finished-walltime-trap", Outcome.WALLTIME, None, None, "time limit"),
        ("deleted-while-queued", Outcome.CANCELLED, None, None, "The job was cancelled."),
        ("deleted-while-running", Outcome.CANCELLED, None, None, "cancelled by its owner"),
        ("deleted-ignores-term", Outcome.CANCELLED, None, None, "cancelled by its owner"),
        ("qdel-force", Outcome.CANCELLED, None, None, "cancelled by its owner"),
        ("resv-run-bob-killed", Outcome.CANCELLED, None, None, "its reservation has come to"),
        ("resv-deleted", Outcome.CANCELLED, None, None, "its reservation has come to"),
        ("dependency-afterok-parent-deleted", Outcome.NOT_STARTED, None, None, "another job"),
    ],
)
def test_ends(
    version: str, name: str, outcome: Outcome, code: int | None, signal: int | None, words: str
) -> None:
    end = status(version, f"qstat-x-f-json-{name}").end
    assert end is not None
    assert (end.outcome, end.exit_code, end.signal) == (outcome, code, signal)
    assert words in end.words.render("en")
    assert end.words.render("fr") != end.words.render("en")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("queued-never-ncpus", "64 of ncpus, and there are 4; the job cannot start as it is"),
        ("queued-never-host", "No node can give what is asked for (host)"),
        ("queued-never-chunks", "cannot start as it is (Not enough total nodes available)"),
        ("queued-stoppedq", "The queue does not start jobs now."),
        ("held-user", "Held by its owner"),
        ("held-system", "Held by the scheduler or an administrator"),
        ("waiting", "earliest start time"),
        ("dependency-held", "Waiting for another job to end."),
        ("queued-insufficient", "Waiting for enough free cores, memory or GPUs."),
        ("runhook-reject", "The cluster says: project has no hours left."),
    ],
)
def test_reasons(version: str, name: str, words: str) -> None:
    names = (f"qstat-x-f-json-{name}", f"qstat-f-json-{name}")
    recording = next(one for one in load(version) if one.name in names)
    (found,) = statuses(recording).values()
    assert found.reason_words is not None
    assert words in found.reason_words.render("en")
    assert found.reason_words.render("fr") != found.reason_words.render("en")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("why-ncpus-2", "Waiting for enough of ncpus: 2 asked for, 1 of 4 free."),
        ("why-server-max_run", "as many jobs as you may have"),
        ("why-group-limit", "Your group or project has reached a limit"),
        ("why-overall-limit", "A limit of the cluster is reached"),
        ("why-excl", "Waiting for enough free cores, memory or GPUs."),
        ("why-queue-resource", "2 of ncpus, and there are 1; the job cannot start as it is."),
    ],
)
def test_reasons_with_other_jobs_around(name: str, words: str) -> None:
    found = status("main-2026-04", f"qstat-x-f-json-{name}").reason_words
    assert found is not None
    assert words in found.render()


@pytest.mark.parametrize("version", VERSIONS)
def test_no_job_and_no_history(version: str) -> None:
    for recording in load(version):
        if recording.name.startswith("nohist-qstat-x"):
            assert says_no_history(recording.stderr.decode())
            assert parse_jobs(recording.text, []).jobs == {}
    assert parse_jobs(one(version, "qstat-E-all-unknown").text, [JobId("99998.pbs1")]).jobs == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_that_are_not_utf8(version: str) -> None:
    recording = one(version, "qstat-x-f-json-nlval-v")
    assert len(statuses(recording)) == 1
    if version != "23.06.06":
        with pytest.raises(UnicodeDecodeError):
            recording.stdout.decode()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_name_that_looks_like_a_number(version: str) -> None:
    for recording in about_jobs(version):
        if recording.name.endswith(("name-007", "name-1e3", "name-true", "name-null")):
            assert isinstance(next(iter(statuses(recording).values())).name, str)
    assert statuses(one(version, "qstat-f-json-comment-null"))


@pytest.mark.parametrize("version", VERSIONS)
def test_submitted(version: str) -> None:
    good = one(version, "qsub-good-stdin")
    assert parse_submitted(good.text) == good.text.strip()
    for recording in load(version):
        # With block=true qsub ends as the job does.
        failed = recording.exit_status not in (0, None) and "block" not in recording.name
        if recording.argv[0] == "qsub" and failed:
            assert parse_submitted(recording.text) is None


@pytest.mark.parametrize("version", VERSIONS)
def test_every_refusal_of_qsub(version: str) -> None:
    clear = set()
    for recording in load(version):
        if recording.argv[0] != "qsub" or recording.exit_status in (0, None):
            continue
        error = explain_refusal(recording.effect, REQUEST, "ngpus")
        assert isinstance(error, GatewayError)
        expected: type[GatewayError] = RequestRejected
        if recording.name.startswith(("down-", "noconf-")) or "block" in recording.name:
            expected = SubmitAmbiguous
        if "badserver" in recording.name:
            expected = SubmitAmbiguous
        if any(word in recording.name for word in ("crlf", "bad-directive-opt", "directory")):
            expected = ConfigurationError
        assert type(error) is expected, (recording.path, error)
        clear.add(recording.exit_status)
    assert {1, 2, 32, 38, 159, 162, 166, 170, 173, 187, 188} <= clear


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("qsub-badqueue", ["partition"]),
        ("qsub-disabledq", ["partition"]),
        ("qsub-aclq", ["partition"]),
        ("qsub-bad-walltime", ["walltime"]),
        ("qsub-bad-mem", ["memory"]),
        ("qsub-bad-select-ncpus", ["cores"]),
        ("qsub-project-plus5", ["account"]),
        ("qsub-toobig-walltime", []),
        ("qsub-badresource-l", []),
    ],
)
def test_fields_at_fault(version: str, name: str, fields: list[str]) -> None:
    error = explain_refusal(one(version, name).effect, REQUEST, "ngpus")
    assert isinstance(error, RequestRejected)
    assert list(error.fields) == fields


@pytest.mark.parametrize("version", VERSIONS)
def test_fields_of_reservations_and_gpus(version: str) -> None:
    inside = ResourceRequest(
        "shared", timedelta(hours=1), 1, MemorySize(100), GpuRequest(1), reservation="R5"
    )
    error = explain_refusal(one(version, "qsub-resv-carol").effect, inside, "ngpus")
    assert isinstance(error, RequestRejected)
    assert list(error.fields) == ["reservation"]
    unknown = one(version, "qsub-badresource-select").effect
    error = explain_refusal(unknown, inside, "nosuchres")
    assert isinstance(error, RequestRejected)
    assert list(error.fields) == ["gpus"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qdel-unknown", None),
        ("qdel-twice-finished", None),
        ("qdel-exiting", None),
        ("qdel-other-user", RequestRejected),
        ("qdel-mom-down-running", ClusterUnavailable),
        ("down-qdel", ClusterUnavailable),
    ],
)
def test_cancel(version: str, name: str, expected: type[GatewayError] | None) -> None:
    error = explain_cancel(one(version, name).effect)
    assert (None if error is None else type(error)) is expected


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_is_away(version: str) -> None:
    seen = 0
    for recording in load(version):
        asks = recording.argv[0] in ("qstat", "pbsnodes", "pbs_rstat", "qselect")
        if asks and recording.name.startswith(("down-", "noconf-")) and recording.exit_status:
            error = explain_failure(recording.result, recording.argv[0])
            assert type(error) is ClusterUnavailable, recording.path
            seen += 1
    assert seen > 5


@pytest.mark.parametrize("version", VERSIONS)
def test_queues(version: str) -> None:
    nodes = parse_nodes(one(version, "pbsnodes-av-json").text, PROFILE)
    server = one(version, "qstat-B-f-json").text
    found = {
        row.name: row
        for row in parse_partitions(one(version, "qstat-Q-f-json").text, server, nodes)
    }
    assert found["workq"].default
    assert sum(row.default for row in found.values()) == 1
    assert found["workq"].max_walltime is None
    assert (found["workq"].cores_total, found["workq"].cores_free) == (4, 4)
    assert (found["workq"].nodes_total, found["workq"].nodes_free) == (1, 1)
    assert found["workq"].memory_largest_node == MemorySize(8192)
    assert found["shortq"].max_walltime == timedelta(hours=1)
    assert found["shortq"].default_walltime == timedelta(minutes=10)
    assert found["shortq"].cores_largest_node == 2
    assert [name for name, row in found.items() if not row.up] == ["disabledq", "stoppedq"]
    # A routing queue reaches what its destinations reach.
    assert found["routeq"].cores_total == 4
    busy = parse_nodes(one(version, "pbsnodes-resv-running").text, PROFILE)
    assert [(node.cores_free, node.idle) for node in busy] == [(2, False)]
    with_resv = one(version, "qstat-Q-all-with-resv").text
    assert "R1" in with_resv
    assert {row.name for row in parse_partitions(with_resv, server, nodes)} == set(found)
    (away,) = parse_nodes(one(version, "pbsnodes-a-json-offline").text, PROFILE)
    assert (away.cores, away.cores_free, away.idle) == (4, 0, False)


@pytest.mark.parametrize("version", VERSIONS)
def test_reservations(version: str) -> None:
    (row,) = parse_reservations(one(version, "rstat-later-F").text)
    found = row.reservation
    assert found.name.startswith("R")
    assert found.name in one(version, "rstat-later-F").text.splitlines()[8]
    assert found.ends_at - found.starts_at == timedelta(hours=1)
    assert found.starts_at.date() == datetime(2026, 11, 20, tzinfo=UTC).date()
    assert (found.active, found.nodes, found.maintenance) == (False, 1, False)
    assert found.users == {"alice", "bob"}
    (running,) = parse_reservations(one(version, "rstat-soon-running").text)
    assert running.reservation.active
    (standing,) = parse_reservations(one(version, "rstat-standing").text)
    assert standing.reservation.name.startswith("S")
    assert parse_reservations(one(version, "rstat-unknown").text) == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_ids_and_version(version: str) -> None:
    ids = parse_ids(one(version, "qselect-u").text)
    assert len(ids) == 6
    assert list(ids) == sorted(ids, key=lambda job: int(job.split(".")[0]))
    assert parse_ids(one(version, "qselect-none").text) == ()
    assert parse_version(one(version, "version-qstat").text) == "PBS 23.06.06"
