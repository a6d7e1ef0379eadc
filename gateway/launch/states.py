"""The states of a launch, and the record that the store keeps of one."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from gateway.text import Words
from gateway.values.endpoints import EdgeAddress
from gateway.values.identity import ClusterUser, Identity
from gateway.values.jobs import JobId

JOB_NAME_PREFIX: Final = "lf-"


class LaunchState(StrEnum):
    """Where a launch stands; persisted before each effect on the cluster."""

    REQUESTED = "requested"
    SUBMITTING = "submitting"  # the submit may have happened: ask by name before another
    QUEUED = "queued"
    STARTING = "starting"  # the job runs; its agent has not been reached yet
    CONNECTING = "connecting"  # reached before or just now; the server is not usable (again) yet
    READY = "ready"
    ENDING = "ending"  # somebody asked for the end; cancel is retried until it is certain
    ENDED = "ended"


# An older state may follow on evidence only: a requeued job is QUEUED again.
TRANSITIONS: Final[dict[LaunchState, frozenset[LaunchState]]] = {
    LaunchState.REQUESTED: frozenset(
        {LaunchState.SUBMITTING, LaunchState.ENDING, LaunchState.ENDED}
    ),
    LaunchState.SUBMITTING: frozenset({LaunchState.QUEUED, LaunchState.ENDING, LaunchState.ENDED}),
    LaunchState.QUEUED: frozenset({LaunchState.STARTING, LaunchState.ENDING, LaunchState.ENDED}),
    LaunchState.STARTING: frozenset(
        {
            LaunchState.STARTING,  # another run began before the agent of this one was reached
            LaunchState.CONNECTING,
            LaunchState.QUEUED,
            LaunchState.ENDING,
            LaunchState.ENDED,
        }
    ),
    LaunchState.CONNECTING: frozenset(
        {
            LaunchState.READY,
            LaunchState.QUEUED,
            LaunchState.STARTING,
            LaunchState.ENDING,
            LaunchState.ENDED,
        }
    ),
    LaunchState.READY: frozenset(
        {
            LaunchState.CONNECTING,
            LaunchState.QUEUED,
            LaunchState.STARTING,
            LaunchState.ENDING,
            LaunchState.ENDED,
        }
    ),
    LaunchState.ENDING: frozenset({LaunchState.ENDED}),
    LaunchState.ENDED: frozenset(),
}

LIVE_STATES: Final = frozenset(LaunchState) - {LaunchState.ENDED}
# At most one launch of a server is in one of these (the store enforces it); one that is ENDING is
# left to finish beside its successor: edge and directory are per launch.
ADOPTABLE_STATES: Final = LIVE_STATES - {LaunchState.ENDING}


class EndReason(StrEnum):
    """Why a launch ended."""

    STOPPED = "stopped"  # a person, the culler or an admin asked
    REJECTED = "rejected"  # the scheduler or we refused the request
    COMPLETED = "completed"  # the server or its user ended it
    FAILED = "failed"
    NEVER_REACHED = "never_reached"  # ran for minutes without a first announcement
    WALLTIME = "walltime"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAILURE = "node_failure"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"  # on the cluster, by somebody else's hand
    GONE = "gone"  # confirmed missing


@dataclass(frozen=True, slots=True)
class Transition:
    """One line of a launch's history."""

    at: datetime
    state: LaunchState
    words: Words
    by: str = ""  # who asked: a hub user name, "culler", "connector"


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """A launch as stored. Secrets are not part of it; the store keeps them apart, encrypted, by
    ``start_id``.

    ``options`` is the validated choice (JSON object). One *run* is one start of the job on a node;
    a requeue makes another (seen by a change of restarts, node or start time). ``reached_nonce``
    is the nonce of the agent reached in this run: from then on silence never ends the launch;
    ``former_nonce`` that of the run before, whose announcement may still lie in the directory.
    ``unannounced_since`` counts answered looks only. ``offered_start_id`` is written before secrets
    are sent, ``running_start_id`` once the agent has named it.
    """

    id: str
    cluster: str
    identity: Identity
    server_name: str
    cluster_user: ClusterUser
    options: dict[str, Any]
    base_url: str
    edge: EdgeAddress
    state: LaunchState
    created_at: datetime
    changed_at: datetime
    job_id: JobId | None = None
    node: str | None = None
    directory: str | None = None
    restarts: int = 0
    tunnel_mode: str = "compute_ssh"
    submit_attempted_at: datetime | None = None
    job_seen_at: datetime | None = None
    job_started_at: datetime | None = None
    unannounced_since: datetime | None = None
    reached_nonce: str | None = None
    former_nonce: str | None = None
    offered_start_id: str | None = None
    running_start_id: str | None = None
    end_reason: EndReason | None = None
    end_words: Words | None = None
    log_tail: str = ""
    token_id: str | None = None
    history: tuple[Transition, ...] = field(default=(), compare=False)

    @property
    def job_name(self) -> str:
        """The name the job carries in the scheduler; other users can read it."""
        return JOB_NAME_PREFIX + self.id

    @property
    def live(self) -> bool:
        """Whether it may still hold a job."""
        return self.state is not LaunchState.ENDED


def new_launch_id() -> str:
    """Return a fresh id: 16 lower-case hex digits (64 random bits)."""
    return secrets.token_hex(8)
