"""A PBS server that answers the adapter's commands in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from gateway.profiles.models import ClusterProfile
from gateway.schedulers.command_environment import ANSWERED
from gateway.schedulers.pbs.adapter import PbsScheduler
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult, Role

ALICE, OBSERVER = Actor(Role.USER, "alice"), Actor(Role.OBSERVER, "observer")
Answer = tuple[int, str, str]


class Told:
    """A transport that asks `answer` for exit status, stdout and stderr of each command."""

    def __init__(self, answer: Callable[[list[str]], Answer]) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.stdin = b""
        self._answer = answer

    async def run(
        self,
        actor: Actor,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta,
        output_limit: int = OUTPUT_LIMIT,
    ) -> CommandResult:
        assert timeout == timedelta(seconds=30)
        command = list(argv[4:])
        self.asked.append((actor.name, command))
        self.stdin = stdin
        status, out, err = self._answer(command)
        if status == 0 and Path(command[0]).name not in ("qsub", "qdel"):
            out += f"{ANSWERED}\n"
        return CommandResult(tuple(argv), status, out.encode(), err.encode(), 0.01)

    async def close(self) -> None: ...


def profile(kind: str = "pbs") -> ClusterProfile:
    return ClusterProfile.model_validate(
        {
            "name": "north",
            "title": {"en": "North", "fr": "Nord"},
            "scheduler": {"kind": kind},
            "login": {"hosts": [{"host": "login"}], "known_hosts": Path("/nonexistent")},
            "roles": {"observer": {"name": "observer"}},
            "partitions": {"shared": {"max_walltime": "8h", "max_memory": "20G"}},
            "environments": {"plain": {"title": {"en": "Plain", "fr": "Simple"}}},
        }
    )


def scheduler(answer: Callable[[list[str]], Answer], **options: Any) -> tuple[PbsScheduler, Told]:
    told = Told(answer)
    return PbsScheduler(told, profile(), OBSERVER, **options), told


def job(state: str = "R", **attributes: object) -> dict[str, object]:
    return {"job_state": state, "Job_Owner": "alice@login", **attributes}


class Server:
    """Answers qstat as a server does: known jobs, hidden ones, broken ones, history or none."""

    def __init__(self, jobs: dict[str, dict[str, object]]) -> None:
        self.jobs = jobs
        self.broken: set[str] = set()
        self.hidden: set[str] = set()
        self.history = True

    def __call__(self, argv: list[str]) -> Answer:
        assert argv[:2] == ["qstat", "-E"]
        form = argv[argv.index("-F") + 1]
        ids = argv[argv.index("-F") + 2 :]
        head = {"timestamp": 1, "pbs_version": "23.06.06", "pbs_server": "pbs"}
        if "-x" in argv and not self.history:
            return 0, json.dumps(head), "qstat: PBS is not configured to maintain job history"
        if self.history and "-x" not in argv:
            return 35, json.dumps(head), f"qstat: {ids[0]} Job has finished, use -x or -H"
        known = {one: self.jobs[one] for one in ids if one in self.jobs and one not in self.hidden}
        if not known and not self.hidden & set(ids):
            out = json.dumps(head) if form == "json" else ""
            return 153, out, f"qstat: Unknown Job Id {ids[-1]}"
        if form == "dsv":
            lines = [
                f"Job Id: {one}|" + "|".join(f"{key}={value}" for key, value in found.items())
                for one, found in known.items()
            ]
            return 0, "".join(f"{line}\n" for line in lines), ""
        answer = json.dumps({**head, "Jobs": known} if known else head)
        if self.broken & set(known):
            answer = answer.replace('"job_state"', '"Job_Name": nan, "job_state"', 1)
        return 0, answer, ""
