"""A scheduler whose answers are counted and timed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Collection, Mapping
from datetime import datetime
from typing import TypeVar

from gateway.observability.metrics import ConnectorMetrics
from gateway.schedulers.base import Association, Partition, Reservation, Scheduler
from gateway.transport.base import Actor
from gateway.values.jobs import JobId, JobRequest, JobScript, JobStatus

_T = TypeVar("_T")


class MeasuredScheduler:
    """The contract of :class:`~gateway.schedulers.base.Scheduler`, passed on word for word."""

    def __init__(self, scheduler: Scheduler, cluster: str, metrics: ConnectorMetrics) -> None:
        self._scheduler = scheduler
        self._cluster = cluster
        self._metrics = metrics

    async def _measure(self, operation: str, call: Awaitable[_T]) -> _T:
        began = time.monotonic()
        result = "error"
        try:
            answer = await call
            result = "ok"
            return answer
        finally:
            self._metrics.scheduler_queries.labels(self._cluster, operation, result).inc()
            self._metrics.scheduler_seconds.labels(self._cluster, operation).observe(
                time.monotonic() - began
            )

    async def submit(self, actor: Actor, request: JobRequest, script: JobScript) -> JobId:
        """See the contract."""
        return await self._measure("submit", self._scheduler.submit(actor, request, script))

    async def find_by_name(self, actor: Actor, name: str) -> tuple[JobId, ...]:
        """See the contract."""
        return await self._measure("find_by_name", self._scheduler.find_by_name(actor, name))

    async def fetch_statuses(self, jobs: Collection[JobId]) -> Mapping[JobId, JobStatus]:
        """See the contract."""
        return await self._measure("fetch_statuses", self._scheduler.fetch_statuses(jobs))

    async def fetch_end(self, job: JobId) -> JobStatus | None:
        """See the contract."""
        return await self._measure("fetch_end", self._scheduler.fetch_end(job))

    async def fetch_estimates(self, jobs: Collection[JobId]) -> Mapping[JobId, datetime]:
        """See the contract."""
        return await self._measure("fetch_estimates", self._scheduler.fetch_estimates(jobs))

    async def cancel(self, actor: Actor, job: JobId) -> None:
        """See the contract."""
        await self._measure("cancel", self._scheduler.cancel(actor, job))

    async def fetch_partitions(self) -> tuple[Partition, ...]:
        """See the contract."""
        return await self._measure("fetch_partitions", self._scheduler.fetch_partitions())

    async def fetch_associations(self, user: str) -> tuple[Association, ...]:
        """See the contract."""
        return await self._measure("fetch_associations", self._scheduler.fetch_associations(user))

    async def fetch_reservations(self, user: str) -> tuple[Reservation, ...]:
        """See the contract."""
        return await self._measure("fetch_reservations", self._scheduler.fetch_reservations(user))

    async def fetch_version(self) -> str:
        """See the contract."""
        return await self._measure("fetch_version", self._scheduler.fetch_version())
