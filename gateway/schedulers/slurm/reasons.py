"""Why a job waits, in plain words. Pure.

Source: squeue(1), JOB REASON CODES, of 22.05.8 and 26.05.3 (job_reason_string in Slurm).
"""

from __future__ import annotations

from typing import Final

from gateway.text import Words, text

_EXACT: Final[dict[str, Words]] = {
    "None": text("The scheduler has not looked at the job yet."),
    "": text("The scheduler has not looked at the job yet."),
    "Resources": text("Next in line: waiting for enough free cores, memory or GPUs."),
    "Priority": text("Other jobs are ahead in the queue."),
    "Dependency": text("Waiting for another job to end."),
    "DependencyNeverSatisfied": text(
        "Waiting for another job that did not end as required; this job will never start."
    ),
    "BeginTime": text("Its earliest start time has not come yet."),
    "JobHeldUser": text("Held by its owner; it starts once it is released."),
    "JobHeldAdmin": text("Held by an administrator of the cluster."),
    "PartitionDown": text("The partition is down."),
    "PartitionInactive": text("The partition does not start jobs now."),
    "PartitionTimeLimit": text(
        "The walltime is longer than the partition allows; the job cannot start as it is."
    ),
    "PartitionNodeLimit": text(
        "More nodes are asked for than the partition has; the job cannot start as it is."
    ),
    "PartitionConfig": text(
        "The partition cannot give what is asked for; the job cannot start as it is."
    ),
    "BadConstraints": text(
        "No node of the partition can give what is asked for; the job cannot start as it is."
    ),
    "Constraints": text("No node with the features asked for is free."),
    "NodeDown": text("A compute node that the job needs is down."),
    "Licenses": text("Waiting for a licence."),
    "JobArrayTaskLimit": text("The job array has reached its limit of running tasks."),
    "JobArraySizeLimit": text("The job array is too large."),
    "Reservation": text("Waiting for its reservation to begin."),
    "ReservationDeleted": text("Its reservation has been deleted; the job will not start."),
    "InvalidAccount": text("The account is not valid; the job cannot start as it is."),
    "InvalidQOS": text("The QoS is not valid; the job cannot start as it is."),
    "AccountingPolicy": text("A limit of the account is reached."),
    "AccountNotAllowed": text("The account may not use this partition."),
    "QOSNotAllowed": text("The QoS may not be used here."),
    "QOSTimeLimit": text("The QoS has used up its time."),
    "AssociationTimeLimit": text("The account has used up its time."),
    "QOSUsageThreshold": text("The account's usage is too high for this QoS."),
    "Cleaning": text("The job is requeued; its former run is being cleaned up."),
    "Prolog": text("The compute node is being prepared."),
    "JobHoldMaxRequeue": text("Held: the job was requeued too many times."),
    "JobLaunchFailure": text("The scheduler could not launch the job."),
    "JobHeldDepend": text("Waiting for another job to end."),
    "SchedDefer": text("The scheduler is busy and will look at the job soon."),
    "FedJobLock": text("The clusters of the federation are deciding where the job runs."),
    "FrontEndDown": text("A front-end node of the cluster is down."),
    "NonZeroExitCode": text("The former run ended with an error; the job is requeued."),
    "MaxMemPerLimit": text(
        "More memory is asked for than is allowed; the job cannot start as it is."
    ),
    "DeadLine": text("The job cannot end before its deadline."),
    "SystemFailure": text("The scheduler had a failure of its own."),
    "BurstBufferResources": text("Waiting for space in the burst buffer."),
    "BurstBufferStageIn": text("Files are being staged in."),
}

_OWN_LIMIT: Final = text("You have as many jobs as you may have at once; it starts when one ends.")
_STARTS: Final[tuple[tuple[str, Words], ...]] = (
    (
        "Nodes required for job are DOWN",
        text("The nodes it needs are down, drained or reserved for jobs with more priority."),
    ),
    (
        "ReqNodeNotAvail, May be reserved",
        text("The nodes it needs are reserved; it starts when they are free again."),
    ),
    (
        "ReqNodeNotAvail, Reserved for maintenance",
        text("The nodes it needs are reserved for maintenance."),
    ),
    ("ReqNodeNotAvail", text("The nodes it needs are not available now.")),
    ("Reserved for maintenance", text("The nodes it needs are reserved for maintenance.")),
    ("BeginTime", text("Its earliest start time has not come yet.")),
    ("launch failed requeued held", text("The compute node could not start it; it is held.")),
)


def explain_reason(state: str, reason: str) -> Words:
    """A sentence for the job's owner; a reason not known here is shown as the scheduler says it."""
    if state in ("CONFIGURING", "POWER_UP_NODE"):
        return text("The compute node is being prepared.")
    if reason in _EXACT:
        return _EXACT[reason]
    for beginning, words in _STARTS:
        if reason.startswith(beginning):
            return words
    if reason.startswith(("QOS", "Assoc")) and reason.isalnum():
        return _explain_limit(reason)
    return text("The scheduler says: {reason}.", reason=reason.rstrip(".")[:200])


def _explain_limit(reason: str) -> Words:
    """``QOS…`` and ``Assoc…`` name the limit in their tail: who is limited, and in what."""
    if any(tail in reason for tail in ("MaxWall", "MaxCpuMinutesPerJob", "MaxCPUMinutesPerJob")):
        return text("The walltime is longer than allowed here ({limit}).", limit=reason)
    if "PerUser" in reason or "PerAccount" in reason:
        if "Jobs" in reason or "Submit" in reason:
            return _OWN_LIMIT if "PerUser" in reason else _limit(reason)
        return text(
            "What is in use already leaves too little under the limit ({limit}); the job starts"
            " when others end.",
            limit=reason,
        )
    if "Max" in reason and ("PerJob" in reason or "PerNode" in reason):
        return text("More is asked for than one job may have ({limit}).", limit=reason)
    if "MaxJobs" in reason or "MaxSubmit" in reason:
        return _OWN_LIMIT
    if "Min" in reason and "Minutes" not in reason:
        return text("Less is asked for than one job must have ({limit}).", limit=reason)
    return _limit(reason)


def _limit(reason: str) -> Words:
    return text(
        "The account has reached its limit ({limit}); the job starts when others of it end.",
        limit=reason,
    )
