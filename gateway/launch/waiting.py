"""Waiting with bounds: growing delays, and the first of several tasks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Backoff:
    """Delays that double from ``first`` to ``limit`` seconds, each with up to a half of chance,
    so that many launches do not knock at the same moment."""

    first: float = 0.2
    limit: float = 30.0
    _next: float = field(default=0.0, init=False)

    def delay(self) -> float:
        """Return the next delay in seconds."""
        self._next = min(self.limit, max(self.first, self._next * 2))
        return self._next * random.uniform(0.5, 1.0)  # noqa: S311

    def reset(self) -> None:
        """Begin again with ``first``."""
        self._next = 0.0

    async def wait(self) -> None:
        """Sleep for the next delay."""
        await asyncio.sleep(self.delay())


async def run_until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Run ``works`` together until one returns or fails; the others are cancelled and awaited.

    The first failure is raised; so is cancellation, after all of them have ended.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(*tasks)
    # All are looked at, or a second failure would be logged as one that nobody has seen.
    failures = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if failures:
        raise failures[0]


async def cancel_all(*tasks: asyncio.Task[Any]) -> None:
    """Cancel ``tasks`` and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def bounded(work: Awaitable[object], seconds: float) -> None:
    """Await ``work`` for at most ``seconds``; running out of time is no failure here."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return
