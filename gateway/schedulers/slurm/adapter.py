"""Slurm behind the contract of :class:`gateway.schedulers.base.Scheduler`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from gateway.errors import ClusterUnavailable, GatewayError, SubmitAmbiguous
from gateway.profiles.models import ClusterProfile
from gateway.schedulers.answers import not_understood
from gateway.schedulers.base import Association, Partition, Reservation
from gateway.schedulers.command_environment import command_name
from gateway.schedulers.slurm.cluster_parsers import (
    ReservationRow,
    parse_associations,
    parse_cluster_name,
    parse_nodes,
    parse_partitions,
    parse_reservations,
    parse_version,
    parse_words,
)
from gateway.schedulers.slurm.commands import SlurmCommands, is_job_id
from gateway.schedulers.slurm.parsers import (
    parse_accounting,
    parse_accounting_names,
    parse_exit_code,
    parse_queue,
    parse_submitted,
)
from gateway.schedulers.slurm.refusals import explain_cancel, explain_failure, explain_refusal
from gateway.schedulers.slurm.states import (
    build_accounted_status,
    build_end,
    build_missing,
    build_status,
)
from gateway.schedulers.unheard_of import UnheardOf
from gateway.transport.base import Actor, CommandResult, Transport
from gateway.values.jobs import JobId, JobRequest, JobScript, JobState, JobStatus

# A thousand nodes in two partitions are some 3 MiB.
NODES_LIMIT: Final = 64 * 1024 * 1024
_OLDEST: Final = datetime.min.replace(tzinfo=UTC)


class SlurmScheduler:
    """One Slurm cluster, asked through a login node.

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
        self._transport = transport
        self._observer = observer
        self._accounting = profile.scheduler.accounting
        self._timeout = profile.scheduler.command_timeout
        self._commands = SlurmCommands(profile.scheduler.bin_directory)
        self._meet_unheard_of = UnheardOf(on_unheard_of)
        self._cluster_name: str | None = None

    async def submit(self, actor: Actor, request: JobRequest, script: JobScript) -> JobId:
        """See the contract."""
        argv = self._commands.build_submit(request)
        try:
            result = await self._transport.run(
                actor, argv, stdin=script.text.encode(), timeout=self._timeout
            )
        except ClusterUnavailable as error:
            # The command may have been sent before the connection broke.
            raise SubmitAmbiguous(error.user_message, detail=error.detail) from error
        job = parse_submitted(result.text) if result.exit_status == 0 else None
        if job is None:
            raise explain_refusal(result, gpus=request.resources.gpus is not None)
        return job

    async def find_by_name(self, actor: Actor, name: str) -> tuple[JobId, ...]:
        """See the contract. The queue is asked first, then the accounting."""
        queue = parse_queue(await self._ask(actor, self._commands.build_queue_by_name(name)))
        found = {row.job_id: row.submitted_at for row in queue if row.owner == actor.name}
        if not found and self._accounting:
            argv = self._commands.build_accounting_by_name(actor.name, name)
            for row in parse_accounting_names(await self._ask(actor, argv)):
                if row.owner == actor.name:
                    found[row.job_id] = row.submitted_at
        return tuple(sorted(found, key=lambda job: (found[job] or _OLDEST, int(job))))

    async def fetch_statuses(self, jobs: Collection[JobId]) -> Mapping[JobId, JobStatus]:
        """See the contract. What cannot be a Slurm job id is UNKNOWN."""
        asked = sorted({job for job in jobs if is_job_id(job)}, key=int)
        statuses = {
            job: build_missing(job)
            if is_job_id(job)
            else JobStatus(job_id=job, state=JobState.UNKNOWN)
            for job in jobs
        }
        if asked:
            for row in parse_queue(await self._ask_all(self._commands.build_queue(asked))):
                if row.job_id not in statuses:
                    raise not_understood("squeue, a job not asked for", row.job_id)
                statuses[row.job_id] = build_status(row, self._meet_unheard_of)
        return statuses

    async def fetch_end(self, job: JobId) -> JobStatus | None:
        """See the contract. The accounting is asked first, then the queue, which still knows the
        exit code of a job that has just ended."""
        unanswered: GatewayError | None = None
        record: JobStatus | None = None
        if self._accounting:
            try:
                record = await self._fetch_accounted(job)
            except GatewayError as error:
                unanswered = error
            if record is not None and record.state is JobState.FINISHED:
                return record
        ended = await self._fetch_queued_end(job)
        if ended is None and unanswered is not None:
            raise unanswered
        return ended or record

    async def _fetch_accounted(self, job: JobId) -> JobStatus | None:
        answer = await self._ask_all(self._commands.build_accounting(job))
        rows = [row for row in parse_accounting(answer) if row.job_id == job]
        if not rows:
            return None
        newest = max(rows, key=lambda row: row.submitted_at or _OLDEST)
        return build_accounted_status(newest, self._meet_unheard_of)

    async def _fetch_queued_end(self, job: JobId) -> JobStatus | None:
        status = (await self.fetch_statuses([job]))[job]
        if status.end is None:
            return None
        answer = await self._ask_all(self._commands.build_exit_code(job))
        exited = parse_exit_code(answer, job)
        if exited is None:
            return status
        end = build_end(
            status.native_state,
            reason=status.native_reason,
            code=exited[0],
            signal=exited[1],
            ended_at=status.end.ended_at,
        )
        return replace(status, end=end)

    async def fetch_estimates(self, jobs: Collection[JobId]) -> Mapping[JobId, datetime]:
        """See the contract. squeue shows the backfill scheduler's estimate with the status."""
        statuses = await self.fetch_statuses(jobs)
        return {
            job: status.estimated_start
            for job, status in statuses.items()
            if status.estimated_start is not None
        }

    async def cancel(self, actor: Actor, job: JobId) -> None:
        """See the contract."""
        argv = self._commands.build_cancel(job)
        result = await self._transport.run(actor, argv, timeout=self._timeout)
        if result.exit_status != 0 and (error := explain_cancel(result)) is not None:
            raise error

    async def fetch_partitions(self) -> tuple[Partition, ...]:
        """See the contract."""
        nodes = parse_nodes(await self._ask_all(self._commands.build_nodes(), limit=NODES_LIMIT))
        return parse_partitions(await self._ask_all(self._commands.build_partitions()), nodes)

    async def fetch_associations(self, user: str) -> tuple[Association, ...]:
        """See the contract."""
        if not self._accounting:
            return ()
        rows = parse_associations(await self._ask_all(self._commands.build_associations(user)))
        if len({row.cluster for row in rows}) > 1:
            name = await self._fetch_cluster_name()
            rows = tuple(row for row in rows if row.cluster == name)
        return tuple(row.association for row in rows)

    async def fetch_reservations(self, user: str) -> tuple[Reservation, ...]:
        """See the contract. Ended ones, which Slurm keeps while jobs run in them, are included."""
        rows = parse_reservations(await self._ask_all(self._commands.build_reservations()))
        if not rows:
            return ()
        accounts: frozenset[str] = frozenset()
        groups: frozenset[str] = frozenset()
        if any(row.reservation.accounts or row.denied_accounts for row in rows):
            accounts = frozenset(one.account for one in await self.fetch_associations(user))
        if any(row.groups for row in rows):
            groups = parse_words(await self._ask_all(self._commands.build_groups(user)))
        return tuple(
            row.reservation
            for row in rows
            if row.reservation.maintenance or _may_use(row, user, accounts, groups)
        )

    async def fetch_version(self) -> str:
        """See the contract."""
        return parse_version(await self._ask_all(self._commands.build_version()))

    async def _fetch_cluster_name(self) -> str:
        if self._cluster_name is None:
            answer = await self._ask_all(self._commands.build_cluster_name())
            self._cluster_name = parse_cluster_name(answer)
        return self._cluster_name

    async def _ask_all(self, argv: Sequence[str], *, limit: int | None = None) -> str:
        return await self._ask(self._observer, argv, limit=limit)

    async def _ask(self, actor: Actor, argv: Sequence[str], *, limit: int | None = None) -> str:
        result: CommandResult
        if limit is None:
            result = await self._transport.run(actor, argv, timeout=self._timeout)
        else:
            result = await self._transport.run(
                actor, argv, timeout=self._timeout, output_limit=limit
            )
        if result.exit_status != 0:
            raise explain_failure(result, command_name(argv))
        return result.text


def _may_use(
    row: ReservationRow, user: str, accounts: frozenset[str], groups: frozenset[str]
) -> bool:
    """scontrol(1), Users, Accounts and Groups of a reservation: who is named in both lists of
    users and accounts, where both are given; a leading ``-`` excludes."""
    named = row.reservation
    if user in row.denied_users or (row.denied_accounts and accounts <= row.denied_accounts):
        return False
    if named.users and user not in named.users:
        return False
    if named.accounts and not accounts & named.accounts:
        return False
    if row.groups and not groups & row.groups:
        return False
    return bool(
        named.users or named.accounts or row.groups or row.denied_users or row.denied_accounts
    )
