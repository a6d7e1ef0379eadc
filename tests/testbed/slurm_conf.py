"""The configuration files of Slurm, as text. Pure.

Sources: slurm.conf(5), slurmdbd.conf(5), cgroup.conf(5), gres.conf(5) of 22.05.8.
"""

from __future__ import annotations

from collections.abc import Sequence

from .layout import CLUSTER_NAME, CLUSTER_SIDE, COMPUTE, LOGIN, Layout

CORES = 8
MEMORY_MIB = 20000
FEATURES = {"c1": "skylake", "c2": "broadwell", "c3": "broadwell"}


def build_slurm_conf(layout: Layout, *, cgroups: bool, extra: Sequence[str] = ()) -> str:
    """`cgroups`: memory and process tracking by cgroup v1, else by polling (see below).

    `extra`: further lines, such as `PrivateData=jobs`.
    """
    if cgroups:
        tracking = [
            "ProctrackType=proctrack/cgroup",
            "TaskPlugin=task/cgroup",
            "JobAcctGatherType=jobacct_gather/cgroup",
            "PrologFlags=Contain",
        ]
    else:
        # No memory cgroup here: the accounting poll kills a job that it sees over its memory,
        # so a short burst can stay unseen, and allocation never fails.
        tracking = [
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/linux",
            "JobAcctGatherParams=OverMemoryKill",
        ]
    nodes = [
        f"NodeName={name} NodeAddr={CLUSTER_SIDE[name]} NodeHostname={name} Sockets={CORES}"
        f" CoresPerSocket=1 ThreadsPerCore=1 RealMemory={MEMORY_MIB} Feature={FEATURES[name]}"
        + (" Gres=gpu:a100:2" if name == "c1" else "")
        for name in COMPUTE
    ]
    return "\n".join(
        [
            f"ClusterName={CLUSTER_NAME}",
            f"SlurmctldHost={LOGIN}({CLUSTER_SIDE[LOGIN]})",
            "SlurmUser=slurm",
            "AuthType=auth/munge",
            "CryptoType=crypto/munge",
            "MpiDefault=none",
            f"StateSaveLocation={layout.spool('slurmctld')}",
            f"SlurmdSpoolDir={layout.state}/spool/slurmd-%n",
            "SlurmctldPidFile=/run/slurmctld.pid",
            "SlurmdPidFile=/run/slurmd-%n.pid",
            f"FirstJobId={layout.first_job_id}",
            "MaxJobId=67000000",
            "ReturnToService=2",
            "SlurmdParameters=config_overrides",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "DefMemPerCPU=500",
            "SchedulerType=sched/backfill",
            "SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,"
            "sched_min_interval=10000",
            "PriorityType=priority/multifactor",
            "PreemptType=preempt/qos",
            "PreemptMode=CANCEL",
            "GresTypes=gpu",
            *tracking,
            "JobAcctGatherFrequency=task=2",
            "AccountingStorageType=accounting_storage/slurmdbd",
            f"AccountingStorageHost={LOGIN}",
            "AccountingStorageEnforce=associations,limits,qos",
            "AccountingStorageTRES=gres/gpu",
            f"Epilog={layout.state}/epilog",
            "KillWait=5",
            "MinJobAge=120",
            "CompleteWait=0",
            "SlurmdTimeout=30",
            "InactiveLimit=0",
            "SlurmctldDebug=info",
            "SlurmdDebug=info",
            *extra,
            *nodes,
            "PartitionName=interactive Nodes=c[1-2] Default=YES MaxTime=08:00:00"
            " DefaultTime=01:00:00 State=UP",
            "PartitionName=gpu Nodes=c1 MaxTime=04:00:00 State=UP",
            "PartitionName=small Nodes=c3 MaxTime=02:00:00 DefaultTime=00:30:00 State=UP",
            "PartitionName=long Nodes=c[2-3] MaxTime=7-00:00:00 AllowGroups=longrun State=UP",
            "",
        ]
    )


def build_cgroup_conf() -> str:
    """cgroup.conf: a job over its memory is killed by the kernel, state OUT_OF_MEMORY."""
    return (
        "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint=/sys/fs/cgroup\n"
        "ConstrainRAMSpace=yes\nConstrainCores=no\nConstrainDevices=no\n"
    )


def build_gres_conf() -> str:
    """Two GPUs of c1 that are plain device files."""
    return (
        "NodeName=c1 Name=gpu Type=a100 File=/dev/null\n"
        "NodeName=c1 Name=gpu Type=a100 File=/dev/zero\n"
    )


def build_slurmdbd_conf(password: str) -> str:
    """slurmdbd.conf; holds the database password, so it is 0600 and owned by slurm."""
    return "\n".join(
        [
            "AuthType=auth/munge",
            f"DbdHost={LOGIN}",
            f"DbdAddr={CLUSTER_SIDE[LOGIN]}",
            "SlurmUser=slurm",
            "PidFile=/run/slurmdbd.pid",
            "DebugLevel=info",
            "StorageType=accounting_storage/mysql",
            "StorageHost=localhost",
            "StorageUser=slurm",
            f"StoragePass={password}",
            "StorageLoc=slurm_acct_db",
            "",
        ]
    )


# Run in this order with `sacctmgr --immediate`, once a bed, before slurmctld starts.
ACCOUNTING = (
    f"add cluster {CLUSTER_NAME}",
    "modify qos normal set Priority=100",
    "add qos short Priority=200 MaxWall=00:30:00 MaxSubmitJobsPerUser=2 MaxJobsPerUser=1",
    "add qos scavenger Priority=1",
    "modify qos normal set Preempt=scavenger",
    "add account def-alice Description=alice Organization=bed",
    "add account rrg-physics Description=physics Organization=bed",
    "add account def-carol Description=carol Organization=bed",
    "add account services Description=services Organization=bed",
    "add user alice DefaultAccount=def-alice Account=def-alice QOS=normal,short,scavenger"
    " DefaultQOS=normal",
    "add user alice Account=rrg-physics QOS=normal DefaultQOS=normal",
    "add user bob DefaultAccount=rrg-physics Account=rrg-physics QOS=normal,short,scavenger"
    " DefaultQOS=normal MaxJobs=10 MaxSubmitJobs=20 MaxWall=1-00:00:00",
    "add user carol DefaultAccount=def-carol Account=def-carol QOS=normal DefaultQOS=normal",
    "add user observer DefaultAccount=services Account=services QOS=normal DefaultQOS=normal"
    " AdminLevel=Operator",
)

# Once slurmctld has told slurmdbd that there is such a resource.
ACCOUNTING_OF_GPUS = ("modify account rrg-physics set GrpTRES=gres/gpu=1",)
