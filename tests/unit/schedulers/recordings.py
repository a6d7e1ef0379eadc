"""What real schedulers printed, and how it looks in the columns that we ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

from gateway.schedulers.command_environment import ANSWERED
from gateway.schedulers.slurm.commands import (
    ACCOUNTING_FIELDS,
    ASSOCIATION_FIELDS,
)
from gateway.transport.base import CommandResult

ROOT = Path(__file__).parents[2] / "recorded" / "slurm"
VERSIONS = ("22.05", "26.05")
SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Recording:
    """One command and what it did."""

    path: Path
    name: str
    argv: tuple[str, ...]
    exit_status: int
    stdout: str
    stderr: str

    @property
    def result(self) -> CommandResult:
        """As a transport returns it."""
        return CommandResult(
            self.argv, self.exit_status, self.stdout.encode(), self.stderr.encode(), 0.01
        )


@cache
def load(version: str) -> tuple[Recording, ...]:
    """All recordings of one version, in order."""
    found = []
    for path in sorted((ROOT / version).glob("*.json")):
        raw = json.loads(path.read_text())
        if "argv" not in raw:
            continue
        found.append(
            Recording(
                path, raw["name"], tuple(raw["argv"]), raw["rc"], raw["stdout"], raw["stderr"]
            )
        )
    assert found, f"no recordings in {ROOT / version}"
    return tuple(found)


def one(version: str, name: str) -> Recording:
    """The first recording of that name."""
    return next(recording for recording in load(version) if recording.name == name)


def answered(text: str) -> str:
    """A complete answer."""
    return f"{text}{ANSWERED}\n"


def as_queue(stdout: str) -> str:
    """squeue's recorded columns in the order of `QUEUE_FORMAT`.

    Recorded: id state reason batch nodes partition user account name submit start end …
    """
    lines = []
    for line in stdout.splitlines():
        job, state, reason, batch, nodes, partition, user, _, _, submit, start, end = line.split(
            "|"
        )[:12]
        order = [job, state, batch, nodes, partition, user, submit, start, end, reason, "."]
        lines.append("|".join(order) + "\n")
    return answered("".join(lines))


def as_accounting(stdout: str) -> str:
    """sacct's recorded columns (with a header) in the order of `ACCOUNTING_FIELDS`."""
    return _select(stdout, ACCOUNTING_FIELDS, lambda row: "." not in row["JobID"])


def as_associations(stdout: str) -> str:
    """sacctmgr's recorded columns (with a header) in the order of `ASSOCIATION_FIELDS`."""
    renamed = stdout.replace("Def Acct", "DefaultAccount").replace("Def QOS", "DefaultQOS")
    return _select(renamed, ASSOCIATION_FIELDS, lambda _: True)


def _select(stdout: str, columns: tuple[str, ...], wanted: object) -> str:
    assert callable(wanted)
    header, *lines = stdout.splitlines()
    names = header.split("|")
    rows = [dict(zip(names, line.split("|"), strict=True)) for line in lines]
    return answered(
        "".join(
            "".join(row.get(column, "") + "|" for column in columns) + "\n"
            for row in rows
            if wanted(row)
        )
    )


def as_nodes(stdout: str) -> str:
    """sinfo's recorded columns without the free memory, which is not asked for."""
    rows = [line.split() for line in stdout.splitlines()]
    return answered("".join(" ".join([*row[:4], *row[5:]]) + "\n" for row in rows))
