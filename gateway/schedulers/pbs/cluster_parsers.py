"""Parses what PBS prints about queues, nodes and reservations. Pure.

The only exception is :class:`~gateway.errors.ClusterRefused` with reason ``not_understood``.
Seen: OpenPBS 23.06.06 and its main branch of April 2026.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from gateway.profiles.models import PbsSchedulerProfile
from gateway.schedulers.answers import not_understood
from gateway.schedulers.base import GpuKind, Partition, Reservation
from gateway.schedulers.pbs.parsers import parse_json
from gateway.schedulers.pbs.values import (
    read_duration,
    read_flag,
    read_list,
    read_map,
    read_mib,
    read_moment,
    read_number,
    read_text,
)
from gateway.values.resources import MemorySize

# pbs_node_attributes(7B), state: more work can start on a node that is only this.
_USABLE: Final = "free"
# A reservation's own queue is called like it; jobs enter it by the reservation.
_OF_RESERVATION: Final = re.compile(r"[RSM][0-9]+", re.ASCII)
_AMOUNT: Final = re.compile(r"[0-9]+(?:[kmgtp]?[bw]?)", re.ASCII | re.IGNORECASE)
_RESERVED_NODE: Final = re.compile(r"\(?([A-Za-z0-9][A-Za-z0-9_.-]*)(?:\[\d+\])?:")
# pbs_rstat(1B): confirmed, running, or confirmed and short of a node.
_GRANTED: Final = frozenset({"RESV_CONFIRMED", "RESV_RUNNING", "RESV_DEGRADED"})
_RESERVATION: Final = "Resv ID: "


@dataclass(frozen=True, slots=True)
class Node:
    """The vnodes of one host that serve the same queue, together; ``queue`` is ``None`` when they
    serve all queues. ``labels`` are the values of its resources that are words."""

    host: str
    queue: str | None
    cores: int
    cores_free: int
    memory_mib: int
    idle: bool
    gpus: int
    gpus_free: int
    gpu_kind: str | None
    labels: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class ReservationRow:
    """A reservation, and the POSIX groups that :class:`Reservation` leaves out."""

    reservation: Reservation
    groups: frozenset[str]


def parse_nodes(output: str, profile: PbsSchedulerProfile) -> tuple[Node, ...]:
    """The hosts of ``pbsnodes -av -F json``."""
    hosts: dict[tuple[str, str | None], Node] = {}
    for name, attributes in parse_json(output, "nodes", "pbsnodes").items():
        node = _build_node(name, attributes, profile)
        key = node.host, node.queue
        hosts[key] = _join(hosts[key], node) if key in hosts else node
    return tuple(hosts.values())


def _build_node(name: str, attributes: Mapping[str, object], profile: PbsSchedulerProfile) -> Node:
    has, used = (read_map(attributes.get(f"resources_{one}")) for one in ("available", "assigned"))
    usable = read_text(attributes.get("state")) == _USABLE

    def count(resource: str) -> tuple[int, int]:
        total = max(0, read_number(has.get(resource)) or 0)
        busy = read_number(used.get(resource)) or 0
        return total, max(0, total - busy) if usable else 0

    cores, cores_free = count("ncpus")
    gpus, gpus_free = count(profile.gpu_resource)
    kind = has.get(profile.gpu_kind_resource) if profile.gpu_kind_resource else None
    return Node(
        host=read_text(has.get("host")) or name,
        queue=read_text(attributes.get("queue")) or None,
        cores=cores,
        cores_free=cores_free,
        memory_mib=read_mib(has.get("mem")) or 0,
        idle=usable and cores_free == cores,
        gpus=gpus,
        gpus_free=gpus_free,
        gpu_kind=read_text(kind) or None,
        labels={key: frozenset(read_list(value)) for key, value in has.items()},
    )


def _join(one: Node, other: Node) -> Node:
    return replace(
        one,
        cores=one.cores + other.cores,
        cores_free=one.cores_free + other.cores_free,
        memory_mib=one.memory_mib + other.memory_mib,
        idle=one.idle and other.idle,
        gpus=one.gpus + other.gpus,
        gpus_free=one.gpus_free + other.gpus_free,
        gpu_kind=one.gpu_kind or other.gpu_kind,
        labels={
            key: one.labels.get(key, frozenset()) | other.labels.get(key, frozenset())
            for key in {*one.labels, *other.labels}
        },
    )


def parse_partitions(queues: str, server: str, nodes: Sequence[Node]) -> tuple[Partition, ...]:
    """The queues of ``qstat -Q -f -F json``, with the server's limits (``qstat -B -f -F json``)
    and what ``nodes`` says is free. Queues that belong to a reservation are left out."""
    whole = next(iter(parse_json(server, "Server", "qstat -B").values()), {})
    found = parse_json(queues, "Queue", "qstat -Q")
    return tuple(
        _build_partition(name, found, whole, nodes)
        for name, attributes in found.items()
        if not (_OF_RESERVATION.fullmatch(name) and read_flag(attributes.get("acl_user_enable")))
    )


def _build_partition(
    name: str,
    queues: Mapping[str, Mapping[str, object]],
    server: Mapping[str, object],
    nodes: Sequence[Node],
) -> Partition:
    queue = queues[name]
    most = {**read_map(server.get("resources_max")), **read_map(queue.get("resources_max"))}
    default = {
        **read_map(server.get("resources_default")),
        **read_map(queue.get("resources_default")),
    }
    members = _find_members(name, queues, nodes)
    cores = _at_most(max((node.cores for node in members), default=0), most.get("ncpus"))
    memory = max((node.memory_mib for node in members), default=0)
    limit = read_mib(most.get("mem"))
    memory = memory if limit is None else min(memory, limit)
    groups = read_flag(queue.get("acl_group_enable"))
    return Partition(
        name=name,
        up=read_flag(queue.get("enabled")) and read_flag(queue.get("started")),
        default=read_text(server.get("default_queue")) == name,
        max_walltime=_limit(most.get("walltime")),
        default_walltime=_limit(default.get("walltime")),
        cores_total=sum(node.cores for node in members),
        cores_free=sum(node.cores_free for node in members),
        cores_largest_node=cores,
        memory_largest_node=MemorySize(memory) if memory else None,
        nodes_total=len(members),
        nodes_free=sum(node.idle for node in members),
        gpus=_sum_gpus(members),
        allowed_groups=_read_allowed(queue.get("acl_groups")) if groups else None,
    )


def _find_members(
    name: str, queues: Mapping[str, Mapping[str, object]], nodes: Sequence[Node]
) -> list[Node]:
    """The nodes on which jobs of a queue can run: its own if it has any, else those that belong to
    no queue and have the words (such as ``Qlist``) that its default chunk asks for. A routing queue
    has those of its destinations."""
    queue = queues.get(name, {})
    if read_text(queue.get("queue_type")) == "Route":
        found: dict[tuple[str, str | None], Node] = {}
        for destination in read_list(queue.get("route_destinations")):
            # One routing queue behind another is not followed.
            if read_text(queues.get(destination, {}).get("queue_type")) != "Route":
                members = _find_members(destination, queues, nodes)
                found.update(((node.host, node.queue), node) for node in members)
        return list(found.values())
    own = [node for node in nodes if node.queue == name]
    if own:
        return own
    wanted = {
        resource: read_text(value)
        for resource, value in read_map(queue.get("default_chunk")).items()
        if not _AMOUNT.fullmatch(read_text(value))
    }
    return [node for node in nodes if node.queue is None and _has_labels(node, wanted)]


def _has_labels(node: Node, wanted: Mapping[str, str]) -> bool:
    return all(value in node.labels.get(resource, ()) for resource, value in wanted.items())


def _at_most(value: int, limit: object) -> int:
    number = read_number(limit)
    return value if number is None else min(value, max(0, number))


def _limit(value: object) -> timedelta | None:
    return read_duration(value) or None


def _read_allowed(value: object) -> frozenset[str]:
    # pbs_queue_attributes(7B), ACLs: "+" allows, "-" refuses.
    entries = [word.partition("@")[0] for word in read_list(value)]
    return frozenset(entry.removeprefix("+") for entry in entries if not entry.startswith("-"))


def _sum_gpus(nodes: Iterable[Node]) -> tuple[GpuKind, ...]:
    kinds: dict[str | None, GpuKind] = {}
    for node in nodes:
        if node.gpus:
            so_far = kinds.get(node.gpu_kind, GpuKind(node.gpu_kind, 0, 0, 0))
            kinds[node.gpu_kind] = replace(
                so_far,
                total=so_far.total + node.gpus,
                free=so_far.free + node.gpus_free,
                largest_node=max(so_far.largest_node, node.gpus),
            )
    return tuple(kinds[kind] for kind in sorted(kinds, key=lambda one: one or ""))


def parse_reservations(output: str) -> tuple[ReservationRow, ...]:
    """The granted reservations of ``pbs_rstat -F``; the name of each is that of its queue."""
    rows = []
    for block in _split_blocks(output):
        fields = _parse_fields(block)
        if fields.get("reserve_state") in _GRANTED:
            rows.append(_build_reservation(fields))
    return tuple(rows)


def _split_blocks(output: str) -> list[list[str]]:
    blocks: list[list[str]] = []
    for line in output.splitlines():
        if line.startswith(_RESERVATION):
            blocks.append([line])
        elif line.strip():
            if not blocks:
                raise not_understood("pbs_rstat", line)
            blocks[-1].append(line)
    return blocks


def _parse_fields(block: list[str]) -> dict[str, str]:
    fields = {"id": block[0].removeprefix(_RESERVATION).strip()}
    last = "id"
    for line in block[1:]:
        name, equals, value = line.partition(" = ")
        if line.startswith("\t") or not equals:
            fields[last] += line.strip()
        else:
            last = name.strip()
            fields.setdefault(last, value.strip())
    return fields


def _build_reservation(fields: Mapping[str, str]) -> ReservationRow:
    starts = read_moment(fields.get("reserve_start"))
    ends = read_moment(fields.get("reserve_end"))
    name = fields.get("queue", "")
    if starts is None or ends is None or not name:
        raise not_understood("pbs_rstat", repr(dict(fields)))
    return ReservationRow(
        Reservation(
            name=name,
            starts_at=starts,
            ends_at=ends,
            active=fields["reserve_state"] == "RESV_RUNNING",
            nodes=len(set(_RESERVED_NODE.findall(fields.get("resv_nodes", "")))),
            partition=None,
            users=_read_allowed(fields.get("Authorized_Users")),
            accounts=frozenset(),
            # pbs_rsub(1B), --hosts: a maintenance reservation is called M and a number.
            maintenance=fields["id"].startswith("M"),
        ),
        groups=_read_allowed(fields.get("Authorized_Groups")),
    )
