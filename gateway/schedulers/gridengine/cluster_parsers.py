"""Parses what Grid Engine prints about queues, projects and reservations. Pure and total.

The only exception is :class:`~gateway.errors.ClusterRefused` with reason ``not_understood``.
Seen: 8.1.9.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.etree.ElementTree import Element

from gateway.profiles.models import GridEngineSchedulerProfile
from gateway.schedulers.answers import cut_closing_line, not_understood
from gateway.schedulers.base import Association, GpuKind, Partition, Reservation
from gateway.schedulers.gridengine.documents import (
    parse_document,
    read_number,
    read_text,
    read_time,
)
from gateway.schedulers.gridengine.parsers import parse_duration, parse_instance, parse_memory
from gateway.values.resources import MemorySize

_VERSION: Final = re.compile(r"[A-Za-z][ -~]{2,60}", re.ASCII)
# qstat(1), states of a queue instance in which it starts no job: unknown, alarm, error,
# configuration ambiguous, orphaned, disabled by hand and by calendar, suspended.
_UNUSABLE: Final = frozenset("uEcodDsSC")
_NONE: Final = "NONE"


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One queue on one node. ``gpus_free`` counts the node's, whichever queue uses them."""

    queue: str
    node: str
    usable: bool
    slots: int
    slots_used: int
    slots_free: int
    memory: float | None
    walltime: float | None
    gpus_free: int
    gpus_used: int


