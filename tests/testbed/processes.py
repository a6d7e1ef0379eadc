"""Processes that outlive the one that started them, told apart by pid and start time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# What a daemon or a user's command sees: nothing of the caller's environment.
CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, slots=True)
class Process:
    """`start` is field 22 of /proc/PID/stat, in clock ticks since boot (proc(5))."""

    pid: int
    start: int


@dataclass(frozen=True, slots=True)
class Status:
    process: Process
    parent: int
    command: str
    state: str


def status_of(pid: int) -> Status | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command is in brackets and may itself hold spaces and brackets.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Status(Process(pid, int(fields[19])), int(fields[1]), head.partition("(")[2], fields[0])


def start_daemon(argv: Sequence[str], log: Path) -> Process:
    """A process in a session of its own, output appended to `log`.

    Not subprocess.Popen: the daemon may outlive us, and a Popen that is dropped warns.
    """
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawnp(
        argv[0],
        list(argv),
        CLEAN_ENVIRONMENT,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    found = status_of(pid)
    if found is None:
        raise ProcessLookupError(f"{argv[0]} vanished at once; see {log}")
    return found.process


def is_alive(process: Process) -> bool:
    """False also for a zombie; reaps it when it is our child."""
    found = status_of(process.pid)
    if found is None or found.process != process:
        return False
    if found.state in "ZX":
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
        return False
    return True


def send(process: Process, number: signal.Signals) -> bool:
    """Signals exactly this process (never one that took its pid); False when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_gone(processes: Iterable[Process], timeout: float) -> list[Process]:
    """Those that still live after `timeout` seconds."""
    end = time.monotonic() + timeout
    left = [process for process in processes if is_alive(process)]
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left = [process for process in left if is_alive(process)]
    return left


def inode_of(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        # Kernel guards may hide pid 1, even from root; it is never one of ours.
        return None


def list_inside(namespaces: set[tuple[int, int]]) -> list[Status]:
    """The processes whose (network, mount) namespaces are among these, and all their children.

    Both must match: a test that has only entered a host's network is not of the bed.
    """
    every: dict[int, Status] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := status_of(int(entry.name))) is not None:
            every[found.process.pid] = found
    inside: dict[int, Status] = {}
    for pid, found in every.items():
        pair = (inode_of(f"/proc/{pid}/ns/net"), inode_of(f"/proc/{pid}/ns/mnt"))
        if pair in namespaces:
            inside[pid] = found
    grew = True
    while grew:
        more = {
            pid: found
            for pid, found in every.items()
            if pid not in inside and found.parent in inside
        }
        inside.update(more)
        grew = bool(more)
    return [found for found in inside.values() if found.state not in "ZX"]
