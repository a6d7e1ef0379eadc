"""Parses what Slurm prints about jobs. Pure and total.

The only exception is :class:`~gateway.errors.ClusterRefused` with reason ``not_understood``: every
line must be exactly as expected, since an answer that was misread could end somebody's session.
Times are UTC (the commands run with ``TZ=UTC0``). Seen: 22.05.8 and 26.05.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.schedulers.answers import cut_closing_line, not_understood
from gateway.schedulers.slurm.commands import (
    ACCOUNTING_FIELDS,
    NAMED_FIELDS,
    is_job_id,
)
from gateway.values.jobs import JobId

_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}", re.ASCII)
_NO_TIME: Final = frozenset({"", "N/A", "n/a", "Unknown", "None", "NONE", "(null)"})
_DURATION: Final = re.compile(
    r"(?:([0-9]{1,6})-)?([0-9]{1,4}):([0-9]{2}):([0-9]{2})|([0-9]{1,6}):([0-9]{2})", re.ASCII
)
_NO_DURATION: Final = frozenset(
    {"", "UNLIMITED", "INFINITE", "infinite", "NONE", "N/A", "n/a", "Partition_Limit"}
)
_STATE: Final = re.compile(r"[A-Z][A-Z_]{1,40}", re.ASCII)
_STATE_BY: Final = re.compile(r"([A-Z][A-Z_]{1,40})(?: by ([A-Za-z0-9_.-]{1,64}))?", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}", re.ASCII)
_EXIT: Final = re.compile(r"([0-9]{1,5}):([0-9]{1,3})", re.ASCII)
_SUBMITTED: Final = re.compile(r"([1-9][0-9]{0,9})(?:;[A-Za-z0-9_.-]{1,64})?\n?", re.ASCII)
_HOSTS: Final = re.compile(r"([A-Za-z0-9_.-]+)(?:\[([0-9,-]+)\]([A-Za-z0-9_.-]*))?", re.ASCII)
_MOST_HOSTS: Final = 65536


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One job as squeue lists it. ``starts_at`` of a pending job is an estimate."""

    job_id: JobId
    state: str
    batch_node: str | None
    nodes: tuple[str, ...]
    partition: str
    owner: str
    submitted_at: datetime | None
    starts_at: datetime | None
    ends_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class AccountingRow:
    """One job as sacct lists it. ``memory`` is as printed, such as ``500M``."""

    job_id: JobId
    state: str
    cancelled_by: str | None
    exit_code: int
    signal: int
    reason: str
    walltime: timedelta | None
    memory: str
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    owner: str
    owner_uid: str
    partition: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NamedRow:
    """A job found in the accounting by its name."""

    job_id: JobId
    submitted_at: datetime | None
    owner: str


def parse_lines(output: str) -> list[str]:
    """The lines of a complete answer, without the closing one.

    :raises ClusterRefused: the answer was cut off.
    """
    *lines, rest = cut_closing_line(output).split("\n")
    if rest:
        raise not_understood("cut off", output[-200:])
    return lines


def parse_submitted(stdout: str) -> JobId | None:
    """The id that ``sbatch --parsable`` prints (``id`` or ``id;cluster``); ``None`` if none."""
    match = _SUBMITTED.fullmatch(stdout)
    return JobId(match[1]) if match else None


def parse_queue(output: str) -> tuple[QueueRow, ...]:
    """The rows of squeue with ``QUEUE_FORMAT``, one a job."""
    rows: dict[JobId, QueueRow] = {}
    for line in parse_lines(output):
        row = _parse_queue_line(line)
        if rows.setdefault(row.job_id, row) != row:
            raise not_understood("squeue, one job twice", line)
    return tuple(rows.values())


def _parse_queue_line(line: str) -> QueueRow:
    parts = line.split("|", 9)
    if len(parts) != 10 or not parts[9].endswith("|."):
        raise not_understood("squeue", line)
    job, state, batch, nodes, partition, owner, submitted, starts, ends, rest = parts
    if not (is_job_id(job) and _STATE.fullmatch(state) and _WORD.fullmatch(owner)):
        raise not_understood("squeue", line)
    return QueueRow(
        job_id=JobId(job),
        state=state,
        batch_node=_parse_node(batch, line),
        nodes=parse_hosts(nodes),
        partition=partition,
        owner=owner,
        submitted_at=parse_time(submitted),
        starts_at=parse_time(starts),
        ends_at=parse_time(ends),
        reason=rest[:-2].strip(),
    )


def _parse_node(value: str, line: str) -> str | None:
    if value in ("", "n/a", "(null)"):
        return None
    if not _WORD.fullmatch(value):
        raise not_understood("squeue, node", line)
    return value


