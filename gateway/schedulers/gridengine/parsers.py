"""Parses what Grid Engine prints about jobs. Pure and total.

The only exception is :class:`~gateway.errors.ClusterRefused` with reason ``not_understood``.
Times are UTC (the commands run with ``TZ=UTC0``). Seen: 8.1.9.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from xml.etree.ElementTree import Element

from gateway.schedulers.answers import cut_closing_line, not_understood
from gateway.schedulers.gridengine.commands import is_job_id
from gateway.schedulers.gridengine.documents import (
    parse_document,
    read_number,
    read_text,
    read_time,
)
from gateway.values.jobs import JobId

_STATE: Final = re.compile(r"[A-Za-z]{1,12}", re.ASCII)
_OWNER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+$-]{0,127}", re.ASCII)
_INSTANCE: Final = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9_.+-]{0,127})@([A-Za-z0-9][A-Za-z0-9_.-]{0,252})", re.ASCII
)
_SECONDS: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_CLOCK: Final = re.compile(r"([0-9]{1,6}):([0-9]{1,6}):([0-9]{1,6})", re.ASCII)
_MEMORY: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([KMGTkmgt]?)(?:i?B)?", re.ASCII)
_UNITS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_FAILED: Final = re.compile(r"([0-9]{1,3})(?:\s*:\s*(.*?))?\s*", re.ASCII)
_NUMBER: Final = re.compile(r"([0-9]{1,10})(?:\s.*)?", re.ASCII)
_REQUEST: Final = re.compile(r"(?:^|[\s,])([A-Za-z][A-Za-z0-9_.-]*)=([^\s,]+)", re.ASCII)
_NAMED_QUEUE: Final = re.compile(r'\bqueue (?:instance )?"([^"@]+)')
_STAMP: Final = re.compile(r"^[0-9/]+ [0-9:.]+ \[[0-9:]+\]: (?:error: )?")
_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)
_CTIME: Final = re.compile(
    r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) +([0-9]{1,2}) ([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)?"
    r" ([0-9]{4})",
    re.ASCII,
)
_SLASHED: Final = re.compile(
    r"([0-9]{2})/([0-9]{2})/([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)?", re.ASCII
)
_NO_TIME: Final = frozenset({"", "-/-", "undefined"})


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One job as qstat lists it. ``several``: it is listed more than once (an array job)."""

    job_id: JobId
    state: str
    name: str
    owner: str
    queue: str
    node: str | None
    slots: int
    submitted_at: datetime | None
    started_at: datetime | None
    walltime: timedelta | None
    several: bool = False


@dataclass(frozen=True, slots=True)
class AccountingRow:
    """One record of qacct. ``memory_used`` and ``requests`` (name to value) as far as known."""

    job_id: JobId
    owner: str
    queue: str
    node: str
    slots: int
    failed: int
    failed_words: str
    exit_status: int
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    memory_used: float
    requests: Mapping[str, str]


def parse_submitted(stdout: str) -> JobId | None:
    """The id that ``qsub -terse`` prints on its last line; ``None`` if none."""
    lines = stdout.split("\n")
    if len(lines) == 2 and not lines[1] and is_job_id(lines[0]):
        return JobId(lines[0])
    return None


def parse_queue(output: str) -> tuple[QueueRow, ...]:
    """The jobs of ``qstat -r -xml``, one row a job; ended ones have the state ``z``."""
    rows: dict[JobId, QueueRow] = {}
    for element in parse_document(output, "job_info").iter("job_list"):
        row = _parse_job(element)
        known = rows.get(row.job_id)
        rows[row.job_id] = row if known is None else replace(row, several=True)
    return tuple(rows.values())


def _parse_job(element: Element) -> QueueRow:
    job, state = read_text(element, "JB_job_number"), read_text(element, "state")
    owner, instance = read_text(element, "JB_owner"), read_text(element, "queue_name")
    if not (is_job_id(job) and _STATE.fullmatch(state) and _OWNER.fullmatch(owner)):
        raise not_understood("qstat, a job", f"{job} {state} {owner}")
    queue, node = read_text(element, "hard_req_queue"), None
    if instance:
        queue, node = parse_instance(instance)
    walltime = [
        parse_duration(limit.text or "")
        for limit in element.findall("hard_request")
        if limit.get("name") == "h_rt"
    ]
    return QueueRow(
        job_id=JobId(job),
        state=state,
        name=read_text(element, "full_job_name") or read_text(element, "JB_name"),
        owner=owner,
        queue=queue,
        node=node,
        slots=read_number(element, "slots"),
        submitted_at=read_time(element, "JB_submission_time"),
        started_at=read_time(element, "JAT_start_time"),
        walltime=walltime[0] if walltime else None,
        # Tasks of an array job.
        several=element.find("tasks") is not None,
    )


def parse_instance(value: str) -> tuple[str, str]:
    """Queue and node of a queue instance, ``queue@node``."""
    match = _INSTANCE.fullmatch(value)
    if match is None:
        raise not_understood("queue instance", value)
    return match[1], match[2]


