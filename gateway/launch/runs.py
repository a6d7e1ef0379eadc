"""What a job's status means for its launch; pure."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum, auto
from typing import Final

from gateway.launch.states import EndReason, LaunchRecord, LaunchState
from gateway.values.jobs import JobState, JobStatus, Outcome

# A scheduler may round the start time differently in two of its answers.
_SAME_START: Final = timedelta(seconds=2)


class Verdict(Enum):
    """What follows from a status."""

    NOTHING = auto()
    STARTED = auto()  # a run begins: the first one, or another one after a requeue
    REQUEUED = auto()  # it waits again
    OVER = auto()


def judge(record: LaunchRecord, status: JobStatus) -> Verdict:
    """Say what ``status`` means for a launch that is QUEUED, STARTING, CONNECTING or READY.

    UNKNOWN means nothing. So does PENDING after running without another restart: a controller
    that was restored from an older state says it of a job that still runs.
    """
    match status.state:
        case JobState.FINISHED | JobState.MISSING:
            return Verdict.OVER
        case JobState.RUNNING | JobState.SUSPENDED:
            if record.state is LaunchState.QUEUED or _is_other_run(record, status):
                return Verdict.STARTED if status.batch_node else Verdict.NOTHING
            return Verdict.NOTHING
        case JobState.PENDING:
            waits = record.state is LaunchState.QUEUED
            return (
                Verdict.REQUEUED
                if not waits and status.restarts > record.restarts
                else Verdict.NOTHING
            )
        case JobState.ENDING | JobState.UNKNOWN:
            return Verdict.NOTHING


def _is_other_run(record: LaunchRecord, status: JobStatus) -> bool:
    if status.restarts > record.restarts:
        return True
    if status.batch_node is not None and record.node not in (None, status.batch_node):
        return True
    if record.job_started_at is None or status.started_at is None:
        return False
    return abs(status.started_at - record.job_started_at) > _SAME_START


_REASONS: Final[dict[Outcome, EndReason]] = {
    Outcome.COMPLETED: EndReason.COMPLETED,
    Outcome.FAILED: EndReason.FAILED,
    Outcome.CANCELLED: EndReason.CANCELLED,
    Outcome.WALLTIME: EndReason.WALLTIME,
    Outcome.OUT_OF_MEMORY: EndReason.OUT_OF_MEMORY,
    Outcome.NODE_FAILURE: EndReason.NODE_FAILURE,
    Outcome.PREEMPTED: EndReason.PREEMPTED,
    Outcome.NOT_STARTED: EndReason.FAILED,
    Outcome.UNKNOWN: EndReason.GONE,
}


def find_end_reason(record: LaunchRecord, status: JobStatus) -> EndReason:
    """Return why a launch ends whose job is over and whose end nobody here asked for.

    A job that completed without its server ever having been reached has failed.
    """
    if status.state is JobState.MISSING or status.end is None:
        return EndReason.GONE
    reason = _REASONS[status.end.outcome]
    if reason is EndReason.COMPLETED and record.running_start_id is None:
        return EndReason.FAILED
    return reason
