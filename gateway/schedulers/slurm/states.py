"""Slurm's states and end reasons in our words. Pure.

Sources: squeue(1), JOB STATE CODES and JOB REASON CODES, of 22.05.8 and 26.05.3.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from gateway.schedulers.ending_words import name_signal, show_walltime
from gateway.schedulers.slurm.parsers import AccountingRow, QueueRow
from gateway.schedulers.slurm.reasons import explain_reason
from gateway.text import Words, text
from gateway.values.jobs import JobEnd, JobId, JobState, JobStatus, Outcome

STATES: Final = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,  # the node boots or is prepared; nothing of ours runs yet
    "POWER_UP_NODE": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "EXPEDITING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
    "COMPLETING": JobState.ENDING,
    "STAGE_OUT": JobState.ENDING,
    # Seen on the way to another state, or about a job of another cluster: nothing follows.
    "REVOKED": JobState.UNKNOWN,
    "LAUNCH_FAILED": JobState.UNKNOWN,
    "RECONFIG_FAIL": JobState.UNKNOWN,
    "UPDATE_DB": JobState.UNKNOWN,
}
OUTCOMES: Final = {
    "COMPLETED": Outcome.COMPLETED,
    "FAILED": Outcome.FAILED,
    "CANCELLED": Outcome.CANCELLED,
    "TIMEOUT": Outcome.WALLTIME,
    "OUT_OF_MEMORY": Outcome.OUT_OF_MEMORY,
    "NODE_FAIL": Outcome.NODE_FAILURE,
    "PREEMPTED": Outcome.PREEMPTED,
    "BOOT_FAIL": Outcome.NOT_STARTED,
    "DEADLINE": Outcome.NOT_STARTED,
}
# slurmd's own exit of a job whose output file it could not open (sbatch(1), --output).
_OUTPUT_UNWRITABLE: Final = 53


def build_state(native: str, unheard_of: Callable[[str], None]) -> JobState:
    """Map a native state; ``unheard_of`` is called with one that this code does not know."""
    if native in OUTCOMES:
        return JobState.FINISHED
    state = STATES.get(native)
    if state is None:
        unheard_of(native)
        return JobState.UNKNOWN
    return state


def build_status(row: QueueRow, unheard_of: Callable[[str], None]) -> JobStatus:
    """The status of one job of the queue."""
    state = build_state(row.state, unheard_of)
    pending = state is JobState.PENDING
    finished = state is JobState.FINISHED
    started = not pending and bool(row.nodes)
    return JobStatus(
        job_id=row.job_id,
        state=state,
        native_state=row.state,
        owner=row.owner,
        native_reason=row.reason,
        reason_words=explain_reason(row.state, row.reason) if pending else None,
        batch_node=None if pending else row.batch_node,
        nodes=row.nodes,
        partition=row.partition,
        submitted_at=row.submitted_at,
        started_at=row.starts_at if started else None,
        ends_at=row.ends_at if started and not finished else None,
        estimated_start=row.starts_at if pending else None,
        end=build_end(row.state, reason=row.reason, ended_at=row.ends_at) if finished else None,
    )


def build_accounted_status(
    row: AccountingRow, unheard_of: Callable[[str], None]
) -> JobStatus | None:
    """The status of one job of the accounting; ``None`` when its record tells neither an end nor
    that it lives."""
    state = build_state(row.state, unheard_of)
    if state is not JobState.FINISHED and state is not JobState.UNKNOWN:
        begun = row.started_at if state is not JobState.PENDING else None
        return JobStatus(
            job_id=row.job_id,
            state=state,
            native_state=row.state,
            owner=row.owner,
            partition=row.partition,
            submitted_at=row.submitted_at,
            started_at=begun,
            ends_at=begun + row.walltime if begun and row.walltime else None,
        )
    if state is JobState.UNKNOWN or row.ended_at is None:
        return None
    return JobStatus(
        job_id=row.job_id,
        state=JobState.FINISHED,
        native_state=row.state,
        owner=row.owner,
        native_reason=row.reason,
        batch_node=row.nodes[0] if row.nodes else None,
        nodes=row.nodes,
        partition=row.partition,
        submitted_at=row.submitted_at,
        started_at=row.started_at if row.nodes else None,
        end=build_end(
            row.state,
            reason=row.reason,
            code=row.exit_code,
            signal=row.signal,
            cancelled_by=row.cancelled_by,
            walltime=row.walltime,
            memory=row.memory,
            ended_at=row.ended_at,
            owners=frozenset({row.owner, row.owner_uid}),
        ),
    )


def build_missing(job: JobId) -> JobStatus:
    """The status of a job that an answer does not list."""
    return JobStatus(job_id=job, state=JobState.MISSING)


def build_end(
    state: str,
    *,
    reason: str = "",
    code: int | None = None,
    signal: int | None = None,
    cancelled_by: str | None = None,
    walltime: timedelta | None = None,
    memory: str = "",
    ended_at: datetime | None = None,
    owners: frozenset[str] = frozenset(),
) -> JobEnd:
    """How a job ended; ``state`` is one of :data:`OUTCOMES`,
    ``owners`` the names under which its owner may be told to have cancelled it."""
    outcome = OUTCOMES[state]
    if outcome is Outcome.FAILED and reason == "OutOfMemory":
        outcome = Outcome.OUT_OF_MEMORY
    elif outcome is Outcome.FAILED and signal == _OUTPUT_UNWRITABLE:
        outcome = Outcome.NOT_STARTED
    describe = _WORDS.get(outcome)
    words = (
        describe(state, reason, code, signal)
        if describe
        else _build_words(outcome, cancelled_by, owners, walltime, memory)
    )
    return JobEnd(
        outcome=outcome,
        words=words,
        exit_code=code,
        signal=signal or None,
        cancelled_by=cancelled_by,
        ended_at=ended_at,
    )


def _build_failed(state: str, reason: str, code: int | None, signal: int | None) -> Words:
    if signal:
        return text("The job was ended by signal {signal}.", signal=name_signal(signal))
    if code:
        return text("The job ended with exit code {code}.", code=code)
    return text("The job failed.")


def _build_not_started(state: str, reason: str, code: int | None, signal: int | None) -> Words:
    if state == "BOOT_FAIL":
        return text("The job was not started: its compute node could not be booted.")
    if state == "DEADLINE":
        return text("The job was not started before its deadline.")
    return text(
        "The job was not started: its output file could not be written. Is the disk full, or over"
        " quota?"
    )


_WORDS: Final = {Outcome.FAILED: _build_failed, Outcome.NOT_STARTED: _build_not_started}


def _build_words(
    outcome: Outcome,
    cancelled_by: str | None,
    owners: frozenset[str],
    walltime: timedelta | None,
    memory: str,
) -> Words:
    if outcome is Outcome.CANCELLED:
        if cancelled_by is None:
            return text("The job was cancelled.")
        if cancelled_by in owners:
            return text("The job was cancelled by its owner.")
        if cancelled_by in ("0", "root"):
            return text("The job was cancelled by an administrator of the cluster.")
        return text("The job was cancelled by user {user} of the cluster.", user=cancelled_by)
    if outcome is Outcome.WALLTIME:
        if walltime is None:
            return text("The job reached its time limit.")
        return text("The job reached its time limit of {limit}.", limit=show_walltime(walltime))
    if outcome is Outcome.OUT_OF_MEMORY:
        if not memory:
            return text("The job used more memory than it had asked for. Ask for more.")
        return text(
            "The job used more memory than the {memory} it had asked for. Ask for more.",
            memory=memory,
        )
    if outcome is Outcome.NODE_FAILURE:
        return text("The compute node failed.")
    if outcome is Outcome.PREEMPTED:
        return text("The job was ended to make room for one with more priority.")
    return text("The job came to its end.")
