"""What ``scontrol --oneliner show`` prints, one line a record, as 22.05 does. Pure."""

from __future__ import annotations

import os
import time

from gateway.rehearsal.slurm_fields import elapsed, job_tres, queue_row
from gateway.rehearsal.slurm_model import VERSION, Job, Node, Partition, Reservation
from gateway.rehearsal.slurm_state import SlurmState
from gateway.rehearsal.slurm_text import Request, show_clock, show_memory, show_nodes


def job_record(state: SlurmState, request: Request, job: Job) -> str:
    """``show job``."""
    row = queue_row(state, request, job)
    eligible = "Unknown" if job.held else request.show_time(job.begins or job.submitted)
    start, end = (row[name].replace("N/A", "Unknown") for name in ("starttime", "endtime"))
    return (
        f"JobId={job.id} JobName={job.name} UserId={job.user}({os.getuid()}) "
        f"GroupId={job.user}({os.getgid()}) MCS_label=N/A Priority={row['prioritylong']} Nice=0 "
        f"Account={row['account']} QOS={row['qos']} JobState={job.state} "
        f"Reason={job.reason.replace(' ', '_')} Dependency=(null) Requeue=0 Restarts=0 "
        f"BatchFlag=1 Reboot=0 ExitCode={job.exit_code}:{job.exit_signal} "
        f"RunTime={show_clock(elapsed(job))} TimeLimit={show_clock(job.time_limit)} TimeMin=N/A "
        f"SubmitTime={row['submittime']} EligibleTime={eligible} AccrueTime={eligible} "
        f"StartTime={start} EndTime={end} Deadline=N/A SuspendTime=None SecsPreSuspend=0 "
        f"LastSchedEval={request.show_time(time.time())} Scheduler=Main "
        f"Partition={job.partition} AllocNode:Sid=login:1 "
        f"ReqNodeList={job.wanted_node or '(null)'} ExcNodeList=(null) "
        f"NodeList={row['nodelist']} {f'BatchHost={job.node} ' if job.node else ''}NumNodes=1 "
        f"NumCPUs={job.cores} NumTasks=1 CPUs/Task={job.cores} ReqB:S:C:T=0:0:*:* "
        f"TRES={job_tres(job, ordered=False)} MinCPUsNode={job.cores} "
        f"MinMemoryNode={row['minmemory']} MinTmpDiskNode=0 Features=(null) DelayBoot=00:00:00 "
        f"{f'Reservation={job.reservation} ' if job.reservation else ''}OverSubscribe=OK "
        "Contiguous=0 Licenses=(null) Network=(null) Command=(null) "
        f"WorkDir={job.work_directory} {f'Comment={job.comment} ' if job.comment else ''}"
        f"StdErr={row['stderr']} StdIn=/dev/null StdOut={row['stdout']} Power="
        f"{' TresPerNode=' + row['tres-per-node'] if job.gpus else ''}"
    )


def partition_record(state: SlurmState, partition: Partition) -> str:
    """``show partition``."""
    nodes = [state.layout.node(name) for name in partition.nodes]
    cores, memory = sum(n.cores for n in nodes), sum(n.memory for n in nodes)
    gpus = sum(n.gpus for n in nodes)
    default = show_clock(partition.default_time) if partition.default_time else "NONE"
    return (
        f"PartitionName={partition.name} AllowGroups=ALL "
        f"AllowAccounts={','.join(partition.accounts or ('ALL',))} AllowQos=ALL AllocNodes=ALL "
        f"Default={'YES' if partition.default else 'NO'} QoS=N/A DefaultTime={default} "
        "DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=1 "
        f"MaxTime={show_clock(partition.max_time)} MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED "
        f"Nodes={show_nodes(partition.nodes)} PriorityJobFactor=1 PriorityTier=1 RootOnly=NO "
        "ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF "
        f"State={'UP' if partition.up else 'DOWN'} TotalCPUs={cores} TotalNodes={len(nodes)} "
        "SelectTypeParameters=NONE JobDefaults=(null) DefMemPerCPU=1024 MaxMemPerNode=UNLIMITED "
        f"TRES=cpu={cores},mem={memory}M,node={len(nodes)},billing={cores}"
        f"{f',gres/gpu={gpus}' if gpus else ''}"
    )


def node_record(state: SlurmState, node: Node) -> str:
    """``show node``."""
    cores, memory, gpus = state.free(node)
    used, allocated = node.cores - cores, node.memory - memory
    tres = f"cpu={used},mem={show_memory(allocated)}" if used else ""
    if node.gpus > gpus:
        tres += f",gres/gpu={node.gpus - gpus}"
    holders = ",".join(p.name for p in state.layout.partitions if node.name in p.nodes)
    return (
        f"NodeName={node.name} Arch=x86_64 CoresPerSocket=1 CPUAlloc={used} "
        f"CPUEfctv={node.cores} CPUTot={node.cores} CPULoad=0.00 AvailableFeatures=(null) "
        f"ActiveFeatures=(null) Gres={node.gres} NodeAddr={node.name} NodeHostName={node.name} "
        f"Version={VERSION.split()[-1]} RealMemory={node.memory} AllocMem={allocated} "
        f"FreeMem={memory} Sockets={node.cores} Boards=1 State={state.node_state(node).upper()} "
        f"ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A Partitions={holders} "
        f"CfgTRES=cpu={node.cores},mem={node.memory}M,billing={node.cores} AllocTRES={tres}"
    )


def reservation_record(state: SlurmState, request: Request, reservation: Reservation) -> str:
    """``show reservation``."""
    cores = sum(state.layout.node(name).cores for name in reservation.nodes)
    return (
        f"ReservationName={reservation.name} StartTime={request.show_time(reservation.starts)} "
        f"EndTime={request.show_time(reservation.ends)} "
        f"Duration={show_clock(reservation.ends - reservation.starts)} "
        f"Nodes={show_nodes(reservation.nodes)} NodeCnt={len(reservation.nodes)} "
        f"CoreCnt={cores} Features=(null) PartitionName={reservation.partition or '(null)'} "
        f"Flags={reservation.flags} TRES=cpu={cores} Users={','.join(reservation.users)} "
        "Groups=(null) Accounts=(null) Licenses=(null) "
        f"State={'ACTIVE' if reservation.is_active(time.time()) else 'INACTIVE'} "
        "BurstBuffer=(null) Watts=n/a MaxStartDelay=(null)"
    )
