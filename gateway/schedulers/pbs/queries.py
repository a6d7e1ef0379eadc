"""Asks PBS about jobs: all in one question, and what to do when the answer is not usable."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from gateway.errors import ClusterRefused
from gateway.schedulers.answers import cut_closing_line
from gateway.schedulers.pbs.commands import JobFormat, PbsCommands
from gateway.schedulers.pbs.parsers import (
    JobAttributes,
    JobsAnswer,
    parse_job_line,
    parse_jobs,
    says_no_history,
    says_unknown_job,
)
from gateway.schedulers.pbs.refusals import FINISHED, UNKNOWN_JOB, explain_failure
from gateway.transport.base import CommandResult
from gateway.values.jobs import JobId

Run = Callable[[Sequence[str]], Awaitable[CommandResult]]

# sshd hands the command line to the shell as one word of at most 128 KiB; ids are up to 30 bytes.
JOBS_PER_QUESTION: Final = 1000
# Each takes a privileged port of the login node for a minute, of some 500.
QUESTIONS_PER_LOOK: Final = 24
ODD_PER_LOOK: Final = 12
MOST_ODD: Final = 1000
# A server that keeps no ended jobs is asked again for them after this.
HISTORY_RETRY: Final = timedelta(minutes=10)


@dataclass(slots=True)
class Look:
    """What one look at the queue found: attributes by id, and the ids that the server said it does
    not know. Nothing is known of an id that is in neither."""

    found: dict[JobId, JobAttributes] = field(default_factory=dict)
    gone: set[JobId] = field(default_factory=set)
    understood: int = 0
    fault: ClusterRefused | None = None

    def take(self, asked: Sequence[JobId], answer: JobsAnswer) -> list[JobId]:
        """Add an answer; return the ids to be asked about once more by themselves."""
        self.understood += 1
        self.found.update(answer.jobs)
        absent = [job for job in asked if job not in answer.jobs]
        if answer.rest_unknown:
            self.gone.update(absent)
            return []
        # Among others an unknown id vanishes without a word, as one does that may not be seen:
        # only a question about nothing else tells them apart.
        return absent if answer.jobs else []

    def note(self, fault: ClusterRefused) -> None:
        """Keep the fault of an answer that was not understood; raise any other."""
        if fault.reason != "not_understood":
            raise fault
        self.fault = fault


class JobQueries:
    """The questions of one cluster; remembers which jobs' JSON is broken, and whether the server
    keeps ended jobs."""

    def __init__(
        self, commands: PbsCommands, run: Run, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._commands = commands
        self._run = run
        self._clock = clock
        self._odd: dict[JobId, None] = {}
        self._history_from = float("-inf")

    @property
    def history(self) -> bool:
        """Whether to ask for ended jobs too."""
        return self._clock() >= self._history_from

    def note_no_history(self) -> None:
        """The server keeps no ended jobs."""
        self._history_from = self._clock() + HISTORY_RETRY.total_seconds()

    async def look(self, jobs: Sequence[JobId]) -> Look:
        """Ask about ``jobs``: in one question, or few.

        :raises GatewayError: the server did not answer, or no answer was understood.
        """
        look = Look()
        wanted = set(jobs)
        plain = [job for job in jobs if job not in self._odd]
        batches = [
            plain[start : start + JOBS_PER_QUESTION]
            for start in range(0, len(plain), JOBS_PER_QUESTION)
        ]
        broken: list[JobId] = []
        for _ in range(QUESTIONS_PER_LOOK):
            if not batches:
                break
            batch = batches.pop()
            try:
                again = look.take(batch, await self._ask(batch))
            except ClusterRefused as fault:
                look.note(fault)
                # One job's values break the answer about all: find it.
                middle = len(batch) // 2
                batches += [batch[:middle], batch[middle:]] if middle else []
                broken += [] if middle else batch
            else:
                batches += [again] if again else []
        odd = [job for job in (*self._odd, *broken) if job in wanted]
        for job in odd[:ODD_PER_LOOK]:
            await self._look_at_odd(job, look)
        if look.fault is not None and not look.understood:
            raise look.fault
        for job in odd:
            self._remember(job, look, last=job in odd[:ODD_PER_LOOK])
        return look

    async def _look_at_odd(self, job: JobId, look: Look) -> None:
        try:
            look.take([job], await self._ask([job], form="dsv"))
        except ClusterRefused as fault:
            look.note(fault)

    def _remember(self, job: JobId, look: Look, *, last: bool) -> None:
        if last:
            # Whoever was asked about this time comes last the next time.
            self._odd.pop(job, None)
        if job not in look.gone and len(self._odd) < MOST_ODD:
            self._odd.setdefault(job)

    async def _ask(self, jobs: Sequence[JobId], *, form: JobFormat = "json") -> JobsAnswer:
        history = self.history
        result = await self._run(self._commands.build_status(jobs, history=history, form=form))
        if history and says_no_history(result.error_text):
            self.note_no_history()
            result = await self._run(self._commands.build_status(jobs, history=False, form=form))
        elif not history and result.exit_status == FINISHED:
            # It keeps ended jobs by now.
            self._history_from = float("-inf")
            result = await self._run(self._commands.build_status(jobs, history=True, form=form))
        unknown = result.exit_status == UNKNOWN_JOB and says_unknown_job(result.error_text)
        if result.exit_status != 0 and not unknown:
            raise explain_failure(result, "qstat")
        output = result.text if unknown else cut_closing_line(result.text)
        if form == "json":
            return parse_jobs(output, jobs, rest_unknown=unknown)
        if unknown:
            return JobsAnswer({}, rest_unknown=True)
        return parse_job_line(output, jobs[0])
