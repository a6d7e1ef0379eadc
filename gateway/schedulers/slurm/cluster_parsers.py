"""Parses what Slurm prints about partitions, nodes, reservations and associations. Pure and total.

The only exception is :class:`~gateway.errors.ClusterRefused` with reason ``not_understood``.
Seen: 22.05.8 and 26.05.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.schedulers.answers import not_understood
from gateway.schedulers.base import Association, GpuKind, Partition, Reservation
from gateway.schedulers.slurm.commands import ASSOCIATION_FIELDS
from gateway.schedulers.slurm.parsers import (
    parse_columns,
    parse_duration,
    parse_lines,
    parse_time,
)
from gateway.values.resources import MemorySize

_CPUS: Final = re.compile(r"([0-9]{1,7})/([0-9]{1,7})/([0-9]{1,7})/([0-9]{1,7})", re.ASCII)
_NODE_STATE: Final = re.compile(r"([a-z_+]{2,40})([*~#!%$@^+-]*)", re.ASCII)
_GRES: Final = re.compile(r"[^,()\s]+(?:\([^()\s]*\))?")
_NUMBER: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
# sinfo(1), NODE STATE CODES: work can start, or will once what runs there has ended.
_USABLE: Final = frozenset({"idle", "mixed", "allocated", "completing", "planned"})
_UNUSABLE_FLAGS: Final = frozenset("*%$^!@")
_NOTHING: Final = frozenset({"", "(null)", "N/A", "NONE"})


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node as a member of one partition; ``gpus`` and ``gpus_used`` count by kind."""

    node: str
    partition: str
    usable: bool
    idle: bool
    cores_idle: int
    cores: int
    memory_mib: int
    gpus: Mapping[str | None, int]
    gpus_used: Mapping[str | None, int]


@dataclass(frozen=True, slots=True)
class ReservationRow:
    """A reservation, and the POSIX groups and denied users that :class:`Reservation` leaves out."""

    reservation: Reservation
    groups: frozenset[str]
    denied_users: frozenset[str]
    denied_accounts: frozenset[str]


@dataclass(frozen=True, slots=True)
class AssociationRow:
    """An association, on one cluster of the accounting."""

    cluster: str
    association: Association


def parse_nodes(output: str) -> tuple[NodeRow, ...]:
    """The rows of sinfo with ``NODE_FORMAT``."""
    return tuple(_parse_node_line(line) for line in parse_lines(output))


def _parse_node_line(line: str) -> NodeRow:
    words = line.split()
    if len(words) != 8:
        raise not_understood("sinfo", line)
    node, partition, native_state, native_cores, _, memory, gres, used = words
    state = _NODE_STATE.fullmatch(native_state)
    cores = _CPUS.fullmatch(native_cores)
    if not (state and cores and _NUMBER.fullmatch(memory)):
        raise not_understood("sinfo", line)
    usable = state[1].rstrip("+") in _USABLE and not _UNUSABLE_FLAGS & set(state[2])
    return NodeRow(
        node=node,
        partition=partition.removesuffix("*"),
        usable=usable,
        idle=usable and int(cores[1]) == 0,
        cores_idle=int(cores[2]),
        cores=int(cores[4]),
        memory_mib=int(memory),
        gpus=parse_gpus(gres),
        gpus_used=parse_gpus(used),
    )


def parse_gpus(value: str) -> dict[str | None, int]:
    """GPUs by kind in a gres list such as ``gpu:a100:2(S:0-1),gpu:1g.5gb:7,shard:4``."""
    found: dict[str | None, int] = {}
    if value in _NOTHING:
        return found
    rest = _GRES.sub("", value)
    if rest.strip(","):
        raise not_understood("gres", value)
    for item in _GRES.findall(value):
        parts = item.partition("(")[0].replace(":no_consume", "").split(":")
        if parts[0] != "gpu":
            continue
        # gpu, gpu:2, gpu:a100, gpu:a100:2
        count = parts.pop() if len(parts) > 1 and _NUMBER.fullmatch(parts[-1]) else "1"
        kind = parts[1] if len(parts) > 1 else None
        if len(parts) > 2 or kind == "":
            raise not_understood("gres", value)
        found[kind] = found.get(kind, 0) + int(count)
    return found


def parse_partitions(output: str, nodes: Iterable[NodeRow]) -> tuple[Partition, ...]:
    """The rows of ``scontrol --oneliner show partition``, with what ``nodes`` says is free."""
    members: dict[str, list[NodeRow]] = {}
    for row in nodes:
        members.setdefault(row.partition, []).append(row)
    result = []
    for line in parse_lines(output):
        if line.strip():
            fields = _parse_pairs(line, "PartitionName")
            result.append(_build_partition(fields, members.get(fields["PartitionName"], [])))
    return tuple(result)


def _build_partition(fields: Mapping[str, str], nodes: list[NodeRow]) -> Partition:
    most_cores = _parse_limit(fields.get("MaxCPUsPerNode", "UNLIMITED"))
    most_memory = _parse_limit(fields.get("MaxMemPerNode", "UNLIMITED"))
    cores = max((row.cores for row in nodes), default=0)
    memory = max((row.memory_mib for row in nodes), default=0)
    if most_cores is not None:
        cores = min(cores, most_cores)
    if most_memory is not None:
        memory = min(memory, most_memory)
    usable = [row for row in nodes if row.usable]
    return Partition(
        name=fields["PartitionName"],
        up=fields.get("State") == "UP" and fields.get("RootOnly") != "YES",
        default=fields.get("Default") == "YES",
        max_walltime=parse_duration(fields.get("MaxTime", "")),
        default_walltime=parse_duration(fields.get("DefaultTime", "")),
        cores_total=sum(row.cores for row in nodes),
        cores_free=sum(row.cores_idle for row in usable),
        cores_largest_node=cores,
        memory_largest_node=MemorySize(memory) if memory else None,
        nodes_total=len(nodes),
        nodes_free=sum(row.idle for row in usable),
        gpus=_sum_gpus(nodes),
        allowed_accounts=_parse_allowed(fields.get("AllowAccounts", "ALL")),
        allowed_qos=_parse_allowed(fields.get("AllowQos", "ALL")),
        allowed_groups=_parse_allowed(fields.get("AllowGroups", "ALL")),
    )


