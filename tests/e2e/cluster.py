"""The bed's cluster as its support would look at it: with Slurm's own commands, as root."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.testbed.bed import Bed

OCCUPIER = "occupier"


@dataclass(frozen=True)
class Job:
    """A job in the queue."""

    id: str
    user: str
    state: str
    name: str
    node: str


class Cluster:
    """Asks and changes the bed's Slurm."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed

    def jobs(self, user: str | None = None) -> list[Job]:
        """What is in the queue and not ended."""
        who = ["--user", user] if user else []
        done = self.bed.run(
            "login", ["squeue", "--noheader", "--format=%A|%u|%T|%j|%N", *who], check=True
        )
        return [Job(*line.split("|")) for line in done.stdout.splitlines()]

    def job_of(self, user: str) -> Job:
        """The one job of a user."""
        found = self.jobs(user)
        assert len(found) == 1, found
        return found[0]

    def ended_as(self, job_id: str) -> str:
        """The state in which a job ended, or is, as the controller knows it."""
        done = self.bed.run("login", ["scontrol", "--oneliner", "show", "job", job_id], check=True)
        return next(
            word.removeprefix("JobState=")
            for word in done.stdout.split()
            if word.startswith("JobState=")
        )

    def occupy(self, partition: str, *, user: str = "bob", cores: int = 8) -> str:
        """Fill a partition with a job that is not the gateway's; its id."""
        argv = ["sbatch", "--parsable", f"--partition={partition}", f"--cpus-per-task={cores}"]
        argv += ["--mem=100M", "--time=10", "--output=/dev/null", f"--job-name={OCCUPIER}"]
        done = self.bed.run("login", [*argv, "--wrap", "sleep 600"], user=user, check=True)
        return done.stdout.strip()

    def cancel(self, job_id: str) -> None:
        """As root."""
        self.bed.run("login", ["scancel", job_id], check=True)


async def until(what: str, question: Callable[[], bool], *, bound: float = 30) -> None:
    """Ask until it is so."""
    end = time.monotonic() + bound
    while not question():
        assert time.monotonic() < end, f"waited {bound:g} s in vain for {what}"
        await asyncio.sleep(0.2)
