"""The end of a launch: certain, explained, and tidied up."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.errors import ClusterRefused, ClusterUnavailable, GatewayError, RequestRejected
from gateway.launch.cluster import Cluster, Watch, build_user_actor
from gateway.launch.progress import Progress
from gateway.launch.runs import find_end_reason
from gateway.launch.states import EndReason, LaunchRecord, LaunchState
from gateway.launch.submitting import find_jobs, tidy
from gateway.launch.workspace import fetch_log_tail
from gateway.text import Text, Words, text
from gateway.values.jobs import JobId, JobState, JobStatus

# Answers to the job's owner that there is no such job, each some time after a cancel.
_ABSENT_LOOKS: Final = 3
_EXPLAINED_BY_LOG: Final = frozenset({EndReason.FAILED, EndReason.NEVER_REACHED})


async def finish(progress: Progress, record: LaunchRecord) -> None:
    """ENDING: cancel, as often as it takes, until the scheduler says that the job is over."""
    jobs = (record.job_id,) if record.job_id is not None else await find_jobs(progress, record)
    for job in jobs:
        try:
            await _cancel_until_over(progress, record, job)
        finally:
            if job != record.job_id:
                progress.cluster.monitor.unwatch(job)
    await _close(
        progress, record, record.end_reason or EndReason.STOPPED, record.end_words or _STOPPED
    )


async def end_with_job(progress: Progress, record: LaunchRecord, status: JobStatus) -> None:
    """The job is over by itself: say why, with the end of its log."""
    reason = find_end_reason(record, status)
    await _close(progress, record, reason, _explain(reason, status))


async def _cancel_until_over(progress: Progress, record: LaunchRecord, job: JobId) -> None:
    cluster, actor = progress.cluster, build_user_actor(record)
    watch = cluster.monitor.watch(
        job,
        seen_before=record.job_seen_at is not None,
        submitted_after=record.submit_attempted_at,
    )
    absent_looks = 0
    while True:
        again = cluster.patience.cancel_again
        try:
            await cluster.scheduler.cancel(actor, job)
            if watch.status.state is JobState.UNKNOWN:
                # The observer never saw this job; its owner would.
                owned = await cluster.scheduler.find_by_name(actor, record.job_name)
                absent_looks = 0 if job in owned else absent_looks + 1
        except (ClusterUnavailable, ClusterRefused, RequestRejected) as error:
            progress.note(error, "cancel")
            again = progress.backoff.delay()
        cluster.monitor.ask_soon()
        try:
            async with asyncio.timeout(again):
                await _wait_over(progress, watch)
            return
        except TimeoutError:
            if absent_looks >= _ABSENT_LOOKS:
                return


async def _wait_over(progress: Progress, watch: Watch) -> None:
    status = watch.status
    while status.state not in (JobState.FINISHED, JobState.MISSING):
        progress.observe(status)
        status = await watch.changed(status)


async def _close(progress: Progress, record: LaunchRecord, reason: EndReason, words: Words) -> None:
    tail = await fetch_log_if_possible(progress.cluster, record, progress)
    if reason in _EXPLAINED_BY_LOG and (said := progress.cluster.parse_job_log(tail)):
        words = said.words
    record = await progress.transition(
        LaunchState.ENDED, words, end_reason=reason, end_words=words, log_tail=tail
    )
    await tidy(progress, record)


async def fetch_log_if_possible(
    cluster: Cluster, record: LaunchRecord, progress: Progress | None = None
) -> str:
    """Return the end of the job's log, or nothing when the cluster does not answer now."""
    try:
        return await fetch_log_tail(cluster, record)
    except GatewayError as error:
        if progress is not None:
            progress.note(error, "read the job's log")
        return record.log_tail


_STOPPED = text("The server was stopped.")
_WORDS: dict[EndReason, Text] = {
    EndReason.COMPLETED: text("The server was shut down from within."),
    EndReason.FAILED: text("The job ended before the server could be used."),
    EndReason.CANCELLED: text("The job was cancelled on the cluster."),
    EndReason.WALLTIME: text("The job reached its walltime."),
    EndReason.OUT_OF_MEMORY: text("The job used more memory than it had asked for."),
    EndReason.NODE_FAILURE: text("The compute node failed."),
    EndReason.PREEMPTED: text("The job was preempted by another one."),
}
_GONE = text("The job is no longer known to the scheduler.")


def _explain(reason: EndReason, status: JobStatus) -> Words:
    if status.end is None or reason is EndReason.GONE:
        return _GONE
    # The adapter knows more (exit code, who cancelled); its "completed" tells a user nothing when
    # the server was never reached.
    completed_unreached = reason is EndReason.FAILED and not status.end.exit_code
    if reason is EndReason.COMPLETED or (completed_unreached and status.end.signal is None):
        return _WORDS[reason]
    return status.end.words