def _sum_gpus(nodes: list[NodeRow]) -> tuple[GpuKind, ...]:
    kinds: dict[str | None, GpuKind] = {}
    for row in nodes:
        for kind, count in row.gpus.items():
            so_far = kinds.get(kind, GpuKind(kind, 0, 0, 0))
            free = max(0, count - row.gpus_used.get(kind, 0)) if row.usable else 0
            kinds[kind] = replace(
                so_far,
                total=so_far.total + count,
                free=so_far.free + free,
                largest_node=max(so_far.largest_node, count),
            )
    return tuple(kinds[kind] for kind in sorted(kinds, key=lambda one: one or ""))


def _parse_pairs(line: str, first: str) -> dict[str, str]:
    """``Key=value`` words of one line; a key that comes twice was forged inside a value."""
    pairs: dict[str, str] = {}
    for word in line.split(" "):
        if not word:
            continue
        key, equals, value = word.partition("=")
        if not equals or not key or key in pairs:
            raise not_understood("scontrol", line)
        pairs[key] = value
    if next(iter(pairs), None) != first or not pairs[first]:
        raise not_understood("scontrol", line)
    return pairs


def _parse_limit(value: str) -> int | None:
    if value == "UNLIMITED":
        return None
    if not _NUMBER.fullmatch(value):
        raise not_understood("limit", value)
    return int(value)


def _parse_allowed(value: str) -> frozenset[str] | None:
    return None if value == "ALL" else _parse_set(value)


def _parse_set(value: str) -> frozenset[str]:
    if value in _NOTHING:
        return frozenset()
    return frozenset(word for word in value.split(",") if word)


def parse_reservations(output: str) -> tuple[ReservationRow, ...]:
    """The reservations of ``scontrol --oneliner show reservation``."""
    lines = [line for line in parse_lines(output) if line.strip()]
    if lines == ["No reservations in the system"]:
        return ()
    return tuple(_parse_reservation(line) for line in lines)


def _parse_reservation(line: str) -> ReservationRow:
    fields = _parse_pairs(line, "ReservationName")
    starts, ends = parse_time(fields.get("StartTime", "")), parse_time(fields.get("EndTime", ""))
    nodes = fields.get("NodeCnt", "")
    if starts is None or ends is None or not _NUMBER.fullmatch(nodes):
        raise not_understood("reservation", line)
    users, accounts = _parse_set(fields.get("Users", "")), _parse_set(fields.get("Accounts", ""))
    partition = fields.get("PartitionName", "")
    return ReservationRow(
        Reservation(
            name=fields["ReservationName"],
            starts_at=starts,
            ends_at=ends,
            active=fields.get("State") == "ACTIVE",
            nodes=int(nodes),
            partition=None if partition in _NOTHING else partition,
            users=frozenset(name for name in users if not name.startswith("-")),
            accounts=frozenset(name for name in accounts if not name.startswith("-")),
            maintenance="MAINT" in _parse_set(fields.get("Flags", "")),
        ),
        groups=_parse_set(fields.get("Groups", "")),
        denied_users=frozenset(name[1:] for name in users if name.startswith("-")),
        denied_accounts=frozenset(name[1:] for name in accounts if name.startswith("-")),
    )


def parse_associations(output: str) -> tuple[AssociationRow, ...]:
    """The rows of sacctmgr with ``ASSOCIATION_FIELDS``; a user without an association has none."""
    rows = []
    for line in parse_lines(output):
        row = parse_columns(line, ASSOCIATION_FIELDS)
        if not row["Account"]:
            continue
        rows.append(
            AssociationRow(
                row["Cluster"],
                Association(
                    account=row["Account"],
                    qos=tuple(word for word in row["QOS"].split(",") if word),
                    default_qos=row["DefaultQOS"] or None,
                    default=row["Account"] == row["DefaultAccount"],
                    partition=row["Partition"] or None,
                    max_walltime=parse_duration(row["MaxWall"]),
                    max_jobs=_parse_optional(row["MaxJobs"]),
                    max_submitted=_parse_optional(row["MaxSubmitJobs"]),
                ),
            )
        )
    return tuple(rows)


def _parse_optional(value: str) -> int | None:
    return _parse_limit(value) if value else None


def parse_cluster_name(output: str) -> str:
    """``ClusterName`` in the answer of ``scontrol show config``."""
    for line in parse_lines(output):
        key, equals, value = line.partition("=")
        if equals and key.strip() == "ClusterName" and value.strip():
            return value.strip()
    raise not_understood("ClusterName", output)


def parse_words(output: str) -> frozenset[str]:
    """The words of an answer, such as group names."""
    return frozenset(" ".join(parse_lines(output)).split())


def parse_version(output: str) -> str:
    """One line such as ``slurm 26.05.3`` or ``slurm-wlm 22.05.8``."""
    lines = parse_lines(output)
    if len(lines) != 1 or not lines[0].startswith("slurm"):
        raise not_understood("version", output)
    return lines[0].strip()
