"""The scheduler contract over recordings of real OpenPBS servers, as far as they go.

A replay answers each command with what a server printed to the same command (its own options, the
clean environment and the name of the job aside). What needs an answer that nobody has recorded
(times of today, two jobs of one name, one waiting job beside one that runs) is left to a real
server.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.profiles.models import ClusterProfile
from gateway.schedulers.pbs.adapter import PbsScheduler
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult, Role
from gateway.values.jobs import JobId
from tests.contract.scheduler import SLEEP, SchedulerContract, Site
from tests.unit.schedulers.pbs.recordings import VERSIONS, Recording, one

# By the script: the recorded job that did the same.
ENDED = {
    "#!/bin/sh\nexit 0\n": "finished-ok",
    "#!/bin/sh\nexit 3\n": "finished-exit3",
    "#!/bin/sh\nkill -9 $$\n": "finished-sigkill-self",
}
REFUSED_QUEUES = {"nosuch": "qsub-badqueue", "aclq": "qsub-aclq"}
ALONE = {
    ("qstat", "-Q", "-f", "-F", "json"): "qstat-Q-f-json",
    ("qstat", "-B", "-f", "-F", "json"): "qstat-B-f-json",
    ("qstat", "--version"): "version-qstat",
    # No recording has a server without a reservation; one without that reservation is the same.
    ("pbs_rstat", "-F"): "rstat-unknown",
}
NOT_RECORDED = (
    "test_a_job_runs_and_is_cancelled",
    "test_jobs_are_found_by_their_name",
    "test_an_unknown_job_is_missing",
    "test_a_job_waits_with_a_reason",
    "test_gpus",
)


class Replay:
    """One server of recordings: a job that sleeps, until it is cancelled, or one that ends."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._running = False
        self._answers: dict[str, str] = {}

    async def run(
        self,
        actor: Actor,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta,
        output_limit: int = OUTPUT_LIMIT,
    ) -> CommandResult:
        recording = self._find(actor, list(argv[4:]), stdin.decode())
        told = recording.effect if recording.argv[0] in ("qsub", "qdel") else recording.result
        return CommandResult(tuple(argv), told.exit_status, told.stdout, told.stderr, 0.01)

    async def close(self) -> None: ...

    def _find(self, actor: Actor, command: list[str], script: str) -> Recording:
        program, job = command[0], command[-1]
        if name := ALONE.get(tuple(command)):
            return self._one(name)
        if program == "pbsnodes":
            return self._one("pbsnodes-resv-running" if self._running else "pbsnodes-av-json")
        if program == "qselect":
            return self._one("qselect-none")
        if program == "qsub":
            return self._submit(command[command.index("-q") + 1], script)
        if program == "qdel":
            return self._cancel(actor)
        assert command[:-1] == ["qstat", "-E", "-x", "-f", "-F", "json"], command
        return self._one(self._answers.get(job, "qstat-unknown-x-f-json"))

    def _one(self, name: str) -> Recording:
        return one(self._version, name)

    def _submit(self, queue: str, script: str) -> Recording:
        if queue in REFUSED_QUEUES:
            return self._one(REFUSED_QUEUES[queue])
        if script == SLEEP:
            submitted = self._one("qsub-running2")
            # The moment after qdel, in which it still runs.
            answer = "qstat-x-f-json-just-after-qdel-running"
            self._running = True
        else:
            submitted = self._one(f"qsub-{ENDED[script]}")
            answer = f"qstat-x-f-json-{ENDED[script]}"
        self._answers[submitted.text.strip()] = answer
        return submitted

    def _cancel(self, actor: Actor) -> Recording:
        if actor.name != "alice":
            return self._one("qdel-other-user")
        if not self._running:
            return self._one("qdel-twice-finished")
        self._running = False
        (job,) = self._answers
        self._answers[job] = "qstat-x-f-json-deleted-while-running"
        return self._one("qdel-running")


@pytest.fixture(params=VERSIONS)
def site(request: pytest.FixtureRequest) -> Site:
    profile = ClusterProfile.model_validate(
        {
            "name": "recorded",
            "title": {"en": "Recorded", "fr": "Enregistré"},
            "scheduler": {"kind": "pbs"},
            "login": {"hosts": [{"host": "login"}], "known_hosts": Path("/nonexistent")},
            "roles": {"observer": {"name": "observer"}},
            "partitions": {"workq": {"max_walltime": "8h", "max_memory": "8G"}},
            "environments": {"plain": {"title": {"en": "Plain", "fr": "Simple"}}},
        }
    )
    return Site(
        scheduler=PbsScheduler(Replay(request.param), profile, Actor(Role.OBSERVER, "observer")),
        user=Actor(Role.USER, "alice"),
        other=Actor(Role.USER, "bob"),
        partition="workq",
        nodes=frozenset({"pbs1"}),
        largest_job=2,
        log_directory="/home/alice",
        unknown_job=JobId("99999.pbs1"),
        refused_partition="aclq",
    )


class TestPbsReplay:
    """The promises that recordings can show; each is the contract's own test."""

    test_only_the_owner_cancels = SchedulerContract.test_only_the_owner_cancels
    test_how_a_job_ended = SchedulerContract.test_how_a_job_ended
    test_who_cancelled = SchedulerContract.test_who_cancelled
    test_a_refusal_names_the_field = SchedulerContract.test_a_refusal_names_the_field
    test_partitions = SchedulerContract.test_partitions
    test_associations = SchedulerContract.test_associations
    test_an_empty_reservation_list_and_version = (
        SchedulerContract.test_an_empty_reservation_list_and_version
    )
    test_many_questions_at_once = SchedulerContract.test_many_questions_at_once


def test_every_promise_is_replayed_or_named() -> None:
    promises = {name for name in vars(SchedulerContract) if name.startswith("test_")}
    replayed = {name for name in vars(TestPbsReplay) if name.startswith("test_")}
    assert replayed | set(NOT_RECORDED) == promises
    assert not replayed & set(NOT_RECORDED)