@dataclass(frozen=True, slots=True)
class QueueConfiguration:
    """What ``qconf -sq`` says of a queue; ``None``: nodes differ, or all are allowed."""

    name: str
    parallel_environments: frozenset[str] | None
    projects: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project, and the access lists of who may and may not use it."""

    name: str
    allowed: frozenset[str] = field(default_factory=frozenset)
    denied: frozenset[str] = field(default_factory=frozenset)


def parse_instances(output: str, profile: GridEngineSchedulerProfile) -> tuple[InstanceRow, ...]:
    """The queue instances of ``qstat -f -F … -r -xml``, with their running jobs."""
    root = parse_document(output, "job_info")
    return tuple(_parse_instance(one, profile) for one in root.iter("Queue-List"))


def _parse_instance(element: Element, profile: GridEngineSchedulerProfile) -> InstanceRow:
    queue, node = parse_instance(read_text(element, "name"))
    slots, used = read_number(element, "slots_total"), read_number(element, "slots_used")
    reserved = read_number(element, "slots_resv")
    offered = {one.get("name", ""): (one.text or "").strip() for one in element.findall("resource")}
    kinds = {one.get("name", ""): one.get("type", "") for one in element.findall("resource")}
    # A node that several queues share has slots of its own.
    left = parse_memory(offered.get("slots", ""))
    free = max(0, min(slots - used - reserved, slots if left is None else int(left)))
    walltime = parse_duration(offered.get("h_rt", "")) if "h_rt" in offered else None
    gpus = 0.0
    gpu_complex = profile.gpu_complex
    # Only what is counted (c for consumable) can be free; a load value is no promise.
    if gpu_complex is not None and kinds.get(gpu_complex, "").endswith("c"):
        gpus = parse_memory(offered.get(gpu_complex, "")) or 0.0
    return InstanceRow(
        queue=queue,
        node=node,
        usable=not set(read_text(element, "state")) & _UNUSABLE,
        slots=slots,
        slots_used=used,
        slots_free=free,
        memory=parse_memory(offered.get("mem_total", "")),
        walltime=None if walltime is None else walltime.total_seconds(),
        gpus_free=int(gpus),
        gpus_used=_count_gpus(element, profile),
    )


def _count_gpus(element: Element, profile: GridEngineSchedulerProfile) -> int:
    used = 0.0
    for job in element.findall("job_list"):
        for request in (*job.findall("hard_request"), *job.findall("def_hard_request")):
            if request.get("name") == profile.gpu_complex:
                each = parse_memory((request.text or "").strip()) or 0.0
                used += each * (read_number(job, "slots") if profile.gpu_per == "slot" else 1)
    return int(used)


def parse_queue_configurations(output: str) -> dict[str, QueueConfiguration]:
    """The blocks of ``qconf -sq``, by queue."""
    found: dict[str, QueueConfiguration] = {}
    for block in _parse_blocks(cut_closing_line(output), "qname"):
        name = block["qname"]
        environments = _parse_list(block.get("pe_list", _NONE))
        projects = _parse_list(block.get("projects", _NONE))
        found[name] = QueueConfiguration(name, environments, projects or None)
    if not found:
        raise not_understood("qconf -sq", output)
    return found


def _parse_blocks(text: str, first: str) -> list[dict[str, str]]:
    """``name value`` lines; a block begins at ``first``; a backslash goes on in the next line."""
    blocks: list[dict[str, str]] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        name, _, value = line.strip().partition(" ")
        if not name:
            continue
        if name == first:
            blocks.append({})
        elif not blocks:
            raise not_understood("qconf", line)
        blocks[-1][name] = value.strip()
    return blocks


def _parse_list(value: str) -> frozenset[str] | None:
    """Names with spaces or commas between; ``None`` when nodes differ (``[node=…]``)."""
    if "[" in value:
        return None
    return frozenset(name for name in re.split(r"[\s,]+", value) if name and name != _NONE)


def build_partitions(
    instances: Iterable[InstanceRow],
    configurations: Mapping[str, QueueConfiguration],
    profile: GridEngineSchedulerProfile,
) -> tuple[Partition, ...]:
    """The queues, by name; a queue without an instance is down."""
    rows: dict[str, list[InstanceRow]] = {name: [] for name in configurations}
    used_gpus: dict[str, int] = defaultdict(int)
    free_gpus: dict[str, int] = defaultdict(int)
    for row in instances:
        rows.setdefault(row.queue, []).append(row)
        used_gpus[row.node] += row.gpus_used
        free_gpus[row.node] = max(free_gpus[row.node], row.gpus_free)
    return tuple(
        _build_partition(name, found, configurations.get(name), profile, free_gpus, used_gpus)
        for name, found in sorted(rows.items())
    )


def _build_partition(
    name: str,
    rows: Collection[InstanceRow],
    configuration: QueueConfiguration | None,
    profile: GridEngineSchedulerProfile,
    free_gpus: Mapping[str, int],
    used_gpus: Mapping[str, int],
) -> Partition:
    environments = None if configuration is None else configuration.parallel_environments
    several = environments is None or profile.parallel_environment in environments
    usable = [row for row in rows if row.usable]
    memories = [row.memory for row in rows if row.memory]
    limits = [row.walltime for row in rows]
    longest = None if not limits or None in limits else max(limit for limit in limits if limit)
    with_gpus = [row for row in rows if row.gpus_free or used_gpus[row.node]]
    totals = [free_gpus[row.node] + used_gpus[row.node] for row in with_gpus]
    gpus: tuple[GpuKind, ...] = ()
    if totals:
        free = sum(free_gpus[row.node] for row in with_gpus if row.usable)
        gpus = (GpuKind(None, sum(totals), free, max(totals)),)
    return Partition(
        name=name,
        up=bool(usable),
        default=False,
        max_walltime=None if longest is None else parse_duration(str(int(longest))),
        default_walltime=None,
        cores_total=sum(row.slots for row in rows),
        cores_free=sum(row.slots_free for row in usable),
        cores_largest_node=max((row.slots if several else 1 for row in rows), default=0),
        memory_largest_node=MemorySize(int(max(memories)) >> 20) if memories else None,
        nodes_total=len(rows),
        nodes_free=sum(row.slots_free == row.slots for row in usable),
        gpus=gpus,
        allowed_accounts=None if configuration is None else configuration.projects,
    )


def parse_names(output: str) -> tuple[str, ...]:
    """Names, one a line (``qconf -sprjl``), or in one line (``id -Gn``)."""
    return tuple(cut_closing_line(output).split())


def parse_projects(output: str) -> tuple[ProjectRow, ...]:
    """The blocks of ``qconf -sprj``."""
    return tuple(
        ProjectRow(
            block["name"],
            _parse_list(block.get("acl", _NONE)) or frozenset(),
            _parse_list(block.get("xacl", _NONE)) or frozenset(),
        )
        for block in _parse_blocks(cut_closing_line(output), "name")
    )


def parse_access_lists(output: str) -> dict[str, frozenset[str]]:
    """The entries of ``qconf -su``, by list: users, and groups as ``@group``."""
    return {
        block["name"]: _parse_list(block.get("entries", _NONE)) or frozenset()
        for block in _parse_blocks(cut_closing_line(output), "name")
    }


def parse_default_project(output: str) -> str | None:
    """The default project of ``qconf -suser``; ``None`` when there is none or no such user."""
    for block in _parse_blocks(cut_closing_line(output), "name"):
        value = block.get("default_project", _NONE)
        return None if value == _NONE else value
    return None


def build_associations(
    projects: Iterable[ProjectRow],
    lists: Mapping[str, frozenset[str]],
    members: frozenset[str],
    default: str | None,
) -> tuple[Association, ...]:
    """The projects that somebody may use; ``members`` are their name and their ``@groups``."""

    def is_in(names: frozenset[str]) -> bool:
        return any(lists.get(name, frozenset()) & members for name in names)

    return tuple(
        Association(account=project.name, default=project.name == default)
        for project in projects
        if (not project.allowed or is_in(project.allowed)) and not is_in(project.denied)
    )


def parse_reservation_ids(output: str) -> tuple[str, ...]:
    """The numbers of the advance reservations of ``qrstat -xml``."""
    return tuple(
        read_text(one, "id") for one in parse_document(output, "qrstat").iter("ar_summary")
    )


def parse_reservations(output: str) -> tuple[Reservation, ...]:
    """The advance reservations of ``qrstat -ar … -xml``.

    Their ``name`` is the number, which is what a job names; ``users`` holds groups as ``@group``.
    """
    return tuple(
        _parse_reservation(one) for one in parse_document(output, "qrstat").iter("ar_summary")
    )


def _parse_reservation(element: Element) -> Reservation:
    starts, ends = read_time(element, "start_time"), read_time(element, "end_time")
    if starts is None or ends is None:
        raise not_understood("qrstat", read_text(element, "id"))
    places = [
        parse_instance(slots.get("queue_instance", "")) for slots in element.iter("granted_slots")
    ]
    queues = {queue for queue, _ in places}
    users = {acl.get("user", "") for acl in element.iter("acl")} - {""}
    return Reservation(
        name=str(read_number(element, "id")),
        starts_at=starts,
        ends_at=ends,
        # r: running; W, E: running although a node of it is away.
        active=bool(set(read_text(element, "state")) & set("rE")),
        nodes=len({node for _, node in places}),
        partition=queues.pop() if len(queues) == 1 else None,
        users=frozenset(users or {read_text(element, "owner")}),
        accounts=frozenset(),
        maintenance=False,
    )


def parse_version(output: str) -> str:
    """The first line of ``qstat -help``, such as ``SGE 8.1.9``."""
    first = cut_closing_line(output).partition("\n")[0].strip()
    if _VERSION.fullmatch(first) is None:
        raise not_understood("version", output)
    return first
