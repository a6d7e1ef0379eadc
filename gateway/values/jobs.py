"""A batch job: what is asked, and what the scheduler says of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

from gateway.text import Words
from gateway.values.identity import ClusterUser
from gateway.values.resources import ResourceRequest

JobId = NewType("JobId", str)
"""The scheduler's own id, as it prints it."""


class JobState(StrEnum):
    """One vocabulary for all schedulers. "Could not ask" (UNKNOWN) is never "gone"."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    ENDING = "ending"
    FINISHED = "finished"
    MISSING = "missing"  # we asked, and it is not there
    UNKNOWN = "unknown"  # we could not ask, or did not understand


class Outcome(StrEnum):
    """Why a job is FINISHED."""

    COMPLETED = "completed"
    FAILED = "failed"  # non-zero exit code or signal of its own
    CANCELLED = "cancelled"
    WALLTIME = "walltime"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAILURE = "node_failure"
    PREEMPTED = "preempted"
    NOT_STARTED = "not_started"  # the scheduler could not start it (launch failure, deadline)
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended; ``words`` is a sentence for its owner."""

    outcome: Outcome
    words: Words
    exit_code: int | None = None
    signal: int | None = None
    cancelled_by: str | None = None  # a name or a uid, as the scheduler tells it
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job at one moment. Times are aware UTC datetimes.

    ``nodes`` are the names the scheduler uses; ``batch_node`` is where the script runs.
    ``restarts`` counts requeues. ``reason_words`` says why it waits; ``native_reason`` is the
    scheduler's own word.
    """

    job_id: JobId
    state: JobState
    native_state: str = ""
    name: str = ""
    owner: str = ""
    native_reason: str = ""
    reason_words: Words | None = None
    batch_node: str | None = None
    nodes: tuple[str, ...] = ()
    partition: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ends_at: datetime | None = None
    estimated_start: datetime | None = None
    restarts: int = 0
    end: JobEnd | None = None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """Everything a scheduler adapter and the renderer need for one submit.

    ``name`` carries the launch id (``lf-<launch id>``) and is the key by which a job is found
    again. ``directory`` (absolute, on the cluster) holds the agent's files of this launch;
    ``log_path`` lies in it. ``start_directory`` is where the notebook opens, ``None`` = home.
    """

    launch_id: str
    name: str
    user: ClusterUser
    resources: ResourceRequest
    environment: str
    directory: str
    log_path: str
    agent_path: str
    start_directory: str | None = None


@dataclass(frozen=True, slots=True)
class JobScript:
    """A rendered job script: text that begins with ``#!`` and holds nothing a user typed
    unquoted and no secret."""

    text: str
