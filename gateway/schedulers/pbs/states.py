"""PBS's states and exit statuses in our words. Pure.

Sources: qstat(1B) and pbs_job_attributes(7B), job states and substates; ``JOB_EXEC_*`` of OpenPBS's
job.h; recordings of 23.06.06 and main.
"""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from gateway.schedulers.pbs.parsers import JobAttributes
from gateway.schedulers.pbs.reasons import explain_waiting
from gateway.schedulers.pbs.values import (
    read_duration,
    read_hosts,
    read_map,
    read_mib,
    read_moment,
    read_number,
    read_text,
)
from gateway.text import Words, text
from gateway.values.jobs import JobEnd, JobId, JobState, JobStatus, Outcome
from gateway.values.resources import MemorySize, format_walltime

STATES: Final = {
    "Q": JobState.PENDING,
    "H": JobState.PENDING,
    "W": JobState.PENDING,
    "T": JobState.PENDING,
    "R": JobState.RUNNING,
    "B": JobState.RUNNING,
    "S": JobState.SUSPENDED,
    "U": JobState.SUSPENDED,
    "E": JobState.ENDING,
    "F": JobState.FINISHED,
    "X": JobState.FINISHED,
    # Moved to another server, which is not asked: nothing follows.
    "M": JobState.UNKNOWN,
}
_DELETED: Final = 91
# 256 + the signal that PBS had sent.
_SENT_TERM: Final = 256 + signals.SIGTERM
_KILL_CORES: Final = frozenset({-24, -25})
_KILL_MEMORY: Final = frozenset({-26, -27})
_KILL_CPU_TIME: Final = -28
_KILL_WALLTIME: Final = -29
# mom's own failures before the script ran: of its files, its shell, its user, a hook.
_NOT_STARTED: Final = frozenset({-1, -2, -3, -7, -10, -13, -16, -17, -21, -22, -23})
# The node or mom went away below the job.
_NODE_FAILED: Final = frozenset({-4, -5, -6, -20})

_ENDED_BY: Final = re.compile(r" and terminated by ([A-Za-z0-9_.-]{1,64})@")
_EXCEEDED: Final = re.compile(r" and exceeded resource ([A-Za-z0-9_]{1,64})")
_TOO_MANY_TRIES: Final = "too many failed attempts"


def build_missing(job: JobId) -> JobStatus:
    """The status of a job that the server does not know."""
    return JobStatus(job_id=job, state=JobState.MISSING)


def build_unknown(job: JobId) -> JobStatus:
    """The status of a job of which an answer says nothing."""
    return JobStatus(job_id=job, state=JobState.UNKNOWN)


def build_status(
    job: JobId, attributes: JobAttributes, unheard_of: Callable[[str], None]
) -> JobStatus:
    """The status of one job; ``unheard_of`` is called with a state that this code does not know."""
    native = read_text(attributes.get("job_state"))
    state = STATES.get(native)
    if state is None:
        unheard_of(native)
        state = JobState.UNKNOWN
    pending = state is JobState.PENDING
    finished = state is JobState.FINISHED
    comment = read_text(attributes.get("comment"))
    hosts = () if pending else read_hosts(attributes.get("exec_host"))
    # A job that was sent to a node and came back has still the time of that.
    started_at = read_moment(attributes.get("stime")) if hosts else None
    walltime = read_duration(read_map(attributes.get("Resource_List")).get("walltime"))
    runs = read_number(attributes.get("run_count")) or 0
    return JobStatus(
        job_id=job,
        state=state,
        native_state=native,
        name=read_text(attributes.get("Job_Name")),
        owner=_read_owner(attributes),
        native_reason=comment,
        reason_words=_explain_waiting(native, attributes, comment) if pending else None,
        batch_node=hosts[0] if hosts else None,
        nodes=hosts,
        partition=read_text(attributes.get("queue")),
        submitted_at=read_moment(attributes.get("ctime")),
        started_at=started_at,
        ends_at=_add(started_at, walltime) if state is JobState.RUNNING else None,
        estimated_start=_read_estimate(attributes) if pending else None,
        # The run that goes on is counted; of a job that waits again, every run is over.
        restarts=max(0, runs if pending else runs - 1),
        end=build_end(attributes) if finished else None,
    )


def _read_owner(attributes: JobAttributes) -> str:
    return read_text(attributes.get("Job_Owner")).partition("@")[0]


def _explain_waiting(native: str, attributes: JobAttributes, comment: str) -> Words:
    holds, depends = read_text(attributes.get("Hold_Types")), bool(attributes.get("depend"))
    return explain_waiting(native, holds, comment, depends=depends)


def _read_estimate(attributes: JobAttributes) -> datetime | None:
    return read_moment(read_map(attributes.get("estimated")).get("start_time"))


def _add(moment: datetime | None, walltime: timedelta | None) -> datetime | None:
    if moment is None or walltime is None:
        return None
    try:
        return moment + walltime
    except OverflowError:
        return None