def parse_reasons(output: str) -> dict[JobId, str]:
    """Why jobs wait, from ``qstat -j -xml``: what went wrong, else the scheduler's remarks.

    One sentence a remark, with a ``;`` between; a job without any is absent. Remarks about other
    queues than the job asks for are left out.
    """
    root = parse_document(output, "detailed_job_info", "unknown_jobs", "comunication_error")
    remarks: dict[str, list[str]] = {}
    for element in root.iterfind("messages/element/SME_message_list/element"):
        for number in element.iter("ULNG_value"):
            remarks.setdefault(number.text or "", []).append(read_text(element, "MES_message"))
    whole = [
        read_text(element, "MES_message")
        for element in root.iterfind("messages/element/SME_global_message_list/element")
    ]
    reasons: dict[JobId, str] = {}
    for element in root.iterfind("djob_info/element"):
        job = read_text(element, "JB_job_number")
        if not is_job_id(job):
            raise not_understood("qstat -j", job)
        errors = [_STAMP.sub("", (one.text or "").strip()) for one in element.iter("QIM_message")]
        queues = {one.text or "" for one in element.findall("JB_hard_queue_list/*/QR_name")}
        said = errors or [
            remark
            for remark in [*remarks.get(job, []), *whole]
            if remark and _is_about(remark, queues)
        ]
        if said:
            reasons[JobId(job)] = "; ".join(said)[:1000]
    return reasons


def _is_about(remark: str, queues: set[str]) -> bool:
    named = _NAMED_QUEUE.search(remark)
    return named is None or not queues or named[1] in queues


def parse_accounting(output: str) -> tuple[AccountingRow, ...]:
    """The records of ``qacct -j``, in the order in which they were written."""
    blocks: list[dict[str, str]] = []
    for line in cut_closing_line(output).splitlines():
        if line.startswith("====="):
            blocks.append({})
            continue
        name, _, value = line.strip().partition(" ")
        if not name:
            continue
        # A line twice could only be a forged one.
        if not blocks or name in blocks[-1]:
            raise not_understood("qacct", line)
        blocks[-1][name] = value.strip()
    if not blocks:
        raise not_understood("qacct", output)
    return tuple(_parse_record(block) for block in blocks)


def _parse_record(block: Mapping[str, str]) -> AccountingRow:
    failed = _FAILED.fullmatch(block.get("failed", ""))
    status = _NUMBER.fullmatch(block.get("exit_status", ""))
    slots = _NUMBER.fullmatch(block.get("slots", ""))
    job = block.get("jobnumber", "")
    if not (is_job_id(job) and failed and status and slots):
        raise not_understood("qacct", repr(dict(block)))
    used = parse_memory(block.get("maxvmem", ""))
    return AccountingRow(
        job_id=JobId(job),
        owner=block.get("owner", ""),
        queue=block.get("qname", ""),
        node=block.get("hostname", ""),
        slots=int(slots[1]),
        failed=int(failed[1]),
        failed_words=failed[2] or "",
        exit_status=int(status[1]),
        submitted_at=parse_ctime(block.get("qsub_time", "")),
        started_at=parse_ctime(block.get("start_time", "")),
        ended_at=parse_ctime(block.get("end_time", "")),
        memory_used=used or 0.0,
        requests=dict(_REQUEST.findall(block.get("category", ""))),
    )


def parse_ctime(value: str) -> datetime | None:
    """``Fri Nov 20 18:53:08 2026`` or ``11/20/2026 18:53:08.123`` in UTC; ``None`` for none."""
    if value in _NO_TIME:
        return None
    if match := _CTIME.fullmatch(value):
        month = _MONTHS.index(match[1]) + 1 if match[1] in _MONTHS else 0
        parts = (int(match[6]), month, *(int(match[n]) for n in (2, 3, 4, 5)))
    elif match := _SLASHED.fullmatch(value):
        parts = (int(match[3]), *(int(match[n]) for n in (1, 2, 4, 5, 6)))
    else:
        raise not_understood("time", value)
    year, month, day, hour, minute, second = parts
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        raise not_understood("time", value) from None
    # The epoch is how some versions print a time that never came.
    return moment if moment.year > 1970 else None


def parse_duration(value: str) -> timedelta | None:
    """Seconds or ``H:M:S``; ``None`` for INFINITY and what is not a time at all."""
    if _SECONDS.fullmatch(value):
        seconds = int(value)
    elif match := _CLOCK.fullmatch(value):
        seconds = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])
    else:
        return None
    return timedelta(seconds=seconds)


def parse_memory(value: str) -> float | None:
    """Bytes of ``23.541G``, ``275.484MB`` or ``100M``; ``None`` for INFINITY and the like.

    sge_types(1): small letters are powers of 1000, capital ones of 1024.
    """
    match = _MEMORY.fullmatch(value)
    if match is None:
        return None
    base = 1000 if match[2].islower() else 1024
    return float(match[1]) * float(base ** _UNITS[match[2].lower()])
