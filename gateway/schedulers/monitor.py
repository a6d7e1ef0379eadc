"""Watches all jobs of one cluster with one query a tick.

What is known of a job changes on evidence only:

- The scheduler did not answer: every job keeps its last status; :attr:`JobMonitor.health` tells.
- It answered and does not list a job: UNKNOWN, until this very job had been seen before *and* the
  answer is confirmed: by a final record of the accounting (then FINISHED), or by several answers
  over some time while the accounting does not say that the job lives (then MISSING); see
  :mod:`gateway.schedulers.evidence`. A job never seen is never MISSING.
- FINISHED and MISSING are final: later answers do not change them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from gateway.errors import GatewayError
from gateway.schedulers.base import Scheduler
from gateway.schedulers.evidence import Evidence
from gateway.text import Words, text
from gateway.values.jobs import JobId, JobState, JobStatus

log = logging.getLogger(__name__)

T = TypeVar("T")

# Questions to the accounting in one tick; they go one after the other, and end with the budget.
ENDS_PER_TICK: Final = 10
ENDS_BUDGET: Final = timedelta(seconds=10)
COALESCE: Final = timedelta(seconds=0.3)
# The scheduler is asked for at most this share of the time: 1 / (1 + 4).
PAUSE_PER_QUERY: Final = 4
LONGEST_PAUSE: Final = timedelta(seconds=60)
SLOW: Final = timedelta(seconds=5)

_FINAL: Final = frozenset({JobState.FINISHED, JobState.MISSING})
_CHANGING: Final = frozenset({JobState.PENDING, JobState.ENDING, JobState.UNKNOWN})


class HealthState(StrEnum):
    """How a scheduler answers."""

    UP = "up"
    SLOW = "slow"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class SchedulerHealth:
    """How the scheduler answers, since when (aware UTC), and in words; ``detail`` is for admins."""

    state: HealthState
    since: datetime
    words: Words
    detail: str = ""


class QueryMetrics(Protocol):
    """Told of every query: its name (``statuses``, ``end``, ``estimates``), its outcome (``ok`` or
    the reason code of the error) and how long it took."""

    def __call__(self, query: str, outcome: str, seconds: float) -> None: ...


class Watch:
    """One watched job."""

    def __init__(
        self, job: JobId, *, seen_before: bool = False, submitted_after: datetime | None = None
    ) -> None:
        self._status = JobStatus(job_id=job, state=JobState.UNKNOWN)
        self._changed = asyncio.Event()
        self.evidence = Evidence(seen=seen_before, submitted_after=submitted_after)

    @property
    def status(self) -> JobStatus:
        """The last that is known; UNKNOWN until the first answer."""
        return self._status

    async def changed(self, seen: JobStatus) -> JobStatus:
        """Wait until the status is another than ``seen``, and return it."""
        while self._status == seen:
            await self._changed.wait()
        return self._status

    def tell(self, status: JobStatus) -> None:
        """For the monitor: set the status and wake whoever waits."""
        if status != self._status:
            self._status = status
            self._changed.set()
            self._changed = asyncio.Event()


class JobMonitor:
    """Asks one scheduler about all watched jobs, ``busy_interval`` seconds apart while one of them
    is pending, ending or unknown, else ``idle_interval``; further apart while it is slow or away.

    ``accounting``: a second source exists, so that its silence on an ended job is odd.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        busy_interval: float = 1.5,
        idle_interval: float = 30.0,
        estimate_interval: float = 30.0,
        accounting: bool = False,
        metrics: QueryMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._busy = busy_interval
        self._idle = idle_interval
        self._estimate_interval = estimate_interval
        self._accounting = accounting
        self._metrics = metrics
        self._clock = clock
        self._watches: dict[JobId, Watch] = {}
        self._wanted = asyncio.Event()
        self._last_duration = 0.0
        self._failures = 0
        self._estimates_asked = float("-inf")
        self._health = SchedulerHealth(HealthState.UP, _now(), text("The scheduler answers."))

    @property
    def health(self) -> SchedulerHealth:
        """How the scheduler answered the last question; ``up`` before the first."""
        return self._health

    def watch(
        self, job: JobId, *, seen_before: bool = False, submitted_after: datetime | None = None
    ) -> Watch:
        """Watch a job and ask soon; a second call gives the same watch.

        ``seen_before``: the observer listed this very job in an earlier life of this process.
        ``submitted_after`` (aware UTC): a record of the accounting from before is of another job.
        """
        watch = self._watches.get(job)
        if watch is None:
            watch = Watch(job, seen_before=seen_before, submitted_after=submitted_after)
            self._watches[job] = watch
            self.ask_soon()
        elif seen_before:
            watch.evidence.seen = True
        return watch

    def unwatch(self, job: JobId) -> None:
        """Stop watching; whoever waits for a change of it waits on."""
        self._watches.pop(job, None)

    def ask_soon(self) -> None:
        """Ask within about 0.3 s, together with others who wish so."""
        self._wanted.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            self._wanted.clear()
            try:
                await self._tick()
            except GatewayError as error:
                self._note_failure(error.user_message, str(error))
            except Exception as error:
                # A fault of this program must neither end the watch over other people's jobs
                # nor stay hidden.
                log.exception("the job monitor failed; it goes on")
                self._note_failure(text("The gateway has an internal error."), repr(error))
            await self._pause()

    async def _pause(self) -> None:
        started = self._clock()
        pause = self._choose_pause()
        # A scheduler that is away cannot be asked sooner because somebody wishes so.
        least = min(pause, max(self._busy, self._last_duration)) if self._failures else 0.0
        try:
            async with asyncio.timeout(pause):
                await self._wanted.wait()
        except TimeoutError:
            return
        waited = self._clock() - started
        least = max(least, self._last_duration)
        await asyncio.sleep(min(pause, max(COALESCE.total_seconds(), least - waited)))

    def _choose_pause(self) -> float:
        busy = any(watch.status.state in _CHANGING for watch in self._watches.values())
        pause = self._busy if busy else self._idle
        if self._failures:
            pause = max(pause, self._busy * 2.0 ** min(self._failures, 6))
        pause = max(pause, PAUSE_PER_QUERY * self._last_duration)
        return min(pause, LONGEST_PAUSE.total_seconds())

    async def _tick(self) -> None:
        jobs = [job for job, watch in self._watches.items() if watch.status.state not in _FINAL]
        if not jobs:
            return
        started = self._clock()
        try:
            statuses = await self._measured("statuses", self._scheduler.fetch_statuses(jobs))
        finally:
            self._last_duration = self._clock() - started
        self._note_answer()
        ended, absent = self._take(jobs, statuses)
        await self._settle(ended, absent)
        await self._ask_estimates()

    def _take(
        self, jobs: Sequence[JobId], statuses: Mapping[JobId, JobStatus]
    ) -> tuple[list[tuple[Watch, JobStatus]], list[Watch]]:
        """Tell what is plain; return those FINISHED (not told yet) and those absent."""
        now = self._clock()
        ended: list[tuple[Watch, JobStatus]] = []
        absent: list[Watch] = []
        for job in jobs:
            watch, status = self._watches.get(job), statuses.get(job)
            if watch is None:
                continue
            evidence = watch.evidence
            if status is None or status.state is JobState.MISSING:
                evidence.note_absent(now)
                absent.append(watch)
                watch.tell(replace(watch.status, state=JobState.UNKNOWN))
                continue
            evidence.note_listed()
            if status.state is JobState.FINISHED:
                ended.append((watch, status))
            elif status.state is JobState.PENDING and status.estimated_start is None:
                watch.tell(replace(status, estimated_start=evidence.estimate))
            else:
                watch.tell(status)
        self._note_blindness(absent, listed=len(jobs) > len(absent))
        return ended, absent

    def _note_blindness(self, absent: Sequence[Watch], *, listed: bool) -> None:
        """An answer that lists nothing asked for may be that of an observer without sight."""
        gone = [watch for watch in absent if watch.evidence.seen]
        if not listed and gone and (len(gone) > 1 or self._accounting):
            for watch in gone:
                watch.evidence.blind = True

    async def _settle(
        self, ended: Sequence[tuple[Watch, JobStatus]], absent: Sequence[Watch]
    ) -> None:
        """Ask the accounting how jobs ended; tell what is certain."""
        started = self._clock()
        asked = 0

        def may_ask() -> bool:
            in_time = self._clock() - started < ENDS_BUDGET.total_seconds()
            return in_time and asked < ENDS_PER_TICK

        for watch, status in ended:
            better = None
            if may_ask():
                asked += 1
                better = await self._fetch_end(watch)
            # The accounting knows more (by whom, which limit); without it the queue's word stands.
            watch.tell(replace(status, end=better.end) if better else status)
        for watch in sorted(absent, key=lambda one: one.evidence.accounting_asked):
            if may_ask() and watch.evidence.may_ask_accounting(self._clock()):
                asked += 1
                found = await self._fetch_end(watch)
                if found is not None:
                    watch.tell(found)
        now = self._clock()
        for watch in absent:
            if watch.status.state not in _FINAL and watch.evidence.confirmed_missing(now):
                watch.tell(replace(watch.status, state=JobState.MISSING))

    async def _fetch_end(self, watch: Watch) -> JobStatus | None:
        watch.evidence.accounting_asked = self._clock()
        try:
            found = await self._measured("end", self._scheduler.fetch_end(watch.status.job_id))
        except GatewayError as error:
            log.info("how job %s ended is not known yet: %s", watch.status.job_id, error)
            return None
        if found is not None and not watch.evidence.is_of_this_job(found):
            found = None
        watch.evidence.note_record(found)
        return found if found is not None and found.state is JobState.FINISHED else None

    async def _ask_estimates(self) -> None:
        now = self._clock()
        waiting = [
            watch
            for watch in self._watches.values()
            if watch.status.state is JobState.PENDING
            and (watch.status.estimated_start is None or watch.evidence.estimate is not None)
        ]
        if not waiting or now - self._estimates_asked < self._estimate_interval:
            return
        self._estimates_asked = now
        jobs = [watch.status.job_id for watch in waiting]
        try:
            found = await self._measured("estimates", self._scheduler.fetch_estimates(jobs))
        except GatewayError as error:
            log.info("no estimates of start times: %s", error)
            return
        for watch in waiting:
            watch.evidence.estimate = found.get(watch.status.job_id)
            watch.tell(replace(watch.status, estimated_start=watch.evidence.estimate))

    async def _measured(self, query: str, question: Awaitable[T]) -> T:
        started = self._clock()
        outcome = "error"
        try:
            answer = await question
            outcome = "ok"
            return answer
        except GatewayError as error:
            outcome = error.reason
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            if self._metrics is not None:
                self._metrics(query, outcome, self._clock() - started)

    def _note_answer(self) -> None:
        self._failures = 0
        if self._last_duration >= SLOW.total_seconds():
            seconds = round(self._last_duration)
            words = text("The scheduler answers slowly ({seconds} s).", seconds=seconds)
            self._set_health(HealthState.SLOW, words)
        else:
            self._set_health(HealthState.UP, text("The scheduler answers."))

    def _note_failure(self, words: Words, detail: str) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("the scheduler could not be asked: %s", detail)
        self._set_health(HealthState.DOWN, words, detail)

    def _set_health(self, state: HealthState, words: Words, detail: str = "") -> None:
        since = self._health.since if state is self._health.state else _now()
        self._health = SchedulerHealth(state, since, words, detail)


def _now() -> datetime:
    return datetime.now(UTC)
