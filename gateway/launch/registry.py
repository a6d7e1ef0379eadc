"""All launches of this connector: made or adopted, driven, watched, resumed after a restart."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError
from gateway.launch.cluster import Cluster
from gateway.launch.ending import fetch_log_if_possible
from gateway.launch.launch import Launch
from gateway.launch.progress import Board, Snapshot
from gateway.launch.rows import NewLaunch
from gateway.launch.secrets import StartSecrets
from gateway.launch.states import EndReason, LaunchRecord, LaunchState
from gateway.launch.store import ChangedMeanwhile, Ensured, LaunchStore
from gateway.launch.waiting import Backoff, cancel_all
from gateway.observability.logs import log_event, secret_mask
from gateway.observability.metrics import ConnectorMetrics
from gateway.text import text

logger = logging.getLogger("gateway.launch")

RESUME_PAUSE: Final = 0.02
"""Seconds between two launches that are resumed: fifty a second."""


@dataclass(slots=True)
class _Driven:
    """A launch with the task that drives it."""

    board: Board
    task: asyncio.Task[None] | None = None
    launch: Launch | None = None
    bytes_up: int = 0
    bytes_down: int = 0


class LaunchRegistry:
    """The launches of this connector. One driver a launch, each supervised."""

    def __init__(
        self, clusters: Mapping[str, Cluster], store: LaunchStore, metrics: ConnectorMetrics
    ) -> None:
        self._clusters = clusters
        self._store = store
        self._metrics = metrics
        self._driven: dict[str, _Driven] = {}
        self._resuming: asyncio.Task[None] | None = None
        self._closing = False

    async def resume(self) -> int:
        """Schedule the resumption of every live launch; return how many there are."""
        records = await self._store.find(live=True, limit=100_000)
        for record in records:
            self._driven[record.id] = _Driven(Board(Snapshot(record)))
        self._resuming = asyncio.create_task(self._resume_paced(records))
        return len(records)

    async def _resume_paced(self, records: list[LaunchRecord]) -> None:
        for record in reversed(records):  # oldest first
            self._drive(record)
            await asyncio.sleep(RESUME_PAUSE)

    async def close(self) -> None:
        """Stop driving. Jobs go on; the records say where to take up; tunnels close."""
        self._closing = True
        tasks = [driven.task for driven in self._driven.values() if driven.task is not None]
        if self._resuming is not None:
            tasks.append(self._resuming)
        await cancel_all(*tasks)
        self._driven.clear()

    async def adopt(
        self, hub_user: str, server_name: str, start: StartSecrets
    ) -> tuple[Snapshot, Ensured] | None:
        """Adopt the server's live launch, if it has one."""
        ensured = await self._store.adopt(hub_user, server_name, start)
        return None if ensured is None else self._take_up(ensured, start)

    async def ensure(self, new: NewLaunch, start: StartSecrets) -> tuple[Snapshot, Ensured]:
        """Adopt the server's live launch, or make one and drive it."""
        ensured = await self._store.ensure(new, start, text("The request was accepted."))
        return self._take_up(ensured, start)

    def _take_up(self, ensured: Ensured, start: StartSecrets) -> tuple[Snapshot, Ensured]:
        record = ensured.record
        secret_mask.hold(record.id, start.api_token)
        log_event(
            logger,
            logging.INFO,
            "launch adopted" if ensured.adopted else "launch made",
            launch=record.id,
            state=record.state,
            cluster=record.cluster,
            user=record.identity.name,
            server=record.server_name or None,
        )
        self._drive(record)
        driven = self._driven.get(record.id)
        return (driven.board.snapshot if driven else Snapshot(record)), ensured

    async def stop(self, launch_id: str, by: str) -> Snapshot | None:
        """Ask for the end, once; ``None`` when there is no such launch."""
        words = text("The server was stopped by {by}.", by=by)
        while True:
            snapshot = await self.fetch(launch_id)
            if snapshot is None or snapshot.record.state in (
                LaunchState.ENDING,
                LaunchState.ENDED,
            ):
                return snapshot
            try:
                record = await self._store.transition(
                    launch_id,
                    LaunchState.ENDING,
                    words,
                    by=by,
                    end_reason=EndReason.STOPPED,
                    end_words=words,
                )
            except ChangedMeanwhile:
                continue
            break
        driven = self._driven.get(launch_id)
        if driven is not None and driven.launch is not None:
            driven.launch.progress.record_step(snapshot.record, record)
            driven.board.publish(Snapshot(record, snapshot.status))
            driven.launch.interrupt()
        return Snapshot(record, snapshot.status)

    async def fetch(self, launch_id: str) -> Snapshot | None:
        """One launch; ``None`` when there is no such."""
        record = await self._store.fetch(launch_id)
        return None if record is None else self._join(record)

    async def find(
        self,
        *,
        hub_user: str | None = None,
        server_name: str | None = None,
        live: bool | None = None,
        limit: int = 500,
    ) -> list[Snapshot]:
        """At most ``limit`` launches, newest first; ``None`` means any."""
        records = await self._store.find(
            hub_user=hub_user, server_name=server_name, live=live, limit=limit
        )
        return [self._join(record) for record in records]

    async def watch(self, launch_id: str, *, repeat_after: float) -> AsyncGenerator[Snapshot, None]:
        """Yield the launch's snapshots, the present one first, until it has ended; one that does
        not change is repeated after ``repeat_after`` seconds."""
        driven = self._driven.get(launch_id)
        if driven is None:
            snapshot = await self.fetch(launch_id)
            if snapshot is not None:
                yield snapshot
            return
        snapshot = driven.board.snapshot
        while True:
            yield snapshot
            if not snapshot.record.live:
                return
            try:
                async with asyncio.timeout(repeat_after):
                    snapshot = await driven.board.changed(snapshot)
            except TimeoutError:
                continue

    async def fetch_log(self, record: LaunchRecord) -> str:
        """The end of the job's log: as stored, or as it is on the cluster now.

        :raises ClusterUnavailable: it is not stored and the cluster does not answer.
        """
        if record.log_tail and not record.live:
            return record.log_tail
        cluster = self._clusters.get(record.cluster)
        if cluster is None:
            return record.log_tail
        tail = await fetch_log_if_possible(cluster, record)
        if tail and not record.live:
            await self._store.update(record.id, log_tail=tail)
        return tail

    def count_live(self) -> Counter[tuple[str, LaunchState]]:
        """How many launches this connector drives, by cluster and state."""
        records = (driven.board.snapshot.record for driven in self._driven.values())
        return Counter((r.cluster, r.state) for r in records if r.live)

    def update_metrics(self) -> None:
        """Bring the gauges and byte counters up to date."""
        counts = self.count_live()
        tunnels: Counter[str] = Counter()
        for driven in self._driven.values():
            snapshot = driven.board.snapshot
            tunnels[snapshot.record.cluster] += snapshot.tunnel_up
            self._count_bytes(driven)
        for cluster in self._clusters:
            for state in LaunchState:
                self._metrics.launches.labels(cluster, state).set(counts[cluster, state])
            self._metrics.tunnels.labels(cluster).set(tunnels[cluster])

    def _count_bytes(self, driven: _Driven) -> None:
        if driven.launch is None:
            return
        edge, cluster = driven.launch.edge, driven.board.snapshot.record.cluster
        up, down = edge.bytes_up, edge.bytes_down
        self._metrics.bytes.labels(cluster, "up").inc(max(0, up - driven.bytes_up))
        self._metrics.bytes.labels(cluster, "down").inc(max(0, down - driven.bytes_down))
        driven.bytes_up, driven.bytes_down = up, down

    def _join(self, record: LaunchRecord) -> Snapshot:
        driven = self._driven.get(record.id)
        if driven is None:
            return Snapshot(record)
        seen = driven.board.snapshot
        same_step = seen.record.state is record.state
        return Snapshot(
            record,
            seen.status,
            seen.words if same_step else None,
            seen.tunnel_up,
            seen.tunnel_down_since,
        )

    def _drive(self, record: LaunchRecord) -> None:
        driven = self._driven.setdefault(record.id, _Driven(Board(Snapshot(record))))
        if driven.task is not None or self._closing:
            return
        cluster = self._clusters.get(record.cluster)
        if cluster is None:
            log_event(
                logger,
                logging.WARNING,
                "launch of a cluster that has no profile any more; it is left alone",
                launch=record.id,
                cluster=record.cluster,
                job=record.job_id,
            )
            return
        driven.task = asyncio.create_task(
            self._supervise(driven, cluster), name=f"launch {record.id}"
        )

    async def _supervise(self, driven: _Driven, cluster: Cluster) -> None:
        """Drive one launch to its end, whatever goes wrong on the way."""
        backoff = Backoff(cluster.patience.backoff_first, cluster.patience.backoff_limit)
        launch_id = driven.board.snapshot.record.id
        while True:
            launch = Launch(
                driven.board.snapshot.record, cluster, self._store, self._metrics, driven.board
            )
            driven.launch = launch
            driven.bytes_up = driven.bytes_down = 0
            try:
                await launch.run()
            except GatewayError as error:
                launch.progress.note(error, "drive the launch")
            except Exception:  # a fault of ours: told, counted, and the launch goes on
                self._metrics.crashes.labels(cluster.name).inc()
                log_event(
                    logger,
                    logging.ERROR,
                    "fault while driving a launch; it is resumed",
                    error=True,
                    launch=launch_id,
                    cluster=cluster.name,
                )
                launch.progress.say(
                    text(
                        "The gateway met a fault of its own and tries again; nothing is lost. If "
                        "this stays, tell the support and name launch {launch}.",
                        launch=launch_id,
                    )
                )
            else:
                break
            finally:
                self._count_bytes(driven)
                driven.launch = None
            await backoff.wait()
        # Those who watch hold the board; the record is in the store.
        self._driven.pop(launch_id, None)
