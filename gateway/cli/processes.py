"""Processes that ``gateway up`` starts: watched, restarted when they die, stopped to the last."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import ConfigurationError
from gateway.text import text

STOP_GRACE: Final = 15.0
RESTART_DELAYS: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
LOG_TAIL: Final = 4000


@dataclass(frozen=True, slots=True)
class Service:
    """One process: ``ready`` answers whether it does its work."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[], Awaitable[bool]]


class Supervisor:
    """Starts services in order and stops them in the opposite one.

    Each service leads a session of its own, so that stopping it stops its children too.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: list[tuple[Service, asyncio.subprocess.Process]] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self, service: Service, *, timeout: float = 60.0) -> None:
        """Start and wait until ready.

        :raises ConfigurationError: it ended or was not ready in time; with the end of its log.
        """
        began = time.monotonic()
        process = await self._spawn(service)
        try:
            async with asyncio.timeout(timeout):
                while not await service.ready():
                    if process.returncode is not None:
                        raise self._failed(service, f"ended with status {process.returncode}")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise self._failed(service, f"was not ready after {timeout:.0f} s") from None
        self._say(f"{service.name} is ready ({time.monotonic() - began:.1f} s)")
        self._watchers.append(asyncio.create_task(self._watch(service, process)))

    async def stop(self) -> None:
        """Stop everything, last started first; nothing of it runs when this returns."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for service, process in reversed(self._running):
            await _end(process)
            self._say(f"{service.name} stopped")
        self._running.clear()

    async def _spawn(self, service: Service) -> asyncio.subprocess.Process:
        descriptor = os.open(service.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *service.argv,
                env=dict(service.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        self._running = [entry for entry in self._running if entry[0].name != service.name]
        self._running.append((service, process))
        return process

    async def _watch(self, service: Service, process: asyncio.subprocess.Process) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            status = await process.wait()
            _signal_group(process.pid, signal.SIGKILL)
            failures = 0 if time.monotonic() - began > 60 else failures + 1
            delay = RESTART_DELAYS[min(failures, len(RESTART_DELAYS) - 1)]
            self._say(
                f"{service.name} ended with status {status}; starting it again in {delay:.0f} s "
                f"(its log: {service.log})"
            )
            await asyncio.sleep(delay)
            process = await self._spawn(service)

    def _failed(self, service: Service, what: str) -> ConfigurationError:
        tail = ""
        with contextlib.suppress(OSError):
            tail = service.log.read_text(errors="replace")[-LOG_TAIL:]
        return ConfigurationError(
            text("{name} {what}.", name=service.name, what=what), detail=f"its log says:\n{tail}"
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_GRACE):
            await process.wait()
            while _signal_group(process.pid, 0):  # noqa: ASYNC110 - nobody tells of orphans
                await asyncio.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    await process.wait()


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group we made; tell whether it still has members."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
