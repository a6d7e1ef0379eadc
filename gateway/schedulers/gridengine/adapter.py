"""Grid Engine behind the contract of :class:`gateway.schedulers.base.Scheduler`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from gateway.errors import ClusterUnavailable, GatewayError, SubmitAmbiguous
from gateway.profiles.models import ClusterProfile, GridEngineSchedulerProfile
from gateway.schedulers.base import Association, Partition, Reservation
from gateway.schedulers.gridengine.cluster_parsers import (
    build_associations,
    build_partitions,
    parse_access_lists,
    parse_default_project,
    parse_instances,
    parse_names,
    parse_projects,
    parse_queue_configurations,
    parse_reservation_ids,
    parse_reservations,
    parse_version,
)
from gateway.schedulers.gridengine.commands import GridEngineCommands, is_job_id, program_name
from gateway.schedulers.gridengine.documents import SIZE_LIMIT
from gateway.schedulers.gridengine.parsers import (
    AccountingRow,
    parse_accounting,
    parse_queue,
    parse_reasons,
    parse_submitted,
)
from gateway.schedulers.gridengine.refusals import (
    explain_cancel,
    explain_failure,
    explain_refusal,
    explain_unsuitable,
    has_no_record,
    is_unsuitable,
    was_deleted_at_once,
)
from gateway.schedulers.gridengine.states import (
    build_deleted,
    build_ended_status,
    build_missing,
    build_state,
    build_status,
)
from gateway.schedulers.unheard_of import UnheardOf
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult, Transport
from gateway.values.jobs import JobId, JobRequest, JobScript, JobState, JobStatus

log = logging.getLogger(__name__)

T = TypeVar("T")

# qstat -j is asked at most this often (seconds) about a job whose state has not changed.
REASONS_INTERVAL: Final = 10.0
# Of so many jobs is remembered whose they are, and that they were cancelled.
REMEMBERED: Final = 10_000
_OLDEST: Final = datetime.min.replace(tzinfo=UTC)


class GridEngineScheduler:
    """One Grid Engine cluster, asked through a login node.

    Queries run as ``observer``, submit and cancel as the user. The accounting does not tell a
    cancelled job from one that was killed, and never hears of one cancelled before it ran; so it
    is remembered which jobs were cancelled here or were seen being deleted. After a restart of the
    gateway such an end is a plain signal 9.
    """

    def __init__(
        self,
        transport: Transport,
        profile: ClusterProfile,
        observer: Actor,
        *,
        on_unheard_of: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        scheduler = profile.scheduler
        if not isinstance(scheduler, GridEngineSchedulerProfile):
            raise TypeError("not a profile of Grid Engine")
        self._transport = transport
        self._observer = observer
        self._profile = scheduler
        self._timeout = scheduler.command_timeout
        self._commands = GridEngineCommands(scheduler)
        self._unheard_of = UnheardOf(on_unheard_of)
        self._clock = clock
        # Job: its owner if it was deleted before it ran, else None.
        self._cancelled: OrderedDict[JobId, str | None] = OrderedDict()
        self._owners: OrderedDict[JobId, str] = OrderedDict()
        # Job: its native state, when it was asked for and what was the answer.
        self._reasons: dict[JobId, tuple[str, float, str]] = {}

    async def submit(self, actor: Actor, request: JobRequest, script: JobScript) -> JobId:
        """See the contract."""
        argv = self._commands.build_submit(request)
        stdin = script.text.encode()
        try:
            result = await self._transport.run(actor, argv, stdin=stdin, timeout=self._timeout)
        except ClusterUnavailable as error:
            # The command may have been sent before the connection broke.
            raise SubmitAmbiguous(error.user_message, detail=error.detail) from error
        job = parse_submitted(result.text) if result.exit_status == 0 else None
        if job is not None:
            return job
        if not is_unsuitable(result):
            raise explain_refusal(result, self._profile)
        try:
            verified = await self._transport.run(
                actor, self._commands.build_verify(request), stdin=stdin, timeout=self._timeout
            )
        except ClusterUnavailable as error:
            raise explain_refusal(result, self._profile) from error
        raise explain_unsuitable(verified, result, self._profile)

    async def find_by_name(self, actor: Actor, name: str) -> tuple[JobId, ...]:
        """See the contract. The queue is asked first, then the accounting."""
        rows = parse_queue(await self._ask(actor, self._commands.build_queue_of(actor.name)))
        found = {
            row.job_id: row.submitted_at or row.started_at
            for row in rows
            if row.owner == actor.name and row.name == name
        }
        if not found and self._profile.accounting:
            argv = self._commands.build_accounting_by_name(actor.name, name)
            for record in await self._ask_accounting(actor, argv):
                if record.owner == actor.name:
                    found[record.job_id] = record.submitted_at
        return tuple(sorted(found, key=lambda job: (int(job), found[job] or _OLDEST)))

    async def fetch_statuses(self, jobs: Collection[JobId]) -> Mapping[JobId, JobStatus]:
        """See the contract. Only the owners' jobs are asked for where all owners are known. Why
        jobs wait is asked besides, now and then; what cannot be a job id is UNKNOWN."""
        statuses = {
            job: build_missing(job)
            if is_job_id(job)
            else JobStatus(job_id=job, state=JobState.UNKNOWN)
            for job in jobs
        }
        asked = [job for job in jobs if is_job_id(job)]
        if not asked:
            return statuses
        argv = self._commands.build_queue(self._list_owners(asked))
        answer = await self._ask_all(argv, limit=SIZE_LIMIT)
        # Some 0.1 ms a job; a busy cluster has tens of thousands.
        listed = await asyncio.to_thread(parse_queue, answer)
        rows = [row for row in listed if row.job_id in statuses]
        for row in rows:
            self._owners[row.job_id] = row.owner
        _shorten(self._owners)
        waiting = {
            row.job_id: row.state
            for row in rows
            if build_state(row.state, lambda _: None) is JobState.PENDING
        }
        reasons = await self._fetch_reasons(waiting)
        for row in rows:
            status = build_status(row, reasons.get(row.job_id, ""), self._unheard_of)
            statuses[row.job_id] = status
            if status.state is JobState.ENDING:
                self._remember(row.job_id, None)
        return statuses

    def _list_owners(self, jobs: Collection[JobId]) -> list[str] | None:
        owners = {self._owners.get(job) for job in jobs}
        known = {owner for owner in owners if owner is not None}
        return sorted(known) if len(known) == len(owners) else None

    async def _fetch_reasons(self, waiting: Mapping[JobId, str]) -> dict[JobId, str]:
        """Why these jobs (with their native states) wait; no answer is no reason."""
        now = self._clock()
        self._reasons = {job: known for job, known in self._reasons.items() if job in waiting}
        stale = [job for job, state in waiting.items() if self._is_stale(job, state, now)]
        if stale:
            reasons: Mapping[JobId, str] = {}
            try:
                answer = await self._ask_all(self._commands.build_reasons(stale), limit=SIZE_LIMIT)
                reasons = parse_reasons(answer)
            except GatewayError as error:
                log.info("why jobs wait is not known: %s", error)
            for job in stale:
                self._reasons[job] = (waiting[job], now, reasons.get(job, ""))
        return {job: reason for job, (_, _, reason) in self._reasons.items()}

    def _is_stale(self, job: JobId, state: str, now: float) -> bool:
        known = self._reasons.get(job)
        return known is None or known[0] != state or now - known[1] >= REASONS_INTERVAL

    async def fetch_end(self, job: JobId) -> JobStatus | None:
        """See the contract. Records come some seconds (``flush_time``) after the end."""
        records: tuple[AccountingRow, ...] = ()
        if self._profile.accounting:
            records = await self._ask_accounting(
                self._observer, self._commands.build_accounting(job)
            )
        mine = [record for record in records if record.job_id == job]
        if mine:
            # Of a job that ran again, and of an id that came round again, the newest is the last.
            newest = max(mine, key=lambda one: one.submitted_at or _OLDEST)
            last = [record for record in mine if record.submitted_at == newest.submitted_at][-1]
            return build_ended_status(
                last,
                memory_complex=self._profile.memory_complex,
                memory_per_slot=self._profile.memory_per == "slot",
                cancelled=job in self._cancelled,
            )
        owner = self._cancelled.get(job)
        return None if owner is None else build_deleted(job, owner)

    async def fetch_estimates(self, jobs: Collection[JobId]) -> Mapping[JobId, datetime]:
        """See the contract. Grid Engine tells none."""
        return {}

    async def cancel(self, actor: Actor, job: JobId) -> None:
        """See the contract."""
        argv = self._commands.build_cancel(job)
        result = await self._transport.run(actor, argv, timeout=self._timeout)
        if result.exit_status != 0:
            if (error := explain_cancel(result)) is not None:
                raise error
            return
        self._remember(job, actor.name if was_deleted_at_once(result, job) else None)

    def _remember(self, job: JobId, owner: str | None) -> None:
        if self._cancelled.get(job) is None:
            self._cancelled[job] = owner
        _shorten(self._cancelled)

    async def fetch_partitions(self) -> tuple[Partition, ...]:
        """See the contract. Partitions are cluster queues; a limit that differs between the nodes
        of a queue counts with its largest value."""
        answer = await self._ask_all(self._commands.build_queue_instances(), limit=SIZE_LIMIT)
        instances = await asyncio.to_thread(parse_instances, answer, self._profile)
        configurations = parse_queue_configurations(
            await self._ask_all(self._commands.build_queue_configurations())
        )
        return build_partitions(instances, configurations, self._profile)

    async def fetch_associations(self, user: str) -> tuple[Association, ...]:
        """See the contract. Accounts are projects, whose access lists say who may use them."""
        if not self._profile.accounting:
            return ()
        argv = self._commands.build_project_names()
        result = await self._transport.run(self._observer, argv, timeout=self._timeout)
        if result.exit_status == 1 and "no project" in result.error_text.lower() + result.text:
            return ()
        names = parse_names(self._answer(result, argv))
        if not names:
            return ()
        projects = parse_projects(await self._ask_all(self._commands.build_projects(names)))
        wanted = sorted({one for row in projects for one in row.allowed | row.denied})
        lists: Mapping[str, frozenset[str]] = {}
        members = frozenset({user})
        if wanted:
            lists = parse_access_lists(
                await self._ask_all(self._commands.build_access_lists(wanted))
            )
            if any(entry.startswith("@") for entries in lists.values() for entry in entries):
                members |= await self._fetch_groups(user)
        default = parse_default_project(await self._ask_all(self._commands.build_user(user)))
        return build_associations(projects, lists, members, default)

    async def fetch_reservations(self, user: str) -> tuple[Reservation, ...]:
        """See the contract. Grid Engine knows no maintenance reservations."""
        ids = parse_reservation_ids(await self._ask_all(self._commands.build_reservation_ids()))
        if not ids:
            return ()
        found = parse_reservations(await self._ask_all(self._commands.build_reservations(ids)))
        members = frozenset({user})
        if any(one.startswith("@") for row in found for one in row.users):
            members |= await self._fetch_groups(user)
        return tuple(row for row in found if row.users & members)

    async def _fetch_groups(self, user: str) -> frozenset[str]:
        groups = parse_names(await self._ask_all(self._commands.build_groups(user)))
        return frozenset(f"@{group}" for group in groups)

    async def fetch_version(self) -> str:
        """See the contract."""
        return parse_version(await self._ask_all(self._commands.build_version()))

    async def _ask_accounting(self, actor: Actor, argv: Sequence[str]) -> tuple[AccountingRow, ...]:
        result = await self._transport.run(actor, argv, timeout=self._timeout)
        if has_no_record(result):
            return ()
        return parse_accounting(self._answer(result, argv))

    async def _ask_all(self, argv: Sequence[str], *, limit: int = OUTPUT_LIMIT) -> str:
        return await self._ask(self._observer, argv, limit=limit)

    async def _ask(self, actor: Actor, argv: Sequence[str], *, limit: int = OUTPUT_LIMIT) -> str:
        result = await self._transport.run(actor, argv, timeout=self._timeout, output_limit=limit)
        return self._answer(result, argv)

    def _answer(self, result: CommandResult, argv: Sequence[str]) -> str:
        if result.exit_status != 0:
            raise explain_failure(result, program_name(argv))
        return result.text


def _shorten(remembered: OrderedDict[JobId, T]) -> None:
    while len(remembered) > REMEMBERED:
        remembered.popitem(last=False)
