"""Field tables: a job, node or partition as the columns of Slurm's commands. Pure.

Keys are the lower-case names of ``squeue --Format``, ``sinfo --Format``, ``sacct --format`` and
``scontrol``; values are what 22.05 prints (recorded).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.rehearsal.job_runner import expand_output
from gateway.rehearsal.slurm_model import (
    Job,
    Node,
    Partition,
)
from gateway.rehearsal.slurm_state import SlurmState
from gateway.rehearsal.slurm_text import Request, show_duration, show_memory, show_nodes

QUEUE_LETTERS: Final = {
    "i": "jobid", "A": "jobid", "F": "jobid", "T": "state", "t": "statecompact", "r": "reason",
    "R": "reasonlist", "B": "batchhost", "N": "nodelist", "P": "partition", "u": "username",
    "U": "userid", "a": "account", "j": "name", "V": "submittime", "S": "starttime",
    "e": "endtime", "M": "timeused", "l": "timelimit", "L": "timeleft", "Q": "prioritylong",
    "C": "numcpus", "m": "minmemory", "b": "tres-per-node", "v": "reservation", "q": "qos",
    "D": "numnodes", "k": "comment", "o": "command", "Z": "workdir", "f": "feature",
    "g": "groupname", "G": "groupid", "y": "nice", "n": "reqnodes", "Y": "schednodes",
}  # fmt: skip
QUEUE_HEADERS: Final = {
    "jobid": "JOBID", "state": "STATE", "statecompact": "ST", "reason": "REASON",
    "reasonlist": "NODELIST(REASON)", "batchhost": "EXEC_HOST", "nodelist": "NODELIST",
    "partition": "PARTITION", "username": "USER", "userid": "UID", "account": "ACCOUNT",
    "name": "NAME", "submittime": "SUBMIT_TIME", "starttime": "START_TIME",
    "endtime": "END_TIME", "timeused": "TIME", "timelimit": "TIME_LIMIT",
    "timeleft": "TIME_LEFT", "prioritylong": "PRIORITY", "numcpus": "CPUS",
    "minmemory": "MIN_MEMORY", "tres-per-node": "TRES_PER_NODE", "reservation": "RESERVATION",
    "qos": "QOS", "numnodes": "NODES", "comment": "COMMENT", "command": "COMMAND",
    "workdir": "WORK_DIR", "feature": "FEATURES", "groupname": "GROUP", "groupid": "GROUP",
    "nice": "NICE", "reqnodes": "REQ_NODES", "schednodes": "SCHEDNODES",
    "exit_code": "EXIT_CODE", "restartcnt": "RESTARTCOUNT", "jobarrayid": "JOBID",
    "stdout": "STDOUT", "stderr": "STDERR", "timelimitraw": "TIME_LIMIT",
}  # fmt: skip
SINFO_LETTERS: Final = {
    "P": "partition", "R": "partitionname", "a": "available", "l": "time", "L": "defaulttime",
    "D": "nodes", "T": "statelong", "t": "statecompact", "N": "nodelist", "n": "nodehost",
    "c": "cpus", "m": "memory", "G": "gres", "f": "features", "C": "cpusstate", "s": "size",
    "g": "groups", "e": "freemem", "E": "reason", "O": "cpusload", "F": "nodeaiot",
}  # fmt: skip
SINFO_NAMES: Final = frozenset(SINFO_LETTERS.values()) | {"allocmem", "gresused", "nodeai"}
QUEUE_STATES: Final = {
    "PENDING": "PD", "RUNNING": "R", "COMPLETING": "CG", "COMPLETED": "CD", "CANCELLED": "CA",
    "FAILED": "F", "TIMEOUT": "TO", "NODE_FAIL": "NF",
}  # fmt: skip
_NODE_COMPACT: Final = {"idle": "idle", "mixed": "mix", "allocated": "alloc", "reserved": "resv"}


def elapsed(job: Job) -> int:
    """Seconds it has run."""
    if job.started is None or job.node is None:
        return 0
    return max(0, int(job.ended or time.time()) - job.started)


def _expected_end(job: Job) -> int | None:
    if job.ended is not None:
        return job.ended
    return job.started + job.time_limit if job.started is not None else None


def queue_row(state: SlurmState, request: Request, job: Job) -> Mapping[str, str]:
    """A job as squeue's columns."""
    begin = job.started or job.begins or state.estimate(job)
    end = _expected_end(job) or (begin + job.time_limit if begin else None)
    waiting = f"({job.reason})"
    return {
        "jobid": str(job.id),
        "jobarrayid": str(job.id),
        "state": job.state,
        "statecompact": QUEUE_STATES[job.state],
        "reason": job.reason,
        "reasonlist": job.node or waiting,
        "batchhost": job.node or "n/a",
        "nodelist": job.node or "",
        "partition": job.partition,
        "username": job.user,
        "userid": str(os.getuid()),
        "groupname": job.user,
        "groupid": str(os.getgid()),
        "account": job.account or "(null)",
        "name": job.name,
        "submittime": request.show_time(job.submitted),
        "starttime": request.show_time(begin),
        "endtime": request.show_time(end),
        "timeused": show_duration(elapsed(job)),
        "timelimit": show_duration(job.time_limit),
        "timelimitraw": str(job.time_limit // 60),
        "timeleft": show_duration(max(0, job.time_limit - elapsed(job))),
        "prioritylong": "0" if job.held else str(4294901760 - job.id),
        "numcpus": str(job.cores),
        "numnodes": "1",
        "minmemory": show_memory(job.memory),
        "tres-per-node": job.tres_per_node,
        "reservation": job.reservation or "(null)",
        "qos": job.qos or "(null)",
        "comment": job.comment or "(null)",
        "command": "(null)",
        "workdir": job.work_directory,
        "feature": "(null)",
        "nice": "0",
        "reqnodes": job.wanted_node or "",
        "schednodes": "(null)",
        # the raw status of wait(2)
        "exit_code": str(job.exit_code * 256 + job.exit_signal),
        "restartcnt": "0",
        "stdout": expand_output(job.output, job),
        "stderr": expand_output(job.error or job.output, job),
    }


def job_tres(job: Job, *, ordered: bool) -> str:
    """What it asked for, as ``TRES=`` (or, ordered, sacct) prints it."""
    parts = [f"cpu={job.cores}", f"mem={show_memory(job.memory)}", "node=1", f"billing={job.cores}"]
    if job.gpus:
        parts.append(f"gres/gpu={job.gpus}")
    return ",".join(sorted(parts) if ordered else parts)


def partition_row(partition: Partition) -> Mapping[str, str]:
    """The columns of sinfo that belong to a partition."""
    return {
        "partition": partition.name + ("*" if partition.default else ""),
        "partitionname": partition.name,
        "available": "up" if partition.up else "down",
        "time": show_duration(partition.max_time),
        "defaulttime": show_duration(partition.default_time) if partition.default_time else "n/a",
        "size": "1-infinite",
        "groups": "all",
    }


def nodes_row(state: SlurmState, nodes: Sequence[Node]) -> Mapping[str, str]:
    """The columns of sinfo that belong to a group of like nodes."""
    node = nodes[0]
    free = sum(state.free(n)[0] for n in nodes)
    cores = sum(n.cores for n in nodes)
    name = state.node_state(node)
    used = node.gpus - state.free(node)[2]
    idle = sum(state.node_state(n) in ("idle", "reserved") for n in nodes)
    return {
        "nodes": str(len(nodes)),
        "nodelist": show_nodes(n.name for n in nodes),
        "nodehost": node.name,
        "statelong": name,
        "statecompact": _NODE_COMPACT[name],
        "cpus": str(node.cores),
        "cpusstate": f"{cores - free}/{free}/0/{cores}",
        "cpusload": "0.00",
        "memory": str(node.memory),
        "freemem": str(state.free(node)[1]),
        "allocmem": str(node.memory - state.free(node)[1]),
        "gres": node.gres,
        "gresused": f"gpu:{node.gpu_kind}:{used}(IDX:{_indices(used)})" if node.gpus else "gpu:0",
        "features": "(null)",
        "reason": "none",
        "nodeaiot": f"{len(nodes) - idle}/{idle}/0/{len(nodes)}",
        "nodeai": f"{len(nodes) - idle}/{idle}",
    }


def _indices(used: int) -> str:
    return "N/A" if not used else "0" if used == 1 else f"0-{used - 1}"
