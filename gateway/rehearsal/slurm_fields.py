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
    CLUSTER_NAME,
    VERSION,
    Association,
    Job,
    Node,
    Partition,
    Reservation,
)
from gateway.rehearsal.slurm_state import SlurmState
from gateway.rehearsal.slurm_text import Request, show_clock, show_duration, show_memory, show_nodes

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
SACCT_NAMES: Final = (
    "Account", "AllocCPUS", "AllocTRES", "Cluster", "Comment", "DerivedExitCode", "Elapsed",
    "ElapsedRaw", "Eligible", "End", "ExitCode", "JobID", "JobIDRaw", "JobName", "MaxRSS",
    "NCPUS", "NNodes", "NodeList", "Partition", "QOS", "Reason", "ReqCPUS", "ReqMem", "ReqTRES",
    "Reservation", "Start", "State", "Submit", "SystemComment", "AdminComment", "Timelimit",
    "TimelimitRaw", "UID", "User", "WorkDir",
)  # fmt: skip


def _elapsed(job: Job) -> int:
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
        "timeused": show_duration(_elapsed(job)),
        "timelimit": show_duration(job.time_limit),
        "timelimitraw": str(job.time_limit // 60),
        "timeleft": show_duration(max(0, job.time_limit - _elapsed(job))),
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


def _job_tres(job: Job, *, ordered: bool) -> str:
    parts = [f"cpu={job.cores}", f"mem={show_memory(job.memory)}", "node=1", f"billing={job.cores}"]
    if job.gpus:
        parts.append(f"gres/gpu={job.gpus}")
    return ",".join(sorted(parts) if ordered else parts)


def accounting_row(request: Request, job: Job) -> Mapping[str, str]:
    """A job as sacct's columns, keys lower-case."""
    cancelled = f"CANCELLED by {job.cancelled_by}" if job.cancelled_by is not None else "CANCELLED"
    code = f"{job.exit_code}:{0 if job.state in ('CANCELLED', 'TIMEOUT') else job.exit_signal}"
    state = "RUNNING" if job.state == "COMPLETING" else job.state
    ran = job.node is not None
    start = request.show_time(job.started) if ran else ("None" if job.ended else "Unknown")
    tres = _job_tres(job, ordered=True)
    return {
        "account": job.account,
        "alloccpus": str(job.cores if ran else 0),
        "alloctres": tres if ran else "",
        "cluster": CLUSTER_NAME,
        "comment": job.comment,
        "derivedexitcode": "0:0",
        "elapsed": show_clock(_elapsed(job)),
        "elapsedraw": str(_elapsed(job)),
        "eligible": "Unknown" if job.held else request.show_time(job.submitted),
        "end": request.show_time(job.ended, "Unknown"),
        "exitcode": code,
        "jobid": str(job.id),
        "jobidraw": str(job.id),
        "jobname": job.name,
        "maxrss": "",
        "ncpus": str(job.cores),
        "nnodes": "1",
        "nodelist": job.node or "None assigned",
        "partition": job.partition,
        "qos": job.qos,
        "reason": job.reason if not ran or job.reason == "JobLaunchFailure" else "None",
        "reqcpus": str(job.cores),
        "reqmem": show_memory(job.memory),
        "reqtres": tres,
        "reservation": job.reservation or "",
        "start": start,
        "state": cancelled if job.state == "CANCELLED" else state,
        "submit": request.show_time(job.submitted),
        "systemcomment": "",
        "admincomment": "",
        "timelimit": show_clock(job.time_limit),
        "timelimitraw": str(job.time_limit // 60),
        "uid": str(os.getuid()),
        "user": job.user,
        "workdir": job.work_directory,
    }


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


def job_record(state: SlurmState, request: Request, job: Job) -> str:
    """One job as ``scontrol --oneliner show job`` prints it."""
    row = queue_row(state, request, job)
    unknown = "Unknown"
    eligible = unknown if job.held else request.show_time(job.begins or job.submitted)
    fields = {
        "JobId": str(job.id),
        "JobName": job.name,
        "UserId": f"{job.user}({os.getuid()})",
        "GroupId": f"{job.user}({os.getgid()})",
        "MCS_label": "N/A",
        "Priority": row["prioritylong"],
        "Nice": "0",
        "Account": row["account"],
        "QOS": row["qos"],
        "JobState": job.state,
        "Reason": job.reason.replace(" ", "_"),
        "Dependency": "(null)",
        "Requeue": "0",
        "Restarts": "0",
        "BatchFlag": "1",
        "Reboot": "0",
        "ExitCode": f"{job.exit_code}:{job.exit_signal}",
        "RunTime": show_clock(_elapsed(job)),
        "TimeLimit": show_clock(job.time_limit),
        "TimeMin": "N/A",
        "SubmitTime": request.show_time(job.submitted),
        "EligibleTime": eligible,
        "AccrueTime": eligible,
        "StartTime": row["starttime"].replace("N/A", unknown),
        "EndTime": row["endtime"].replace("N/A", unknown),
        "Deadline": "N/A",
        "SuspendTime": "None",
        "SecsPreSuspend": "0",
        "LastSchedEval": request.show_time(time.time()),
        "Scheduler": "Main",
        "Partition": job.partition,
        "AllocNode:Sid": "login:1",
        "ReqNodeList": job.wanted_node or "(null)",
        "ExcNodeList": "(null)",
        "NodeList": job.node or "",
    }
    if job.node:
        fields["BatchHost"] = job.node
    fields |= {
        "NumNodes": "1",
        "NumCPUs": str(job.cores),
        "NumTasks": "1",
        "CPUs/Task": str(job.cores),
        "ReqB:S:C:T": "0:0:*:*",
        "TRES": _job_tres(job, ordered=False),
        "MinCPUsNode": str(job.cores),
        "MinMemoryNode": show_memory(job.memory),
        "MinTmpDiskNode": "0",
        "Features": "(null)",
        "DelayBoot": "00:00:00",
    }
    if job.reservation:
        fields["Reservation"] = job.reservation
    fields |= {
        "OverSubscribe": "OK",
        "Contiguous": "0",
        "Licenses": "(null)",
        "Network": "(null)",
        "Command": "(null)",
        "WorkDir": job.work_directory,
    }
    if job.comment:
        fields["Comment"] = job.comment
    fields |= {"StdErr": row["stderr"], "StdIn": "/dev/null", "StdOut": row["stdout"], "Power": ""}
    if job.gpus:
        fields["TresPerNode"] = row["tres-per-node"]
    return _line(fields)


def partition_record(state: SlurmState, partition: Partition) -> str:
    """One partition as ``scontrol --oneliner show partition`` prints it."""
    nodes = [state.layout.node(name) for name in partition.nodes]
    cores, memory = sum(n.cores for n in nodes), sum(n.memory for n in nodes)
    gpus = sum(n.gpus for n in nodes)
    tres = f"cpu={cores},mem={memory}M,node={len(nodes)},billing={cores}"
    default = show_clock(partition.default_time) if partition.default_time else "NONE"
    return _line(
        {
            "PartitionName": partition.name,
            "AllowGroups": "ALL",
            "AllowAccounts": ",".join(partition.accounts) if partition.accounts else "ALL",
            "AllowQos": "ALL",
            "AllocNodes": "ALL",
            "Default": "YES" if partition.default else "NO",
            "QoS": "N/A",
            "DefaultTime": default,
            "DisableRootJobs": "NO",
            "ExclusiveUser": "NO",
            "GraceTime": "0",
            "Hidden": "NO",
            "MaxNodes": "1",
            "MaxTime": show_clock(partition.max_time),
            "MinNodes": "0",
            "LLN": "NO",
            "MaxCPUsPerNode": "UNLIMITED",
            "Nodes": show_nodes(partition.nodes),
            "PriorityJobFactor": "1",
            "PriorityTier": "1",
            "RootOnly": "NO",
            "ReqResv": "NO",
            "OverSubscribe": "NO",
            "OverTimeLimit": "NONE",
            "PreemptMode": "OFF",
            "State": "UP" if partition.up else "DOWN",
            "TotalCPUs": str(cores),
            "TotalNodes": str(len(nodes)),
            "SelectTypeParameters": "NONE",
            "JobDefaults": "(null)",
            "DefMemPerCPU": "1024",
            "MaxMemPerNode": "UNLIMITED",
            "TRES": f"{tres},gres/gpu={gpus}" if gpus else tres,
        }
    )


def node_record(state: SlurmState, node: Node) -> str:
    """One node as ``scontrol --oneliner show node`` prints it."""
    cores, memory, gpus = state.free(node)
    used, allocated = node.cores - cores, node.memory - memory
    alloc_tres = f"cpu={used},mem={show_memory(allocated)}" if used else ""
    if node.gpus > gpus:
        alloc_tres += f",gres/gpu={node.gpus - gpus}"
    holders = [p.name for p in state.layout.partitions if node.name in p.nodes]
    return _line(
        {
            "NodeName": node.name,
            "Arch": "x86_64",
            "CoresPerSocket": "1",
            "CPUAlloc": str(used),
            "CPUEfctv": str(node.cores),
            "CPUTot": str(node.cores),
            "CPULoad": "0.00",
            "AvailableFeatures": "(null)",
            "ActiveFeatures": "(null)",
            "Gres": node.gres,
            "NodeAddr": node.name,
            "NodeHostName": node.name,
            "Version": VERSION.split()[-1],
            "RealMemory": str(node.memory),
            "AllocMem": str(allocated),
            "FreeMem": str(memory),
            "Sockets": str(node.cores),
            "Boards": "1",
            "State": state.node_state(node).upper(),
            "ThreadsPerCore": "1",
            "TmpDisk": "0",
            "Weight": "1",
            "Owner": "N/A",
            "Partitions": ",".join(holders),
            "CfgTRES": f"cpu={node.cores},mem={node.memory}M,billing={node.cores}",
            "AllocTRES": alloc_tres,
        }
    )


def reservation_record(state: SlurmState, request: Request, reservation: Reservation) -> str:
    """One reservation as ``scontrol --oneliner show reservation`` prints it."""
    cores = sum(state.layout.node(name).cores for name in reservation.nodes)
    return _line(
        {
            "ReservationName": reservation.name,
            "StartTime": request.show_time(reservation.starts),
            "EndTime": request.show_time(reservation.ends),
            "Duration": show_clock(reservation.ends - reservation.starts),
            "Nodes": show_nodes(reservation.nodes),
            "NodeCnt": str(len(reservation.nodes)),
            "CoreCnt": str(cores),
            "Features": "(null)",
            "PartitionName": reservation.partition or "(null)",
            "Flags": reservation.flags,
            "TRES": f"cpu={cores}",
            "Users": ",".join(reservation.users),
            "Groups": "(null)",
            "Accounts": "(null)",
            "Licenses": "(null)",
            "State": "ACTIVE" if reservation.is_active(time.time()) else "INACTIVE",
            "BurstBuffer": "(null)",
            "Watts": "n/a",
            "MaxStartDelay": "(null)",
        }
    )


def association_row(state: SlurmState, entry: Association) -> Mapping[str, str]:
    """An association as sacctmgr's columns, keys lower-case."""
    return {
        "account": entry.account,
        "adminlevel": "None",
        "cluster": CLUSTER_NAME,
        "defaultaccount": state.layout.associations_of(entry.user)[0].account,
        "defaultqos": entry.default_qos,
        "fairshare": "1",
        "maxjobs": "" if entry.max_jobs is None else str(entry.max_jobs),
        "maxsubmit": "" if entry.max_submit is None else str(entry.max_submit),
        "maxsubmitjobs": "" if entry.max_submit is None else str(entry.max_submit),
        "maxwall": "" if entry.max_wall is None else show_clock(entry.max_wall),
        "parentname": "",
        "partition": "",
        "qos": ",".join(entry.qos),
        "user": entry.user,
        **dict.fromkeys(("grpjobs", "grpsubmit", "grptres", "grpwall", "maxtres"), ""),
    }


def _line(fields: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())
