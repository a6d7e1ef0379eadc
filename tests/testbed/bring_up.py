"""Bringing up a bed, step by step; each step is told with its time."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from . import accounts, daemons, hosts, keys, slurm_conf, sshd_conf, state
from .bed import Bed, BedError
from .layout import LOGIN, Layout
from .preconditions import why_not
from .processes import Process, status_of
from .teardown import tear_down

Say = Callable[[str], None]


def has_memory_cgroup() -> bool:
    """cgroup v1 with the controllers that proctrack, task and jobacct_gather/cgroup use."""
    top = Path("/sys/fs/cgroup")
    needed = ("memory", "freezer", "cpuset", "cpuacct", "devices")
    return all((top / name / "release_agent").exists() for name in needed)


def bring_up(bed: Bed, say: Say, *, keep: bool) -> None:
    """Raises BedError; then nothing is left of the bed."""
    reason = why_not()
    if reason is not None:
        raise BedError(reason)
    layout = bed.layout
    try:
        layout.state.mkdir(mode=0o755)
    except FileExistsError:
        raise BedError(f"bed {layout.run_id} exists already: {layout.state}") from None
    began = time.monotonic()
    try:
        _steps(bed, say, keep=keep)
    except (hosts.HostError, BedError, OSError, subprocess.SubprocessError) as error:
        tear_down(layout)
        raise BedError(f"bed {layout.run_id}: {error}") from error
    except BaseException:
        tear_down(layout)
        raise
    say(f"bed {layout.run_id} is up after {time.monotonic() - began:.1f} s")


def _owner(*, keep: bool) -> Process | None:
    me = status_of(os.getpid())
    return None if keep or me is None else me.process


def _steps(bed: Bed, say: Say, *, keep: bool) -> None:
    layout = bed.layout
    cgroups = has_memory_cgroup()
    state.save(layout, state.Record(layout.run_id, state.boot_id(), cgroups, _owner(keep=keep)))

    @contextmanager
    def step(what: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        say(f"{time.monotonic() - start:5.1f} s  {what}")

    with step("files, users and keys"):
        password = _write_files(layout, cgroups=cgroups)
    with ThreadPoolExecutor(1) as beside:
        database = beside.submit(daemons.make_database, layout, password)
        with step("hosts and links"):
            started = hosts.start_hosts(layout)
            with state.change(layout) as record:
                record.hosts = started
            hosts.link_hosts(started)
        with step("database files"):
            database.result()
    early = [(h, n) for h, n in daemons.PLACES if n in ("munged", "mariadb", "sshd")]
    with step("munged, MariaDB and sshd"):
        _start(layout, early)
    with step("slurmdbd and its accounts"):
        bed.start(LOGIN, "slurmdbd")
        for line in slurm_conf.ACCOUNTING:
            bed.sacctmgr(line)
    with step("slurmctld and slurmd"):
        _start(layout, [p for p in daemons.PLACES if p[1] in ("slurmctld", "slurmd")])
        bed.wait_for("idle nodes", bed.is_idle, timeout=30)
        for line in slurm_conf.ACCOUNTING_OF_GPUS:
            bed.sacctmgr(line)
    with state.change(layout) as record:
        record.ready = True


def _write_files(layout: Layout, *, cgroups: bool) -> str:
    for directory in (layout.logs, layout.home, layout.scratch, layout.hub_files):
        directory.mkdir(mode=0o755)
    password = accounts.make_etc(layout, cgroups=cgroups)
    keys.make_keys(layout)
    daemons.make_spools(layout)
    for name, text in (("admit", sshd_conf.ADMIT), ("epilog", sshd_conf.EPILOG)):
        script = layout.state / name
        script.write_text(text)
        script.chmod(0o755)
    return password


def _start(layout: Layout, places: list[tuple[str, str]]) -> None:
    """Start these together, then wait for each."""
    with state.change(layout) as record:
        holders = {host: record.hosts[host].holder for host, _ in places}
        for host, name in places:
            process = daemons.launch(layout, holders[host], host, name)
            record.daemons[f"{host}/{name}"] = process
    for host, name in places:
        daemons.wait_ready(layout, holders[host], host, name, record.daemons[f"{host}/{name}"])
