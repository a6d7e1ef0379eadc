"""What a status means: evidence ends a launch, silence never does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.launch.runs import Verdict, find_end_reason, judge
from gateway.launch.states import EndReason, LaunchRecord, LaunchState
from gateway.text import text
from gateway.values.endpoints import EdgeAddress
from gateway.values.identity import ClusterUser, Identity
from gateway.values.jobs import JobEnd, JobId, JobState, JobStatus, Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = JobId("7")
READY = LaunchRecord(
    id="0" * 16,
    cluster="fjord",
    identity=Identity("test", "alice", "alice"),
    server_name="",
    cluster_user=ClusterUser("fjord", "alice"),
    options={},
    base_url="/user/alice/",
    edge=EdgeAddress("127.88.0.2", 21000),
    state=LaunchState.READY,
    created_at=NOW,
    changed_at=NOW,
    job_id=JOB,
    node="n1",
    job_started_at=NOW,
    running_start_id="s",
)
QUEUED = replace(READY, state=LaunchState.QUEUED, node=None, job_started_at=None)
RUNNING = JobStatus(JOB, JobState.RUNNING, batch_node="n1", started_at=NOW)


@pytest.mark.parametrize(
    ("record", "status", "verdict"),
    [
        (QUEUED, JobStatus(JOB, JobState.PENDING), Verdict.NOTHING),
        (QUEUED, RUNNING, Verdict.STARTED),
        (QUEUED, replace(RUNNING, state=JobState.SUSPENDED), Verdict.STARTED),
        (QUEUED, replace(RUNNING, batch_node=None), Verdict.NOTHING),
        (READY, RUNNING, Verdict.NOTHING),
        (READY, replace(RUNNING, started_at=None), Verdict.NOTHING),
        (READY, replace(RUNNING, started_at=NOW + timedelta(seconds=1)), Verdict.NOTHING),
        (READY, replace(RUNNING, started_at=NOW + timedelta(minutes=2)), Verdict.STARTED),
        (READY, replace(RUNNING, batch_node="n2"), Verdict.STARTED),
        (READY, replace(RUNNING, restarts=1), Verdict.STARTED),
        (READY, replace(RUNNING, state=JobState.SUSPENDED), Verdict.NOTHING),
        (READY, JobStatus(JOB, JobState.PENDING), Verdict.NOTHING),
        (READY, JobStatus(JOB, JobState.PENDING, restarts=1), Verdict.REQUEUED),
        (READY, JobStatus(JOB, JobState.ENDING), Verdict.NOTHING),
        (READY, JobStatus(JOB, JobState.UNKNOWN), Verdict.NOTHING),
        (READY, JobStatus(JOB, JobState.MISSING), Verdict.OVER),
        (READY, JobStatus(JOB, JobState.FINISHED), Verdict.OVER),
    ],
)
def test_judge(record: LaunchRecord, status: JobStatus, verdict: Verdict) -> None:
    assert judge(record, status) is verdict


@given(
    st.sampled_from([QUEUED, READY]),
    st.sampled_from(sorted(JobState)),
    st.integers(0, 3),
    st.sampled_from([None, "n1", "n2"]),
    st.sampled_from([None, NOW, NOW + timedelta(hours=1)]),
)
def test_only_evidence_ends_a_launch(
    record: LaunchRecord,
    state: JobState,
    restarts: int,
    node: str | None,
    started_at: datetime | None,
) -> None:
    status = JobStatus(JOB, state, restarts=restarts, batch_node=node, started_at=started_at)
    verdict = judge(record, status)
    assert (verdict is Verdict.OVER) == (state in (JobState.FINISHED, JobState.MISSING))
    if state is JobState.UNKNOWN:
        assert verdict is Verdict.NOTHING


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_a_reason(outcome: Outcome) -> None:
    status = JobStatus(JOB, JobState.FINISHED, end=JobEnd(outcome, text("It ended.")))
    assert find_end_reason(READY, status) in EndReason


def test_end_reasons() -> None:
    completed = JobStatus(JOB, JobState.FINISHED, end=JobEnd(Outcome.COMPLETED, text("It ended.")))
    assert find_end_reason(READY, completed) is EndReason.COMPLETED
    unreached = replace(READY, running_start_id=None)
    assert find_end_reason(unreached, completed) is EndReason.FAILED
    assert find_end_reason(READY, JobStatus(JOB, JobState.MISSING)) is EndReason.GONE
    assert find_end_reason(READY, JobStatus(JOB, JobState.FINISHED)) is EndReason.GONE
