"""The record of a running bed: what was started, so that anybody can stop exactly that."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .layout import Layout
from .processes import Process


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Host:
    """`holder` keeps the namespaces of a host; `network` and `mounts` are their inodes."""

    holder: Process
    network: int
    mounts: int


@dataclass(slots=True)
class Record:
    """`owner`: the process whose end makes the bed stale, None when a person started it."""

    run_id: str
    boot: str
    cgroups: bool
    owner: Process | None
    ready: bool = False
    hosts: dict[str, Host] = field(default_factory=dict)
    daemons: dict[str, Process] = field(default_factory=dict)


def _process(data: Any) -> Process | None:
    return None if data is None else Process(data["pid"], data["start"])


def load(layout: Layout) -> Record:
    """Raises FileNotFoundError when there is no such bed."""
    data = json.loads(layout.record.read_text())
    hosts = {
        name: Host(Process(**host["holder"]), host["network"], host["mounts"])
        for name, host in data["hosts"].items()
    }
    daemons = {name: Process(**process) for name, process in data["daemons"].items()}
    owner = _process(data["owner"])
    return Record(
        data["run_id"], data["boot"], data["cgroups"], owner, data["ready"], hosts, daemons
    )


def save(layout: Layout, record: Record) -> None:
    beside = layout.record.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(asdict(record), indent=1))
    beside.replace(layout.record)


@contextmanager
def change(layout: Layout) -> Iterator[Record]:
    """Load, change and save as one step; several processes may use one bed."""
    with (layout.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = load(layout)
        yield record
        save(layout, record)
