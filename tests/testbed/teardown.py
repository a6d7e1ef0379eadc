"""Taking a bed away: exactly what it started, also when the process that started it is dead."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

from . import state
from .hosts import HostError, command
from .layout import HOSTS, Layout, layout_of, root_directory
from .processes import Process, inode_of, is_alive, list_inside, send, wait_gone


def list_beds() -> list[str]:
    """The run ids of all beds with a state directory, up or not."""
    return sorted(
        p.name.removeprefix("landfall-bed-") for p in root_directory().glob("landfall-bed-*")
    )


def is_kept(run_id: str) -> bool:
    """Whether the bed belongs to no process: somebody brought it up by hand, or it is a ruin."""
    try:
        return state.load(layout_of(run_id)).owner is None
    except (FileNotFoundError, ValueError):
        return True


def tear_down(layout: Layout) -> None:
    """Raises HostError when something could not be removed; safe to repeat."""
    try:
        record = state.load(layout)
    except (FileNotFoundError, ValueError):
        record = None
    if record is not None and record.boot == state.boot_id():
        _stop_all(layout, record)
    for host in HOSTS:
        if Path(f"/run/netns/{layout.namespace(host)}").exists():
            command(["ip", "netns", "del", layout.namespace(host)])
    if layout.state.exists():
        _remove_cgroups(layout)
        shutil.rmtree(layout.state)


def _stop_all(layout: Layout, record: state.Record) -> None:
    # The name of a namespace in /run/netns keeps its inode number from being given to another.
    pinned = {host: inode_of(f"/run/netns/{layout.namespace(host)}") for host in record.hosts}
    ours = {
        (host.network, host.mounts)
        for name, host in record.hosts.items()
        if pinned[name] == host.network or is_alive(host.holder)
    }
    holders = {host.holder for host in record.hosts.values()}
    end = time.monotonic() + 15
    while True:
        # Holders go last: their namespaces are how the others are found.
        left = {found.process for found in list_inside(ours)} | set(record.daemons.values())
        left = {process for process in left - holders if is_alive(process)}
        if not left:
            break
        if time.monotonic() > end:
            raise HostError(f"bed {layout.run_id}: processes survive SIGKILL: {sorted_pids(left)}")
        for process in left:
            send(process, signal.SIGKILL)
        wait_gone(left, 1)
    for holder in holders:
        send(holder, signal.SIGKILL)
    survivors = wait_gone(holders, 5)
    if survivors:
        raise HostError(f"bed {layout.run_id}: hosts survive: {sorted_pids(set(survivors))}")


def sorted_pids(processes: set[Process]) -> list[int]:
    return sorted(process.pid for process in processes)


def _remove_cgroups(layout: Layout) -> None:
    """slurmd leaves empty directories; a job's directory names its id, which only we use."""
    ids = range(layout.first_job_id, layout.first_job_id + 1000)
    alone = list_beds() == [layout.run_id]
    for top in Path("/sys/fs/cgroup").glob("*/slurm_c[123]"):
        jobs = [p for p in top.glob("uid_*/job_*") if int(p.name.removeprefix("job_")) in ids]
        for base in [top] if alone else jobs:
            below = sorted((p for p in base.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts))
            for directory in (*below, base):
                try:
                    directory.rmdir()
                except OSError as error:
                    if directory.exists() and alone:
                        raise HostError(f"{directory}: {error}") from error


def remove_stale() -> list[str]:
    """Take away beds whose owner has died without doing so; their run ids."""
    gone = []
    for run_id in list_beds():
        layout = layout_of(run_id)
        try:
            record = state.load(layout)
        except (FileNotFoundError, ValueError):
            continue
        if record.owner is not None and not (
            record.boot == state.boot_id() and is_alive(record.owner)
        ):
            tear_down(layout)
            gone.append(run_id)
    return gone
