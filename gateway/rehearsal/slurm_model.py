"""What the rehearsal cluster consists of: nodes, partitions, accounts, jobs. No behaviour.

Memory is in MiB, times are seconds since the epoch, durations are seconds; ``None`` means that
there is no such limit. Names and words are Slurm's (scontrol(1), sacctmgr(1)).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

CLUSTER_NAME: Final = "rehearsal"
VERSION: Final = "slurm-wlm 22.05.8"
LIVE: Final = frozenset({"PENDING", "RUNNING", "COMPLETING"})


@dataclass(frozen=True, slots=True)
class Node:
    """A compute node; ``gpus`` of one ``gpu_kind``."""

    name: str
    cores: int
    memory: int
    gpus: int = 0
    gpu_kind: str = "a100"

    @property
    def gres(self) -> str:
        """As ``Gres=`` prints it."""
        return f"gpu:{self.gpu_kind}:{self.gpus}" if self.gpus else "(null)"


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition; ``accounts`` is ``None`` when all may use it."""

    name: str
    nodes: tuple[str, ...]
    max_time: int
    default_time: int | None = None
    default: bool = False
    up: bool = True
    accounts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Association:
    """That ``user`` may charge ``account``; the first one of a user is the default."""

    user: str
    account: str
    qos: tuple[str, ...] = ("normal",)
    default_qos: str = "normal"
    max_jobs: int | None = None
    max_submit: int | None = None
    max_wall: int | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation of whole nodes."""

    name: str
    starts: int
    ends: int
    nodes: tuple[str, ...]
    users: tuple[str, ...]
    partition: str | None = None
    flags: str = "SPEC_NODES"

    def is_active(self, now: float) -> bool:
        """Whether it holds its nodes at ``now``."""
        return self.starts <= now < self.ends


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole cluster as its admin configured it."""

    nodes: tuple[Node, ...]
    partitions: tuple[Partition, ...]
    associations: tuple[Association, ...]
    qos: tuple[str, ...]

    def node(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def partition(self, name: str) -> Partition | None:
        """The partition of that name."""
        return next((part for part in self.partitions if part.name == name), None)

    def associations_of(self, user: str) -> list[Association]:
        """What ``user`` may charge, the default first."""
        return [entry for entry in self.associations if entry.user == user]


@dataclass(slots=True)
class Job:
    """A job. ``environment``, ``script`` and ``stdin``-like input are in its spool directory."""

    id: int
    user: str
    name: str
    partition: str
    account: str
    qos: str
    time_limit: int
    cores: int
    memory: int
    gpus: int
    gpu_kind: str | None
    work_directory: str
    output: str
    error: str
    submitted: int
    comment: str = ""
    reservation: str | None = None
    wanted_node: str | None = None
    begins: int | None = None
    held: bool = False
    append: bool = False
    state: str = "PENDING"
    reason: str = "None"
    node: str | None = None
    started: int | None = None
    ended: int | None = None
    exit_code: int = 0
    exit_signal: int = 0
    cancelled_by: int | None = None
    final_state: str = ""
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def live(self) -> bool:
        """Whether it still waits, runs or is being ended."""
        return self.state in LIVE

    @property
    def tres_per_node(self) -> str:
        """As squeue's ``%b`` prints it."""
        if not self.gpus:
            return "N/A"
        kind = f":{self.gpu_kind}" if self.gpu_kind else ""
        return f"gres:gpu{kind}:{self.gpus}"


def default_layout() -> Layout:
    """Four small nodes, so that a handful of jobs already has to wait."""
    hour = 3600
    return Layout(
        nodes=(
            Node("r1", 4, 8192),
            Node("r2", 4, 8192),
            Node("r3", 8, 16384, gpus=2),
            Node("r4", 4, 8192),
        ),
        partitions=(
            Partition("interactive", ("r1", "r2", "r4"), 8 * hour, hour, default=True),
            Partition("gpu", ("r3",), 4 * hour),
            Partition("long", ("r1", "r2"), 7 * 24 * hour, 24 * hour, accounts=("astro",)),
        ),
        associations=(
            Association("alice", "astro", ("normal", "long")),
            Association("alice", "geo"),
            Association("bob", "astro", ("normal", "long")),
            Association("carol", "geo", max_jobs=1, max_submit=4),
        ),
        qos=("normal", "long"),
    )


def default_reservations(now: int) -> tuple[Reservation, ...]:
    """A class that has node r4 for a week, and a maintenance after it."""
    week = 7 * 24 * 3600
    return (
        Reservation("class", now - 60, now + week, ("r4",), ("alice", "bob"), "interactive"),
        Reservation(
            "maintenance",
            now + 30 * 24 * 3600,
            now + 30 * 24 * 3600 + 7200,
            ("r1", "r2", "r3", "r4"),
            ("root",),
            flags="MAINT,IGNORE_JOBS,SPEC_NODES,ALL_NODES",
        ),
    )
