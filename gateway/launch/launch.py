"""The main path: how one launch goes from a request to a server in the browser, and to its end.

Read this file first. Each station is a function or a class of its own; their order is here::

    REQUESTED   prepare: the launch directory and the agent, on the cluster
    SUBMITTING  submit: the job script is rendered and given to the scheduler; or the job of a
                submit that was cut off is found again by its name
    QUEUED      follow the job until it starts
    STARTING    open the tunnel to the agent in the job
    CONNECTING  hand over the secrets, wait for the server, connect the edge
    READY       bytes flow; after a loss the tunnel is opened again (CONNECTING)
    ENDING      cancel until the scheduler says that the job is over
    ENDED

Nothing is remembered between two steps but the record: each step begins with reading it, is
written down before its effect, and may be cut off anywhere and taken again. So a restart of the
connector is nothing special.
"""

from __future__ import annotations

import asyncio

from gateway.launch import ending, submitting
from gateway.launch.cluster import Cluster, Edge
from gateway.launch.connection import Connection
from gateway.launch.progress import Board, Progress
from gateway.launch.runs import Verdict, judge
from gateway.launch.states import LaunchRecord, LaunchState
from gateway.launch.store import ChangedMeanwhile, LaunchStore
from gateway.launch.waiting import bounded, run_until_first
from gateway.observability.logs import secret_mask
from gateway.observability.metrics import ConnectorMetrics
from gateway.text import text
from gateway.values.jobs import JobState, JobStatus

_CLOSE_SECONDS = 5.0


class Launch:
    """Drives one launch from whatever its record says to its end."""

    def __init__(
        self,
        record: LaunchRecord,
        cluster: Cluster,
        store: LaunchStore,
        metrics: ConnectorMetrics,
        board: Board,
    ) -> None:
        self.cluster = cluster
        self.edge: Edge = cluster.build_edge(record)
        self.progress = Progress(record, cluster, store, metrics, board)
        self._connection = Connection(self.progress, self.edge)
        self._edge_open = False
        self._interrupted = asyncio.Event()

    async def run(self) -> None:
        """Take steps until the launch has ended."""
        try:
            while True:
                self._interrupted.clear()
                record = await self.progress.reload()
                if not record.live:
                    break
                try:
                    await run_until_first(self._step(record), self._wait_interrupted())
                except ChangedMeanwhile:
                    if await self.progress.reload() == record:
                        # Nobody changed it: a step that is not allowed is not tried without pause.
                        await self.progress.backoff.wait()
        finally:
            await self._close()

    def interrupt(self) -> None:
        """Somebody changed the record (asked for the end): leave the present step, read again."""
        self._interrupted.set()

    async def _step(self, record: LaunchRecord) -> None:
        if record.state is not LaunchState.ENDING:
            await self._open_edge()
        match record.state:
            case LaunchState.REQUESTED:
                await submitting.prepare(self.progress, record)
            case LaunchState.SUBMITTING:
                await submitting.submit(self.progress, record)
            case LaunchState.QUEUED:
                await self._follow_job(record)
            case LaunchState.STARTING | LaunchState.CONNECTING | LaunchState.READY:
                await run_until_first(self._follow_job(record), self._connection.keep(record))
            case LaunchState.ENDING:
                await ending.finish(self.progress, record)
            case LaunchState.ENDED:
                return

    async def _follow_job(self, record: LaunchRecord) -> None:
        """Watch the job until its status calls for another step, and take that."""
        if record.job_id is None:
            raise ValueError(f"launch {record.id} is {record.state} without a job")
        progress = self.progress
        watch = self.cluster.monitor.watch(
            record.job_id,
            seen_before=record.job_seen_at is not None,
            submitted_after=record.submit_attempted_at,
        )
        status = watch.status
        while True:
            progress.observe(status)
            match judge(progress.record, status):
                case Verdict.STARTED:
                    await self._begin_run(status)
                    return
                case Verdict.REQUEUED:
                    progress.run += 1
                    await progress.transition(
                        LaunchState.QUEUED,
                        text("The scheduler put the job back into the queue; it starts anew."),
                        restarts=status.restarts,
                    )
                    return
                case Verdict.OVER:
                    progress.run += 1
                    await ending.end_with_job(progress, progress.record, status)
                    return
                case Verdict.NOTHING:
                    await self._note_seen(status)
            status = await watch.changed(status)

    async def _begin_run(self, status: JobStatus) -> None:
        progress = self.progress
        progress.run += 1
        again = any(line.state is LaunchState.STARTING for line in progress.record.history)
        await progress.transition(
            LaunchState.STARTING,
            text("The job runs again on {node}.", node=status.batch_node or "")
            if again
            else text("The job runs on {node}.", node=status.batch_node or ""),
            node=status.batch_node,
            restarts=status.restarts,
            job_started_at=status.started_at,
            job_seen_at=progress.record.job_seen_at or progress.store.now(),
            former_nonce=progress.record.reached_nonce or progress.record.former_nonce,
            reached_nonce=None,
            unannounced_since=None,
            offered_start_id=None,
            running_start_id=None,
        )

    async def _note_seen(self, status: JobStatus) -> None:
        seen = status.state not in (JobState.UNKNOWN, JobState.MISSING)
        if seen and self.progress.record.job_seen_at is None:
            await self.progress.update(job_seen_at=self.progress.store.now())

    async def _wait_interrupted(self) -> None:
        await self._interrupted.wait()
        await self._connection.say_farewell()

    async def _open_edge(self) -> None:
        if not self._edge_open:
            await self.edge.open()
            self._edge_open = True

    async def _close(self) -> None:
        record = self.progress.record
        if record.job_id is not None:
            self.cluster.monitor.unwatch(record.job_id)
        await bounded(self.cluster.hub_api.remove(record.id), _CLOSE_SECONDS)
        if self._edge_open:
            await bounded(self.edge.close(), _CLOSE_SECONDS)
        secret_mask.release(record.id)
