"""How a launch in the making tells what happens: to the store first, then to those who watch."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from gateway.errors import ClusterUnavailable, GatewayError
from gateway.launch.cluster import Cluster
from gateway.launch.states import LaunchRecord, LaunchState
from gateway.launch.store import ChangedMeanwhile, LaunchStore
from gateway.launch.waiting import Backoff
from gateway.observability.logs import log_event
from gateway.observability.metrics import ConnectorMetrics
from gateway.text import Words, text
from gateway.values.jobs import JobState, JobStatus

logger = logging.getLogger("gateway.launch")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A launch at one moment: its record, and what only memory knows.

    ``words`` tells more exactly than the last line of the history what is going on.
    """

    record: LaunchRecord
    status: JobStatus | None = None
    words: Words | None = None
    tunnel_up: bool = False
    tunnel_down_since: datetime | None = None


class Board:
    """The newest snapshot of one launch, and those who wait for the next."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._changed = asyncio.Event()

    def publish(self, snapshot: Snapshot) -> None:
        """Replace the snapshot; wake everybody when it differs."""
        if snapshot != self.snapshot or snapshot.record.history != self.snapshot.record.history:
            self.snapshot = snapshot
            self._changed.set()
            self._changed = asyncio.Event()

    async def changed(self, seen: Snapshot) -> Snapshot:
        """Return the snapshot as soon as it is another than ``seen``."""
        while self.snapshot is seen:
            await self._changed.wait()
        return self.snapshot


class Progress:
    """One launch's pen: steps and fields are stored, published, logged and counted here."""

    def __init__(
        self,
        record: LaunchRecord,
        cluster: Cluster,
        store: LaunchStore,
        metrics: ConnectorMetrics,
        board: Board,
    ) -> None:
        self.cluster = cluster
        self.store = store
        self.metrics = metrics
        self.board = board
        self.id = record.id
        self.run = 0
        patience = cluster.patience
        self.backoff = Backoff(patience.backoff_first, patience.backoff_limit)

    @property
    def record(self) -> LaunchRecord:
        """The record as last read or written."""
        return self.board.snapshot.record

    @property
    def status(self) -> JobStatus | None:
        """The job's status as last seen."""
        return self.board.snapshot.status

    async def reload(self) -> LaunchRecord:
        """Read the record again."""
        record = await self.store.fetch(self.id)
        if record is None:
            raise GatewayError(text("There is no such launch."), reason="not_found")
        self._publish(record=record)
        return record

    async def transition(
        self, to: LaunchState, words: Words, *, by: str = "", run: int | None = None, **changes: Any
    ) -> LaunchRecord:
        """Take a step; ``run`` makes sure that it is still about the run it was meant for.

        :raises ChangedMeanwhile: somebody took another step first.
        """
        if run is not None and run != self.run:
            raise ChangedMeanwhile(text("The server's state has changed meanwhile."))
        before = self.record
        record = await self.store.transition(self.id, to, words, by=by, **changes)
        self.backoff.reset()
        self.record_step(before, record)
        self._publish(record=record, words=None)
        return record

    def record_step(self, before: LaunchRecord, record: LaunchRecord) -> None:
        """Log and count a step that has been stored."""
        seconds = (record.changed_at - before.changed_at).total_seconds()
        self.metrics.phase_seconds.labels(self.cluster.name, before.state).observe(max(0, seconds))
        if record.end_reason is not None and not record.live:
            self.metrics.ended.labels(self.cluster.name, record.end_reason).inc()
        last = record.history[-1] if record.history else None
        log_event(
            logger,
            logging.INFO,
            "launch",
            launch=record.id,
            state=record.state,
            before=before.state,
            seconds=round(seconds, 3),
            cluster=record.cluster,
            user=record.identity.name,
            server=record.server_name or None,
            cluster_user=record.cluster_user.name,
            job=record.job_id,
            node=record.node,
            reason=record.end_reason,
            by=(last.by or None) if last else None,
            words=last.words.render() if last else None,
        )

    async def update(self, **changes: Any) -> LaunchRecord:
        """Write fields without a step."""
        record = await self.store.update(self.id, **changes)
        self._publish(record=record)
        return record

    def say(self, words: Words) -> None:
        """Show what is going on, until the next step."""
        self._publish(words=words)

    def observe(self, status: JobStatus) -> None:
        """Show the job's status, and what the scheduler says it waits for."""
        words = self.board.snapshot.words
        if self.record.state is LaunchState.QUEUED and status.state is JobState.PENDING:
            words = status.reason_words
        self._publish(status=status, words=words)

    def note(self, error: GatewayError, doing: str) -> None:
        """Show, log and count an error after which the launch goes on."""
        self.metrics.failures.labels(self.cluster.name, error.reason).inc()
        transient = isinstance(error, ClusterUnavailable)
        log_event(
            logger,
            logging.INFO if transient else logging.WARNING,
            "launch hindered",
            launch=self.id,
            doing=doing,
            cluster=self.cluster.name,
            user=self.record.identity.name,
            server=self.record.server_name or None,
            job=self.record.job_id,
            reason=error.reason,
            error=False,
            problem=str(error),
        )
        self.say(error.user_message)

    def show_tunnel(self, *, up: bool) -> None:
        """Show whether the tunnel is up; the moment of a loss is kept until it is up again."""
        snapshot = self.board.snapshot
        if up:
            self._publish(tunnel_up=True, tunnel_down_since=None)
        elif snapshot.tunnel_up:
            self.metrics.tunnels_lost.labels(self.cluster.name).inc()
            self._publish(tunnel_up=False, tunnel_down_since=self.store.now())

    def _publish(self, **changes: Any) -> None:
        self.board.publish(replace(self.board.snapshot, **changes))