def build_end(attributes: JobAttributes) -> JobEnd:
    """How a job in state F ended.

    The exit status says most: 0 to 255 the script's own (128 + n: signal n), 256 + n signal n sent
    by PBS, below 0 that PBS ended it or never ran it; the comment says who or which limit.
    """
    status = read_number(attributes.get("Exit_status"))
    comment = read_text(attributes.get("comment"))
    exceeded = _EXCEEDED.search(comment)
    by = _ENDED_BY.search(comment)
    outcome = _find_outcome(status, attributes, exceeded[1] if exceeded else None)
    signal = _find_signal(status) if outcome in (Outcome.FAILED, Outcome.OUT_OF_MEMORY) else None
    code = None
    if outcome in (Outcome.FAILED, Outcome.COMPLETED) and status is not None and status >= 0:
        code = 0 if signal else status
    return JobEnd(
        outcome=outcome,
        words=_build_words(outcome, status, attributes, by[1] if by else None, signal),
        exit_code=code,
        signal=signal,
        cancelled_by=by[1] if by and outcome is Outcome.CANCELLED else None,
        ended_at=read_moment(attributes.get("obittime"))
        or read_moment(attributes.get("history_timestamp")),
    )


def _find_outcome(status: int | None, attributes: JobAttributes, exceeded: str | None) -> Outcome:
    if status == _KILL_WALLTIME or exceeded == "walltime":
        return Outcome.WALLTIME
    if status in _KILL_MEMORY or exceeded in ("mem", "vmem", "pmem", "pvmem"):
        return Outcome.OUT_OF_MEMORY
    if read_number(attributes.get("substate")) == _DELETED:
        return _find_outcome_of_deleted(attributes)
    if status is None:
        # Seen: its dependency can no longer be met.
        return Outcome.NOT_STARTED
    if status == 0:
        return Outcome.COMPLETED
    if status in _NOT_STARTED:
        return Outcome.NOT_STARTED
    if status in _NODE_FAILED:
        return Outcome.NODE_FAILURE
    if status == _SENT_TERM:
        return Outcome.CANCELLED
    if _find_signal(status) == signals.SIGKILL and _used_its_memory(attributes):
        return Outcome.OUT_OF_MEMORY
    return Outcome.FAILED


def _find_outcome_of_deleted(attributes: JobAttributes) -> Outcome:
    if _TOO_MANY_TRIES in read_text(attributes.get("comment")):
        return Outcome.NOT_STARTED
    return Outcome.CANCELLED


def _find_signal(status: int | None) -> int | None:
    if status is None or status <= 128:
        return None
    number = status - 256 if status > 256 else status - 128
    try:
        return signals.Signals(number)
    except ValueError:
        return None


def _used_its_memory(attributes: JobAttributes) -> bool:
    asked = read_mib(read_map(attributes.get("Resource_List")).get("mem"))
    used = read_mib(read_map(attributes.get("resources_used")).get("mem"))
    return asked is not None and used is not None and used >= asked > 0


def _build_words(
    outcome: Outcome,
    status: int | None,
    attributes: JobAttributes,
    ended_by: str | None,
    signal: int | None,
) -> Words:
    amounts = read_map(attributes.get("Resource_List"))
    if outcome is Outcome.CANCELLED:
        return _describe_cancelled(attributes, ended_by)
    if outcome is Outcome.WALLTIME:
        walltime = read_duration(amounts.get("walltime"))
        if not walltime:
            return text("The job reached its time limit.")
        return text("The job reached its time limit of {limit}.", limit=format_walltime(walltime))
    if outcome is Outcome.OUT_OF_MEMORY:
        memory = read_mib(amounts.get("mem"))
        if not memory:
            return text("The job used more memory than it had asked for. Ask for more.")
        return text(
            "The job used more memory than the {memory} it had asked for. Ask for more.",
            memory=str(MemorySize(memory)),
        )
    if outcome is Outcome.NODE_FAILURE:
        return text("The compute node failed.")
    if outcome is Outcome.NOT_STARTED:
        return _describe_not_started(status, attributes)
    if outcome is Outcome.COMPLETED:
        return text("The job came to its end.")
    return _describe_failed(status, signal)


def _describe_cancelled(attributes: JobAttributes, ended_by: str | None) -> Words:
    if attributes.get("reserve_ID") and ended_by in (None, "root"):
        return text("The job was ended by the cluster: its reservation has come to its end.")
    if ended_by is None:
        return text("The job was cancelled.")
    if ended_by == _read_owner(attributes):
        return text("The job was cancelled by its owner.")
    if ended_by == "root":
        return text("The job was cancelled by an administrator of the cluster.")
    return text("The job was cancelled by user {user} of the cluster.", user=ended_by)


def _describe_not_started(status: int | None, attributes: JobAttributes) -> Words:
    if attributes.get("depend") and status is None:
        return text("The job was not started: another job that it waited for did not end well.")
    if status is None:
        return text("The job was not started; the scheduler gave it up.")
    return text(
        "The job was not started: the compute node could not prepare it (status {status}).",
        status=status,
    )


def _describe_failed(status: int | None, signal: int | None) -> Words:
    if signal:
        shown = f"{int(signal)} ({signals.Signals(signal).name})"
        return text("The job was ended by signal {signal}.", signal=shown)
    if status in _KILL_CORES:
        return text("The job used more cores than it had asked for. Ask for more.")
    if status == _KILL_CPU_TIME:
        return text("The job reached its limit of CPU time.")
    if status is not None and status < 0:
        return text("The scheduler ended the job (status {status}).", status=status)
    return text("The job ended with exit code {code}.", code=status or 0)
