"""Grid Engine's states and end reasons in our words. Pure.

Sources: qstat(1), "state"; accounting(5), "failed" and "exit_status"; sge_conf(5), of 8.1.9.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from gateway.schedulers.ending_words import name_signal, show_walltime
from gateway.schedulers.gridengine.parsers import (
    AccountingRow,
    QueueRow,
    parse_duration,
    parse_memory,
)
from gateway.schedulers.gridengine.reasons import explain_reason
from gateway.text import Words, text
from gateway.values.jobs import JobEnd, JobId, JobState, JobStatus, Outcome
from gateway.values.resources import MemorySize

# Letters that qstat(1) knows; the state of a job is several of them.
KNOWN: Final = frozenset("dEhrRsSTtwqPz")
# failed codes that say that the job's own script never ran; see _NOT_STARTED_WORDS.
NOT_STARTED: Final = frozenset({1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 21, 26, 27, 28, 29, 31, 36, 38})
# The job goes back into the queue.
NOT_FINAL: Final = frozenset({24, 25})
NODE_FAILED: Final = frozenset({18, 19, 20})
LIMIT_ENFORCED: Final = 37
# The limits are looked at every second or so.
_NEARLY: Final = 0.97
_SLACK: Final = timedelta(seconds=1)
_KILLS: Final = frozenset({signals.SIGKILL, signals.SIGXCPU, signals.SIGUSR1})


def build_state(native: str, unheard_of: Callable[[str], None]) -> JobState:
    """Map a native state; ``unheard_of`` is called with one that this code does not know.

    A job in error (``Eqw``) waits: it is there until somebody clears or deletes it.
    """
    letters = set(native)
    if not letters or letters - KNOWN:
        unheard_of(native)
        return JobState.UNKNOWN
    if "z" in letters:
        return JobState.MISSING  # ended; how, the accounting tells
    if "d" in letters:
        return JobState.ENDING
    if letters & set("qwP"):
        return JobState.PENDING
    if letters & set("sST"):
        return JobState.SUSPENDED
    if letters & set("rt"):
        return JobState.RUNNING
    unheard_of(native)
    return JobState.UNKNOWN


def build_status(row: QueueRow, reason: str, unheard_of: Callable[[str], None]) -> JobStatus:
    """The status of one job of the queue; ``reason`` is what Grid Engine says of its waiting."""
    if row.several:
        # Not a job of ours any more; nothing follows from one of its tasks.
        unheard_of("array")
        return JobStatus(job_id=row.job_id, state=JobState.UNKNOWN, native_state=row.state)
    state = build_state(row.state, unheard_of)
    if state is JobState.MISSING:
        return build_missing(row.job_id)
    pending = state is JobState.PENDING
    started = None if pending else row.started_at
    node = None if pending else row.node
    ends = started + row.walltime if started is not None and row.walltime is not None else None
    return JobStatus(
        job_id=row.job_id,
        state=state,
        native_state=row.state,
        owner=row.owner,
        native_reason=reason if pending else "",
        reason_words=explain_reason(row.state, reason) if pending else None,
        batch_node=node,
        nodes=() if node is None else (node,),
        partition=row.queue,
        submitted_at=row.submitted_at,
        started_at=started,
        ends_at=ends,
        restarts=int("R" in row.state),
    )


def build_missing(job: JobId) -> JobStatus:
    """The status of a job that an answer does not list."""
    return JobStatus(job_id=job, state=JobState.MISSING)


def build_deleted(job: JobId, owner: str) -> JobStatus:
    """A job that qdel says it deleted before it ran: the accounting never hears of it."""
    return JobStatus(
        job_id=job,
        state=JobState.FINISHED,
        owner=owner,
        end=JobEnd(Outcome.CANCELLED, text("The job was cancelled.")),
    )


def build_ended_status(
    row: AccountingRow, *, memory_complex: str, memory_per_slot: bool, cancelled: bool
) -> JobStatus | None:
    """The status of a job by its last record; ``None`` while that is not final.

    ``cancelled``: somebody deleted it, which the record does not tell from any other kill.
    """
    if row.failed in NOT_FINAL:
        return None
    limit = parse_memory(row.requests.get(memory_complex, ""))
    if limit is not None and memory_per_slot:
        limit *= row.slots
    node = row.node if row.started_at is not None else None
    return JobStatus(
        job_id=row.job_id,
        state=JobState.FINISHED,
        owner=row.owner,
        native_reason=row.failed_words,
        batch_node=node,
        nodes=() if node is None else (node,),
        partition=row.queue,
        submitted_at=row.submitted_at,
        started_at=row.started_at,
        end=_build_end(row, limit, cancelled=cancelled),
    )


def _build_end(row: AccountingRow, memory: float | None, *, cancelled: bool) -> JobEnd:
    code, signal = row.exit_status, None
    if code > 128 and row.failed != 0:
        code, signal = 0, code - 128
    outcome, words = _build_outcome(row, memory, code, signal, cancelled=cancelled)
    return JobEnd(
        outcome=outcome, words=words, exit_code=code, signal=signal, ended_at=row.ended_at
    )


def _build_outcome(
    row: AccountingRow,
    memory: float | None,
    code: int,
    signal: int | None,
    *,
    cancelled: bool,
) -> tuple[Outcome, Words]:
    if row.failed in NOT_STARTED:
        if cancelled and row.started_at is None and row.failed not in _NOT_STARTED_WORDS:
            return Outcome.CANCELLED, text("The job was cancelled.")
        return Outcome.NOT_STARTED, _explain_not_started(row)
    if row.failed in NODE_FAILED:
        return Outcome.NODE_FAILURE, text("The compute node failed.")
    walltime = parse_duration(row.requests.get("h_rt", ""))
    if row.failed == LIMIT_ENFORCED or signal in _KILLS:
        if memory is not None and row.memory_used >= memory * _NEARLY:
            return Outcome.OUT_OF_MEMORY, _explain_memory(memory)
        if walltime is not None and _elapsed(row) >= walltime - _SLACK:
            return Outcome.WALLTIME, text(
                "The job reached its time limit of {limit}.", limit=show_walltime(walltime)
            )
        if row.failed == LIMIT_ENFORCED:
            return Outcome.WALLTIME, text(
                "The scheduler ended the job at one of its limits (time or memory)."
            )
    if signal is not None:
        if cancelled:
            return Outcome.CANCELLED, text("The job was cancelled.")
        return Outcome.FAILED, text(
            "The job was ended by signal {signal}.", signal=name_signal(signal)
        )
    if code:
        return Outcome.FAILED, text("The job ended with exit code {code}.", code=code)
    return Outcome.COMPLETED, text("The job came to its end.")


def _elapsed(row: AccountingRow) -> timedelta:
    if row.started_at is None or row.ended_at is None:
        return timedelta()
    return row.ended_at - row.started_at


def _explain_memory(limit: float) -> Words:
    return text(
        "The job used more memory than the {memory} it had asked for. Ask for more.",
        memory=str(MemorySize(max(1, round(limit / (1 << 20))))),
    )


_NOT_STARTED_WORDS: Final = {
    26: text(
        "The job was not started: its output file could not be written. Is the disk full, or over"
        " quota?"
    ),
    27: text("The job was not started: there is no /bin/bash on the compute node."),
    28: text("The job was not started: its directory is not there on the compute node."),
}


def _explain_not_started(row: AccountingRow) -> Words:
    return _NOT_STARTED_WORDS.get(
        row.failed,
        text("The job was not started: {words}.", words=row.failed_words or f"failed {row.failed}"),
    )
