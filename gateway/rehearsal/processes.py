"""Processes of the rehearsal cluster: found by a marker in their environment, and ended.

A job's processes may leave its process group (Jupyter gives each kernel a session of its own), so
groups alone do not find them all. The marker is inherited; descendants of a marked process count
too, even with another environment. Linux only: proc(5).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Final

JOB_MARKER: Final = "REHEARSAL_JOB"
TERM_GRACE: Final = 2.0
KILL_GRACE: Final = 5.0
_PROC: Final = Path("/proc")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # ended meanwhile, or not ours
        return b""


def find_processes(marker: str) -> frozenset[int]:
    """Pids of processes with ``REHEARSAL_JOB=<marker>…`` in their environment, and of their
    descendants; zombies excluded. A marker that ends in ``#`` or ``/`` finds all below it."""
    entry = f"{JOB_MARKER}={marker}".encode()
    exact = not marker.endswith(("#", "/"))
    parents: dict[int, int] = {}
    found: set[int] = set()
    for directory in _PROC.iterdir():
        if not directory.name.isdigit():
            continue
        stat = _read(directory / "stat").rpartition(b")")[2].split()
        if not stat or stat[0] in (b"Z", b"X"):
            continue
        pid = int(directory.name)
        parents[pid] = int(stat[1])
        for word in _read(directory / "environ").split(b"\0"):
            if word == entry or (not exact and word.startswith(entry)):
                found.add(pid)
                break
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found and pid not in found}
        found |= more
        grown = bool(more)
    return frozenset(found - {os.getpid()})


def _signal_all(pids: frozenset[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _end(marker: str, grace: float) -> bool:
    """SIGTERM, then SIGKILL after ``grace`` seconds, until nothing is left; blocks."""
    asked: frozenset[int] = frozenset()
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        pids = find_processes(marker)
        if not pids:
            return True
        _signal_all(pids - asked, signal.SIGTERM)
        _signal_all(pids - asked, signal.SIGCONT)
        asked |= pids
        time.sleep(0.05)
    deadline = time.monotonic() + KILL_GRACE
    while pids := find_processes(marker):
        _signal_all(pids, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


async def end_processes(marker: str, *, grace: float = TERM_GRACE) -> bool:
    """End everything that carries ``marker``; ``False`` when something survived SIGKILL."""
    return await asyncio.to_thread(_end, marker, grace)
