"""From a request to a job in the queue: exactly one, whatever happens in between."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from gateway.errors import (
    ClusterRefused,
    ClusterUnavailable,
    ConfigurationError,
    GatewayError,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.launch.cluster import build_user_actor
from gateway.launch.database import DatabaseFailed
from gateway.launch.progress import Progress
from gateway.launch.states import EndReason, LaunchRecord, LaunchState
from gateway.launch.store import ChangedMeanwhile
from gateway.launch.workspace import AGENT_FILE, LOG_FILE, prepare_directory, prune_directory
from gateway.text import text
from gateway.values.jobs import JobId, JobRequest
from gateway.values.resources import GpuRequest, MemorySize, ResourceRequest, parse_walltime


async def prepare(progress: Progress, record: LaunchRecord) -> None:
    """REQUESTED: make the launch directory, then go on to SUBMITTING."""
    cluster = progress.cluster
    try:
        async with cluster.admission:
            directory = await prepare_directory(cluster, record)
    except ClusterUnavailable as error:
        progress.note(error, "prepare the launch directory")
        await progress.backoff.wait()
        return
    except (RequestRejected, ClusterRefused, ConfigurationError) as error:
        await _give_up(progress, error)
        return
    await progress.transition(
        LaunchState.SUBMITTING, text("Handing the job to the scheduler."), directory=directory
    )


async def submit(progress: Progress, record: LaunchRecord) -> None:
    """SUBMITTING: submit, or, when that may have happened already, look for the job by its name."""
    if record.submit_attempted_at is not None:
        await _look_again(progress, record)
        return
    cluster = progress.cluster
    try:
        request = build_job_request(record)
        script = cluster.renderer.render(cluster.profile, request)
        async with cluster.admission:
            # Written before the effect: from here on the job may exist.
            record = await progress.update(submit_attempted_at=progress.store.now())
            job = await cluster.scheduler.submit(build_user_actor(record), request, script)
    except SubmitAmbiguous as error:
        progress.note(error, "submit")
    except DatabaseFailed:
        raise
    except ClusterUnavailable as error:
        progress.note(error, "submit")
        await progress.update(submit_attempted_at=None)
        await progress.backoff.wait()
    except ClusterRefused as error:
        # Such as an answer that was not understood: the job may be there all the same.
        progress.note(error, "submit")
        await _look_again(progress, progress.record, otherwise=error)
    except (RequestRejected, ConfigurationError) as error:
        await _give_up(progress, error)
    else:
        await _enqueue(progress, job)


async def find_jobs(progress: Progress, record: LaunchRecord) -> tuple[JobId, ...]:
    """Find the jobs of a submit that had no clear answer, oldest first.

    Waits until the scheduler has answered. That there is none counts only once the submit can no
    longer be under way, and when it has been said twice.
    """
    cluster, patience = progress.cluster, progress.cluster.patience
    if record.submit_attempted_at is None:
        return ()
    certain_at = (
        record.submit_attempted_at
        + timedelta(seconds=patience.submit_grace)
        + cluster.profile.scheduler.command_timeout
    )
    empty_answers = 0
    while True:
        try:
            jobs = await cluster.scheduler.find_by_name(build_user_actor(record), record.job_name)
        except (ClusterUnavailable, ClusterRefused) as error:
            progress.note(error, "look for the job by name")
        else:
            if jobs:
                return jobs
            empty_answers += progress.store.now() >= certain_at
            if empty_answers >= 2:
                return ()
        await asyncio.sleep(patience.look_again)


async def _look_again(
    progress: Progress, record: LaunchRecord, *, otherwise: GatewayError | None = None
) -> None:
    jobs = await find_jobs(progress, record)
    if not jobs:
        if otherwise is not None:
            await _give_up(progress, otherwise)
        else:
            await progress.update(submit_attempted_at=None)
        return
    await _enqueue(progress, jobs[0])
    for surplus in jobs[1:]:
        await _cancel_surplus(progress, record, surplus)


async def _enqueue(progress: Progress, job: JobId) -> None:
    try:
        await progress.transition(
            LaunchState.QUEUED, text("The job waits in the queue."), job_id=job
        )
    except ChangedMeanwhile:
        # Somebody asked for the end: whoever ends it must know the job.
        await progress.update(job_id=job)
        raise
    progress.cluster.monitor.ask_soon()


async def _cancel_surplus(progress: Progress, record: LaunchRecord, job: JobId) -> None:
    try:
        await progress.cluster.scheduler.cancel(build_user_actor(record), job)
    except GatewayError as error:
        progress.note(error, f"cancel the surplus job {job}")


async def _give_up(progress: Progress, error: GatewayError) -> None:
    progress.note(error, "start")
    rejected = isinstance(error, RequestRejected)
    record = await progress.transition(
        LaunchState.ENDED,
        error.user_message,
        end_reason=EndReason.REJECTED if rejected else EndReason.FAILED,
        end_words=error.user_message,
    )
    await tidy(progress, record)


async def tidy(progress: Progress, record: LaunchRecord) -> None:
    """Prune the launch directory of a launch that has ended; a failure is told, and no more."""
    try:
        await prune_directory(progress.cluster, record)
    except GatewayError as error:
        progress.note(error, "tidy the launch directory")


def build_job_request(record: LaunchRecord) -> JobRequest:
    """Return what adapter and renderer need; the record's options were validated when stored.

    :raises ConfigurationError: the launch has no directory yet, or options that are none.
    """
    if record.directory is None:
        raise ConfigurationError(text("The launch has no directory yet."), reason="no_directory")
    return JobRequest(
        launch_id=record.id,
        name=record.job_name,
        user=record.cluster_user,
        resources=_build_resources(record.options),
        environment=record.options["environment"],
        directory=record.directory,
        log_path=f"{record.directory}/{LOG_FILE}",
        agent_path=f"{record.directory}/{AGENT_FILE}",
        start_directory=record.options.get("start_directory"),
    )


def _build_resources(options: dict[str, Any]) -> ResourceRequest:
    gpus = options.get("gpus") or 0
    return ResourceRequest(
        partition=options["partition"],
        walltime=parse_walltime(options["walltime"]),
        cores=options["cores"],
        memory=MemorySize.parse(options["memory"]),
        gpus=GpuRequest(gpus, options.get("gpu_kind")) if gpus else None,
        account=options.get("account"),
        qos=options.get("qos"),
        reservation=options.get("reservation"),
    )
