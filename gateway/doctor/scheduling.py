"""The scheduler: its commands and version, and what it says of partitions and accounts."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from gateway.doctor.findings import Finding, fail, ok, warn
from gateway.doctor.subject import Subject
from gateway.profiles.models import PartitionProfile
from gateway.schedulers.base import Partition
from gateway.text import Fixed, Words, text
from gateway.values.resources import format_walltime

OLDEST: Final = (22, 5)
NEWEST: Final = (26, 5)
_VERSION: Final = re.compile(r"([0-9]{2,3})\.([0-9]{1,2})")
_PROGRAMS: Final = {
    "slurm": ("sbatch", "squeue", "scancel", "sinfo", "scontrol"),
    "pbs": ("qsub", "qstat", "qdel", "pbsnodes"),
    "gridengine": ("qsub", "qstat", "qdel", "qhost", "qconf"),
}
_ACCOUNTING: Final = {"slurm": ("sacct", "sacctmgr"), "pbs": (), "gridengine": ("qacct",)}
# Prints those of its arguments that are no commands.
_FIND: Final = 'for p do command -v "$p" >/dev/null 2>&1 || printf "%s " "$p"; done'


async def check_commands(subject: Subject) -> Finding:
    """The commands are there, and of a version that the gateway was tried with."""
    scheduler = subject.profile.scheduler
    accounting = _ACCOUNTING[scheduler.kind]
    names = (*_PROGRAMS[scheduler.kind], *(accounting if scheduler.accounting else ()))
    if scheduler.bin_directory is not None:
        names = tuple(str(scheduler.bin_directory / name) for name in names)
    found = await subject.transport.run(
        subject.observer, ("/bin/sh", "-c", _FIND, "sh", *names), timeout=timedelta(seconds=20)
    )
    if missing := found.text.split():
        return fail(
            text("not found on the login node: {names}", names=", ".join(missing)),
            text(
                "Set scheduler.bin_directory in the profile to the directory of these commands, "
                "or put them on the PATH of sessions without a terminal."
            ),
            text("A cluster that keeps no accounts says scheduler.accounting: false."),
        )
    version = await subject.scheduler.fetch_version()
    if scheduler.kind != "slurm":
        return ok(Fixed(version, version))
    return judge_version(version)


def judge_version(version: str) -> Finding:
    """Whether the gateway was tried with this version of Slurm. Pure."""
    match = _VERSION.search(version)
    number = (int(match[1]), int(match[2])) if match else None
    span = text(
        "The gateway is tested with Slurm {oldest} to {newest}.", oldest="22.05", newest="26.05"
    )
    words = Fixed(version, version)
    if number is None:
        return warn(words, span)
    if number < OLDEST:
        return fail(text("{version} is too old", version=version), span)
    if number > NEWEST:
        return warn(text("{version} is newer than what was tested", version=version), span)
    return ok(words)


async def check_partitions(subject: Subject) -> Finding:
    """The profile's partitions exist and take jobs."""
    subject.partitions = await subject.scheduler.fetch_partitions()
    live = {partition.name: partition for partition in subject.partitions}
    if missing := [name for name in subject.profile.partitions if name not in live]:
        return fail(
            text("the cluster has no partition {names}", names=", ".join(missing)),
            text(
                "Correct partitions in the profile; the cluster has: {names}.",
                names=", ".join(sorted(live)) or "-",
            ),
            text(
                "A partition may also be hidden from {account}: scontrol --all show partition, "
                "run as that account, must list it.",
                account=subject.observer.name,
            ),
        )
    if down := [name for name in subject.profile.partitions if not live[name].up]:
        return warn(
            text("partitions that take no jobs now: {names}", names=", ".join(down)),
            text("scontrol show partition NAME tells their State; this may be on purpose."),
        )
    return ok(text("all there: {names}", names=", ".join(subject.profile.partitions)))


async def check_limits(subject: Subject) -> Finding:
    """The profile does not promise more than the partitions give (they count in any case)."""
    live = {partition.name: partition for partition in subject.partitions}
    wider: list[Words] = []
    for name, bounds in subject.profile.partitions.items():
        wider += find_wider(name, bounds, live[name])
    if wider:
        return warn(
            text("the profile allows more than the cluster gives"),
            *wider,
            text("The form shows the smaller values; correct the profile when it is outdated."),
        )
    return ok(text("within those of the cluster"))


def find_wider(name: str, bounds: PartitionProfile, live: Partition) -> list[Words]:
    """One line for each limit of the profile that is wider than the live one. Pure."""
    gpus = max((kind.largest_node for kind in live.gpus), default=0)
    memory = live.memory_largest_node
    rows: list[tuple[str, bool, str, str]] = [
        (
            "max_walltime",
            live.max_walltime is not None and bounds.max_walltime > live.max_walltime,
            format_walltime(bounds.max_walltime),
            "-" if live.max_walltime is None else format_walltime(live.max_walltime),
        ),
        (
            "max_cores",
            bounds.max_cores > live.cores_largest_node,
            str(bounds.max_cores),
            str(live.cores_largest_node),
        ),
        (
            "max_memory",
            memory is not None and bounds.max_memory > memory,
            str(bounds.max_memory),
            str(memory),
        ),
        ("max_gpus", bounds.max_gpus > gpus, str(bounds.max_gpus), str(gpus)),
    ]
    return [
        text(
            "partitions.{partition}.{key} is {ours}, the cluster gives {theirs}",
            partition=name,
            key=key,
            ours=ours,
            theirs=theirs,
        )
        for key, is_wider, ours, theirs in rows
        if is_wider
    ]


async def check_accounts(subject: Subject, user: str) -> Finding:
    """The user has something to charge, as far as the cluster keeps accounts."""
    profile = subject.profile
    if not profile.scheduler.accounting or profile.accounts == "none":
        return ok(text("none are asked for"))
    found = [one.account for one in await subject.scheduler.fetch_associations(user)]
    names = tuple(dict.fromkeys(found))
    if not names:
        return fail(
            text("the observer sees no account of {user}", user=user),
            text(
                "Give the user one (sacctmgr add user {user} account=…), or set accounts: none "
                "where jobs are not charged.",
                user=user,
            ),
            text(
                "PrivateData=users or accounts hides them: make {account} an operator "
                "(sacctmgr modify user {account} set adminlevel=operator).",
                account=subject.observer.name,
            ),
        )
    if isinstance(profile.accounts, tuple) and not set(profile.accounts) & set(names):
        return fail(
            text("{user} may charge {names}, none of which the profile names", user=user,
                 names=", ".join(names)),
            text("Correct accounts in the profile, or set it to from_scheduler."),
        )  # fmt: skip
    return ok(text("{user} may charge {names}", user=user, names=", ".join(names)))
