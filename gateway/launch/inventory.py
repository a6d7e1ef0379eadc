"""What one cluster offers now: asked in the background, so that a page never waits long.

A value that is too old is still shown while a new one is fetched; only a value that has never been
there is waited for, and not longer than ``VIEW_SECONDS``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from gateway.errors import GatewayError
from gateway.observability.logs import log_event
from gateway.options.choices import Choices, build_choices
from gateway.profiles.models import ClusterProfile
from gateway.schedulers.base import Association, Partition, Reservation, Scheduler

logger = logging.getLogger("gateway.inventory")

VIEW_SECONDS: Final = 5.0
PARTITIONS_SECONDS: Final = 30.0
RESERVATIONS_SECONDS: Final = 30.0
ASSOCIATIONS_SECONDS: Final = 300.0
# Older than this many times its usual age, a value says too little.
_TOO_OLD: Final = 10
# After a failure the scheduler is not asked again at once by every page.
_PAUSE_AFTER_FAILURE: Final = 5.0
_USERS_KEPT: Final = 2000
_T = TypeVar("_T")


class _Refreshed(Generic[_T]):
    """One answer of the scheduler, and the task that fetches the next."""

    def __init__(self, fetch: Callable[[], Awaitable[_T]], seconds: float, what: str) -> None:
        self._fetch = fetch
        self._seconds = seconds
        self._what = what
        self._value: _T | None = None
        self._at = float("-inf")
        self._failed_at = float("-inf")
        self.fetched_at: datetime | None = None
        self.task: asyncio.Task[None] | None = None

    async def get(self, wait: float) -> _T | None:
        """Return the value, ``None`` when there is none that says anything."""
        now = asyncio.get_running_loop().time()
        if now - self._at > self._seconds:
            self._begin(now)
        if now - self._at > self._seconds * _TOO_OLD:
            if self.task is not None:
                await asyncio.wait({self.task}, timeout=wait)
            if asyncio.get_running_loop().time() - self._at > self._seconds * _TOO_OLD:
                return None
        return self._value

    def _begin(self, now: float) -> None:
        running = self.task is not None and not self.task.done()
        if not running and now - self._failed_at > _PAUSE_AFTER_FAILURE:
            self.task = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._value = await self._fetch()
        except GatewayError as error:
            self._failed_at = loop.time()
            log_event(
                logger,
                logging.INFO if error.transient else logging.WARNING,
                "the scheduler did not say what it offers",
                what=self._what,
                reason=error.reason,
                problem=str(error),
            )
            return
        except Exception:  # a fault of ours: shown, and the page goes on without
            self._failed_at = loop.time()
            log_event(logger, logging.ERROR, "fault while asking", error=True, what=self._what)
            return
        self._at = loop.time()
        self.fetched_at = datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Offered:
    """What one user may choose; ``fetched_at`` is ``None`` when only the profile speaks."""

    choices: Choices
    fetched_at: datetime | None


class Inventory:
    """What one cluster offers, to whom."""

    def __init__(
        self, profile: ClusterProfile, scheduler: Scheduler, *, wait: float = VIEW_SECONDS
    ) -> None:
        self._profile = profile
        self._scheduler = scheduler
        self._wait = wait
        self._partitions: _Refreshed[tuple[Partition, ...]] = _Refreshed(
            scheduler.fetch_partitions, PARTITIONS_SECONDS, "partitions"
        )
        self._by_user: OrderedDict[
            str, tuple[_Refreshed[tuple[Association, ...]], _Refreshed[tuple[Reservation, ...]]]
        ] = OrderedDict()

    async def fetch(self, user: str) -> Offered:
        """What the cluster user ``user`` may choose; takes at most the time of one wait."""
        accounts, held = self._of_user(user)
        partitions, associations, reservations = await asyncio.gather(
            self._partitions.get(self._wait), accounts.get(self._wait), held.get(self._wait)
        )
        choices = build_choices(self._profile, partitions, associations, reservations or ())
        return Offered(choices, self._partitions.fetched_at if partitions is not None else None)

    async def close(self) -> None:
        """Stop what is being fetched."""
        parts = [self._partitions, *(part for pair in self._by_user.values() for part in pair)]
        tasks = [part.task for part in parts if part.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _of_user(
        self, user: str
    ) -> tuple[_Refreshed[tuple[Association, ...]], _Refreshed[tuple[Reservation, ...]]]:
        pair = self._by_user.get(user)
        if pair is None:
            pair = (
                _Refreshed(
                    lambda: self._scheduler.fetch_associations(user),
                    ASSOCIATIONS_SECONDS,
                    "associations",
                ),
                _Refreshed(
                    lambda: self._scheduler.fetch_reservations(user),
                    RESERVATIONS_SECONDS,
                    "reservations",
                ),
            )
            self._by_user[user] = pair
        self._by_user.move_to_end(user)
        while len(self._by_user) > _USERS_KEPT:
            self._by_user.popitem(last=False)
        return pair