def parse_exit_code(output: str, job: JobId) -> tuple[int, int] | None:
    """Exit code and signal of a job from squeue with ``EXIT_FORMAT``; ``None``: not listed.

    Printed is the status of wait(2), or ``code:signal``.
    """
    lines = parse_lines(output)
    if not lines:
        return None
    words = lines[0].split()
    if len(lines) != 1 or len(words) != 2 or words[0] != job:
        raise not_understood("squeue, exit code", output)
    if match := _EXIT.fullmatch(words[1]):
        return int(match[1]), int(match[2])
    if not (words[1].isascii() and words[1].isdigit() and len(words[1]) <= 10):
        raise not_understood("squeue, exit code", output)
    status = int(words[1])
    return (status >> 8) & 0xFF, status & 0x7F


def parse_accounting(output: str) -> tuple[AccountingRow, ...]:
    """The rows of sacct with ``ACCOUNTING_FIELDS``."""
    return tuple(_parse_accounting_line(line) for line in parse_lines(output))


def _parse_accounting_line(line: str) -> AccountingRow:
    row = parse_columns(line, ACCOUNTING_FIELDS)
    state = _STATE_BY.fullmatch(row["State"])
    code = _EXIT.fullmatch(row["ExitCode"])
    if not (is_job_id(row["JobIDRaw"]) and state and code):
        raise not_understood("sacct", line)
    nodes = row["NodeList"]
    return AccountingRow(
        job_id=JobId(row["JobIDRaw"]),
        state=state[1],
        cancelled_by=state[2],
        exit_code=int(code[1]),
        signal=int(code[2]),
        reason=row["Reason"],
        walltime=parse_duration(row["Timelimit"]),
        memory=row["ReqMem"],
        submitted_at=parse_time(row["Submit"]),
        started_at=parse_time(row["Start"]),
        ended_at=parse_time(row["End"]),
        owner=row["User"],
        owner_uid=row["UID"],
        partition=row["Partition"],
        nodes=() if nodes == "None assigned" else parse_hosts(nodes),
    )


def parse_accounting_names(output: str) -> tuple[NamedRow, ...]:
    """The rows of sacct with ``NAMED_FIELDS``."""
    rows = []
    for line in parse_lines(output):
        row = parse_columns(line, NAMED_FIELDS)
        if not is_job_id(row["JobIDRaw"]):
            raise not_understood("sacct", line)
        rows.append(NamedRow(JobId(row["JobIDRaw"]), parse_time(row["Submit"]), row["User"]))
    return tuple(rows)


def parse_columns(line: str, names: tuple[str, ...]) -> dict[str, str]:
    """One line of ``--parsable`` output, each column followed by ``|``."""
    parts = line.split("|")
    if len(parts) != len(names) + 1 or parts[-1]:
        raise not_understood("columns", line)
    return dict(zip(names, parts, strict=False))


def parse_time(value: str) -> datetime | None:
    """A time as Slurm prints it under ``TZ=UTC0``; ``None`` for "N/A", "Unknown" and the like."""
    if value in _NO_TIME:
        return None
    if _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        except ValueError:
            pass
    raise not_understood("time", value)


def parse_duration(value: str) -> timedelta | None:
    """``D-HH:MM:SS``, ``HH:MM:SS`` or ``MM:SS``; ``None`` when there is no limit."""
    if value in _NO_DURATION:
        return None
    match = _DURATION.fullmatch(value)
    if match is None:
        raise not_understood("duration", value)
    days, hours, minutes, seconds, short_minutes, short_seconds = (
        int(part or 0) for part in match.groups()
    )
    return timedelta(
        days=days,
        hours=hours,
        minutes=minutes + short_minutes,
        seconds=seconds + short_seconds,
    )


def parse_hosts(value: str) -> tuple[str, ...]:
    """Names of a host list such as ``c[1-3,07],login``; "" and "(null)" are none."""
    if value in ("", "(null)", "n/a"):
        return ()
    names: list[str] = []
    for part in _split_outside_brackets(value):
        match = _HOSTS.fullmatch(part)
        if match is None:
            raise not_understood("host list", value)
        head, ranges, tail = match[1], match[2], match[3] or ""
        if ranges is None:
            names.append(head)
            continue
        for piece in ranges.split(","):
            names.extend(f"{head}{number}{tail}" for number in _expand(piece, value))
            if len(names) > _MOST_HOSTS:
                raise not_understood("host list", value)
    return tuple(names)


def _split_outside_brackets(value: str) -> list[str]:
    return re.split(r",(?![^\[\]]*\])", value)


def _expand(piece: str, value: str) -> list[str]:
    first, dash, last = piece.partition("-")
    last = last if dash else first
    if not (first.isdigit() and last.isdigit() and len(first) <= 9 and len(last) <= 9):
        raise not_understood("host list", value)
    low, high = int(first), int(last)
    if high - low > _MOST_HOSTS:
        raise not_understood("host list", value)
    return [str(number).zfill(len(first)) for number in range(low, high + 1)]
