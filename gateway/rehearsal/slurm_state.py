"""The controller: a queue, a strict FIFO for each partition, walltimes, and a memory of the past.

Reasons and states are those of squeue(1). Nothing here knows how commands are spelled.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Final, Protocol

from gateway.rehearsal.slurm_model import Job, Layout, Node, Reservation

TICK: Final = 0.25
REMEMBERED: Final = 1000


class Refused(Exception):
    """The controller refuses; the words are Slurm's (slurm_strerror)."""


class JobRunner(Protocol):
    """Runs the processes of a job on a node."""

    async def start(self, job: Job) -> Callable[[], Coroutine[None, None, tuple[int, int]]]:
        """Start it and return what waits for its end: ``(exit code, signal)``.

        :raises OSError: it cannot be started (output file, interpreter).
        """
        ...

    async def end(self, job: Job) -> None:
        """SIGTERM, then SIGKILL, to all of its processes."""
        ...


class SlurmState:
    """The one small state behind all look-alike commands.

    ``path`` keeps ids and past jobs over restarts. ``min_job_age`` seconds after its end a job
    leaves the queue; the accounting keeps it. ``on_node_left`` is told when a user's last job on
    a node has ended.
    """

    def __init__(
        self,
        layout: Layout,
        reservations: Iterable[Reservation],
        runner: JobRunner,
        path: Path,
        *,
        min_job_age: float = 300.0,
        on_node_left: Callable[[str, str], None] = lambda user, node: None,
    ) -> None:
        self.layout = layout
        self.reservations = list(reservations)
        self.jobs: dict[int, Job] = {}
        self.past: dict[int, Job] = {}
        self.answers = True
        self._next_id = 1
        self._runner = runner
        self._path = path
        self._min_job_age = min_job_age
        self._on_node_left = on_node_left
        self._tasks: set[asyncio.Task[None]] = set()
        self._saved = ""
        self._ticker: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load the past and begin to schedule."""
        self._load()
        self._ticker = asyncio.create_task(self._tick_forever(), name="rehearsal-scheduler")

    async def close(self) -> None:
        """End every job and stop scheduling; idempotent."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None
        for job in [job for job in self.jobs.values() if job.live]:
            self._begin_end(job, "NODE_FAIL" if job.node else "CANCELLED")
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._save()

    # queries

    def known(self, job_id: int) -> Job | None:
        """A job of the queue or of the past."""
        return self.jobs.get(job_id) or self.past.get(job_id)

    def everything(self) -> list[Job]:
        """Past and present, oldest first."""
        return [job for _, job in sorted({**self.past, **self.jobs}.items())]

    def running_on(self, node: str) -> list[Job]:
        """Jobs that hold resources of ``node``."""
        return [job for job in self.jobs.values() if job.node == node and job.live]

    def admits(self, user: str, node: str) -> bool:
        """Whether ``user`` has a running job on ``node`` (as pam_slurm_adopt asks)."""
        return any(job.user == user and job.state == "RUNNING" for job in self.running_on(node))

    def free(self, node: Node) -> tuple[int, int, int]:
        """Free cores, MiB and GPUs."""
        jobs = self.running_on(node.name)
        return (
            node.cores - sum(job.cores for job in jobs),
            node.memory - sum(job.memory for job in jobs),
            node.gpus - sum(job.gpus for job in jobs),
        )

    def node_state(self, node: Node) -> str:
        """idle, mixed, allocated or reserved (sinfo(1))."""
        cores = self.free(node)[0]
        if cores == 0:
            return "allocated"
        if cores < node.cores:
            return "mixed"
        now = time.time()
        held = any(r.is_active(now) and node.name in r.nodes for r in self.reservations)
        return "reserved" if held else "idle"

    def estimate(self, job: Job) -> int | None:
        """When the first waiting job of a partition can start, from the walltimes of others."""
        if job.state != "PENDING" or job.reason != "Resources":
            return None
        ends = []
        for node in self._nodes_for(job):
            cores, memory, gpus = self.free(node)
            for other in sorted(self.running_on(node.name), key=lambda j: j.started or 0):
                cores, memory, gpus = cores + other.cores, memory + other.memory, gpus + other.gpus
                if job.cores <= cores and job.memory <= memory and job.gpus <= gpus:
                    ends.append((other.started or 0) + other.time_limit)
                    break
        return min(ends, default=None)

    # changes

    def submit(self, build: Callable[[int], Job]) -> Job:
        """Queue the job that ``build`` makes of a fresh id.

        :raises Refused: with the controller's words.
        """
        job = build(self._next_id)
        self._check(job)
        self._next_id += 1
        self.jobs[job.id] = job
        self.schedule()
        return job

    def cancel(self, job: Job, uid: int) -> None:
        """Cancel; of an ended job nothing happens."""
        if job.state in ("PENDING", "RUNNING"):
            job.cancelled_by = uid
            self._begin_end(job, "CANCELLED")

    def schedule(self) -> None:
        """Start what fits, say why the rest waits."""
        blocked: set[tuple[str, str | None]] = set()
        for job in sorted(self.jobs.values(), key=lambda job: job.id):
            if job.state != "PENDING":
                continue
            job.reason = self._reason(job)
            if job.reason != "None":
                continue
            line = (job.partition, job.reservation)
            if line in blocked:
                job.reason = "Priority"
                continue
            node = next((n for n in self._nodes_for(job) if self._fits(job, n)), None)
            if node is None:
                blocked.add(line)
                job.reason = "Resources"
                continue
            job.state, job.node, job.started = "RUNNING", node.name, int(time.time())
            self._supervise(self._run(job), f"rehearsal-job-{job.id}")
        self._save()

    def _check(self, job: Job) -> None:
        partition = self.layout.partition(job.partition)
        if partition is None:
            raise Refused("Invalid partition name specified")
        mine = [a for a in self.layout.associations_of(job.user) if a.account == job.account]
        if not mine or (partition.accounts is not None and job.account not in partition.accounts):
            raise Refused("Invalid account or account/partition combination specified")
        if job.qos not in mine[0].qos:
            raise Refused("Invalid qos specification")
        waiting = [j for j in self.jobs.values() if j.live and j.user == job.user]
        if mine[0].max_submit is not None and len(waiting) >= mine[0].max_submit:
            raise Refused(
                "AssocMaxSubmitJobLimit\nJob violates accounting/QOS policy (job submit limit, "
                "user's size and/or time limits)"
            )
        if job.reservation is not None:
            found = [r for r in self.reservations if r.name == job.reservation]
            if not found:
                raise Refused("Requested reservation is invalid")
            if job.user not in found[0].users:
                raise Refused("Access denied to requested reservation")
        nodes = [self.layout.node(name) for name in partition.nodes]
        if not any(
            job.memory <= n.memory
            and job.gpus <= n.gpus
            and (job.gpu_kind in (None, n.gpu_kind) or not job.gpus)
            and job.wanted_node in (None, n.name)
            for n in nodes
        ):
            if job.memory > max(n.memory for n in nodes):
                raise Refused(
                    "Memory specification can not be satisfied\n"
                    "Requested node configuration is not available"
                )
            raise Refused("Requested node configuration is not available")

    def _reason(self, job: Job) -> str:
        partition = self.layout.partition(job.partition)
        association = next(
            a for a in self.layout.associations_of(job.user) if a.account == job.account
        )
        if partition is None or not partition.up:
            return "PartitionDown"
        if job.held:
            return "JobHeldUser"
        if job.begins is not None and job.begins > time.time():
            return "BeginTime"
        if job.time_limit > partition.max_time:
            return "PartitionTimeLimit"
        if job.cores > max(self.layout.node(name).cores for name in partition.nodes):
            return "PartitionConfig"
        if association.max_wall is not None and job.time_limit > association.max_wall:
            return "AssocMaxWallDurationPerJobLimit"
        if association.max_jobs is not None:
            running = [
                j
                for j in self.jobs.values()
                if j.node and j.live and (j.user, j.account) == (job.user, job.account)
            ]
            if len(running) >= association.max_jobs:
                return "AssocMaxJobsLimit"
        if job.reservation and not any(
            r.name == job.reservation and r.is_active(time.time()) for r in self.reservations
        ):
            return "Reservation"
        return "None"

    def _nodes_for(self, job: Job) -> list[Node]:
        """Nodes of the partition that the job may use, other people's reservations excluded."""
        partition = self.layout.partition(job.partition)
        names = set(partition.nodes) if partition else set()
        now = time.time()
        for reservation in self.reservations:
            if reservation.name == job.reservation:
                names &= set(reservation.nodes)
            elif reservation.starts < now + job.time_limit and now < reservation.ends:
                names -= set(reservation.nodes)
        if job.wanted_node:
            names &= {job.wanted_node}
        return [node for node in self.layout.nodes if node.name in names]

    def _fits(self, job: Job, node: Node) -> bool:
        cores, memory, gpus = self.free(node)
        kind = job.gpu_kind in (None, node.gpu_kind)
        return (
            job.cores <= cores
            and job.memory <= memory
            and job.gpus <= gpus
            and (kind or not job.gpus)
        )

    # the life of one job

    async def _run(self, job: Job) -> None:
        try:
            wait = await self._runner.start(job)
        except OSError:
            if job.state == "RUNNING":
                job.reason, job.exit_signal = "JobLaunchFailure", 53
                self._finish(job, "FAILED")
            return
        if job.state != "RUNNING":  # cancelled while it was being started
            await self._runner.end(job)
        code, number = await wait()
        if job.state == "RUNNING":
            job.exit_code, job.exit_signal = code, number
            job.state, job.final_state = "COMPLETING", "COMPLETED"
            if code or number:
                job.final_state = "FAILED"
                job.reason = "NonZeroExitCode" if code else "JobLaunchFailure"
            # what the script left behind in the background ends with it
            await self._runner.end(job)
            self._finish(job, job.final_state)

    def _begin_end(self, job: Job, final: str) -> None:
        if job.state == "PENDING":
            job.started = int(time.time())
            self._finish(job, final)
        elif job.state == "RUNNING":
            job.state, job.final_state = "COMPLETING", final
            self._supervise(self._end(job), f"rehearsal-end-{job.id}")

    async def _end(self, job: Job) -> None:
        await self._runner.end(job)
        if job.final_state == "TIMEOUT":
            job.reason = "TimeLimit"
        else:
            job.exit_code, job.exit_signal = 0, 15
        self._finish(job, job.final_state)

    def _finish(self, job: Job, state: str) -> None:
        job.state, job.ended = state, int(time.time())
        if job.node and not self.admits(job.user, job.node):
            self._on_node_left(job.user, job.node)
        self.past[job.id] = job
        for old in sorted(self.past)[:-REMEMBERED]:
            del self.past[old]
        if self._ticker is not None:
            self.schedule()

    def _supervise(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.time()
            for job in list(self.jobs.values()):
                if job.state == "RUNNING" and now >= (job.started or 0) + job.time_limit:
                    self._begin_end(job, "TIMEOUT")
                elif not job.live and now >= (job.ended or 0) + self._min_job_age:
                    del self.jobs[job.id]
            if any(job.state == "PENDING" for job in self.jobs.values()):
                self.schedule()

    # memory over restarts

    def _save(self) -> None:
        keep = {**self.past, **{n: job for n, job in self.jobs.items() if job.live}}
        records = [asdict(job) | {"environment": {}} for _, job in sorted(keep.items())]
        document = json.dumps({"next_id": self._next_id, "jobs": records})
        if document == self._saved:
            return
        self._saved = document
        partial = self._path.with_suffix(".tmp")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(document)
        partial.replace(self._path)

    def _load(self) -> None:
        if not self._path.exists():
            return
        document = json.loads(self._path.read_text(encoding="utf-8"))
        self._next_id = document["next_id"]
        for record in document["jobs"]:
            job = Job(**record)
            if job.live:  # we were killed: its processes are gone by now
                job.state = "NODE_FAIL" if job.node else "CANCELLED"
                job.ended = int(time.time())
            self.past[job.id] = job
