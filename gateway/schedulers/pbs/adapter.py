"""PBS behind the contract of :class:`gateway.schedulers.base.Scheduler`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from gateway.errors import ClusterUnavailable, ConfigurationError, SubmitAmbiguous
from gateway.profiles.models import ClusterProfile, PbsSchedulerProfile
from gateway.schedulers.answers import cut_closing_line
from gateway.schedulers.base import Association, Partition, Reservation
from gateway.schedulers.command_environment import command_name
from gateway.schedulers.pbs.cluster_parsers import (
    parse_nodes,
    parse_partitions,
    parse_reservations,
)
from gateway.schedulers.pbs.commands import PbsCommands, is_job_id, job_number
from gateway.schedulers.pbs.parsers import (
    parse_ids,
    parse_submitted,
    parse_version,
    parse_words,
    says_no_history,
)
from gateway.schedulers.pbs.queries import JobQueries
from gateway.schedulers.pbs.refusals import explain_cancel, explain_failure, explain_refusal
from gateway.schedulers.pbs.states import build_missing, build_status, build_unknown
from gateway.schedulers.unheard_of import UnheardOf
from gateway.text import text
from gateway.transport.base import Actor, CommandResult, Transport
from gateway.values.jobs import JobId, JobRequest, JobScript, JobState, JobStatus

# A thousand jobs are some 2 MiB, and a user's variables may be long.
ANSWER_LIMIT: Final = 64 * 1024 * 1024


class PbsScheduler:
    """One OpenPBS or PBS Professional cluster, asked through a login node.

    Queries run as ``observer``, submit and cancel as the user. ``on_unheard_of`` is called with
    every native job state that this code does not know (also logged once each).
    """

    def __init__(
        self,
        transport: Transport,
        profile: ClusterProfile,
        observer: Actor,
        *,
        on_unheard_of: Callable[[str], None] | None = None,
    ) -> None:
        if not isinstance(profile.scheduler, PbsSchedulerProfile):
            raise ConfigurationError(
                text("The cluster {cluster} is not one of PBS.", cluster=profile.name),
                reason="scheduler_kind",
            )
        self._profile = profile.scheduler
        self._transport = transport
        self._observer = observer
        self._commands = PbsCommands(self._profile)
        self._queries = JobQueries(self._commands, self._run_as_observer)
        self._meet_unheard_of = UnheardOf(on_unheard_of)

    async def submit(self, actor: Actor, request: JobRequest, script: JobScript) -> JobId:
        """See the contract."""
        argv = self._commands.build_submit(request)
        try:
            result = await self._run(actor, argv, stdin=script.text.encode())
        except ClusterUnavailable as error:
            # A qsub that was given up may still create the job.
            raise SubmitAmbiguous(error.user_message, detail=error.detail) from error
        job = parse_submitted(result.text) if result.exit_status == 0 else None
        if job is None:
            raise explain_refusal(result, request.resources, self._profile.gpu_resource)
        return job

    async def find_by_name(self, actor: Actor, name: str) -> tuple[JobId, ...]:
        """See the contract."""
        history = self._queries.history
        argv = self._commands.build_find(actor.name, name, history=history)
        result = await self._run(actor, argv)
        if history and says_no_history(result.error_text):
            self._queries.note_no_history()
            argv = self._commands.build_find(actor.name, name, history=False)
            result = await self._run(actor, argv)
        return parse_ids(_read(result))

    async def fetch_statuses(self, jobs: Collection[JobId]) -> Mapping[JobId, JobStatus]:
        """See the contract. What cannot be a PBS job id is UNKNOWN, and so is a job that the server
        neither lists nor says that it does not know."""
        statuses = {job: build_unknown(job) for job in jobs}
        asked = sorted({job for job in jobs if is_job_id(job)}, key=job_number)
        if asked:
            look = await self._queries.look(asked)
            for job in look.gone:
                statuses[job] = build_missing(job)
            for job, attributes in look.found.items():
                statuses[job] = build_status(job, attributes, self._meet_unheard_of)
        return statuses

    async def fetch_end(self, job: JobId) -> JobStatus | None:
        """See the contract. PBS has no accounting to ask: a server that keeps ended jobs
        (job_history_enable) tells the same as in :meth:`fetch_statuses`."""
        status = (await self.fetch_statuses([job]))[job]
        return status if status.state is JobState.FINISHED else None

    async def fetch_estimates(self, jobs: Collection[JobId]) -> Mapping[JobId, datetime]:
        """See the contract. qstat shows the scheduler's estimate with the status."""
        statuses = await self.fetch_statuses(jobs)
        return {
            job: status.estimated_start
            for job, status in statuses.items()
            if status.estimated_start is not None
        }

    async def cancel(self, actor: Actor, job: JobId) -> None:
        """See the contract."""
        result = await self._run(actor, self._commands.build_cancel(job))
        if result.exit_status != 0 and (error := explain_cancel(result)) is not None:
            raise error

    async def fetch_partitions(self) -> tuple[Partition, ...]:
        """See the contract. PBS lets single users into a queue, which a partition cannot tell: such
        a queue is shown to all, and refused by the server."""
        nodes = parse_nodes(await self._ask(self._commands.build_nodes()), self._profile)
        queues = await self._ask(self._commands.build_queues())
        return parse_partitions(queues, await self._ask(self._commands.build_server()), nodes)

    async def fetch_associations(self, user: str) -> tuple[Association, ...]:
        """See the contract. PBS takes any project or account: it knows of none."""
        return ()

    async def fetch_reservations(self, user: str) -> tuple[Reservation, ...]:
        """See the contract."""
        rows = parse_reservations(await self._ask(self._commands.build_reservations()))
        groups: frozenset[str] = frozenset()
        if any(row.groups for row in rows):
            groups = parse_words(await self._ask(self._commands.build_groups(user)))
        return tuple(
            row.reservation
            for row in rows
            if row.reservation.maintenance
            or user in row.reservation.users
            or (not row.reservation.users and groups & row.groups)
        )

    async def fetch_version(self) -> str:
        """See the contract."""
        return parse_version(await self._ask(self._commands.build_version()))

    async def _ask(self, argv: Sequence[str]) -> str:
        return _read(await self._run_as_observer(argv))

    async def _run_as_observer(self, argv: Sequence[str]) -> CommandResult:
        return await self._run(self._observer, argv)

    async def _run(self, actor: Actor, argv: Sequence[str], *, stdin: bytes = b"") -> CommandResult:
        return await self._transport.run(
            actor,
            argv,
            stdin=stdin,
            timeout=self._profile.command_timeout,
            output_limit=ANSWER_LIMIT,
        )


def _read(result: CommandResult) -> str:
    if result.exit_status != 0:
        raise explain_failure(result, command_name(result.argv))
    return cut_closing_line(result.text)
