"""Builds the argv of every PBS command. Pure.

Sources: qsub(1B), qstat(1B), qdel(1B), qselect(1B), pbsnodes(8B), pbs_rstat(1B) of OpenPBS 23.06.06
and its main branch of April 2026.

Each command runs in the clean environment of :mod:`gateway.schedulers.command_environment`; only
``PBS_CONF_FILE`` and ``PBS_SERVER``, which say where the cluster is, are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Literal

from gateway.errors import ClusterRefused, RequestRejected
from gateway.profiles.models import PbsSchedulerProfile
from gateway.schedulers.command_environment import (
    build_argv,
    build_effect_line,
    build_query_line,
)
from gateway.text import text
from gateway.values.jobs import JobId, JobRequest
from gateway.values.resources import ResourceRequest

EFFECT_LINE: Final = build_effect_line("PBS_CONF_FILE", "PBS_SERVER")
QUERY_LINE: Final = build_query_line("PBS_CONF_FILE", "PBS_SERVER")

# The script is run by this shell as a login shell, then by its own "#!" line. That of the account
# may be one whose start-up files do not let a job begin.
JOB_SHELL: Final = "/bin/sh"

JobFormat = Literal["json", "dsv"]

_JOB_ID: Final = re.compile(r"[0-9]{1,12}(?:\.[A-Za-z0-9][A-Za-z0-9._-]{0,254})?", re.ASCII)
# qsub(1B), -N: begins with a letter, and of 15.1 and older up to 15 characters; now 230.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,229}", re.ASCII)
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
# Neither ":" nor "+" nor ",", which mean something in -l.
_WORD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def is_job_id(value: str) -> bool:
    """Whether ``value`` is the id of one whole PBS job: a number, and mostly ``.server``."""
    return _JOB_ID.fullmatch(value) is not None


def job_number(job: JobId) -> int:
    """The number in a job id: younger jobs have larger ones."""
    return int(job.partition(".")[0])


class PbsCommands:
    """Builders of one cluster.

    They raise :class:`~gateway.errors.ClusterRefused` for a job id, name or user that cannot be
    one, since it would change the meaning of the command.
    """

    def __init__(self, profile: PbsSchedulerProfile) -> None:
        self._profile = profile
        self._bin = profile.bin_directory

    def _program(self, name: str) -> str:
        return name if self._bin is None else str(self._bin / name)

    def _query(self, program: str, *arguments: str) -> list[str]:
        return build_argv(QUERY_LINE, self._program(program), arguments)

    def _effect(self, program: str, *arguments: str) -> list[str]:
        return build_argv(EFFECT_LINE, self._program(program), arguments)

    def build_submit(self, request: JobRequest) -> list[str]:
        """``qsub`` with the script on stdin; prints the job id.

        ``-f`` leaves no daemon of the user behind. Nothing is passed with ``-v``, which every user
        of the cluster can read, nor ``-V``. A reservation is a queue to PBS.
        """
        resources = request.resources
        if resources.qos is not None:
            words = text("This cluster has no QoS.")
            raise RequestRejected(words, fields={"qos": words})
        queue = resources.reservation or resources.partition
        options = [
            "-f",
            *("-N", _checked(_NAME, request.name)),
            *("-q", _checked(_WORD, queue)),
            *("-S", JOB_SHELL),
            *("-j", "oe"),
            *("-o", request.log_path),
            *("-r", "n"),
            *("-m", "n"),
            *("-W", "umask=077"),
        ]
        if resources.account is not None:
            option = "-P" if self._profile.account_option == "project" else "-A"
            options += [option, _checked(_WORD, resources.account)]
        for amount in self._build_amounts(resources):
            options += ["-l", amount]
        return self._effect("qsub", *options)

    def _build_amounts(self, resources: ResourceRequest) -> list[str]:
        amounts = [f"ncpus={resources.cores}", f"mem={resources.memory.mib}mb"]
        if resources.gpus is not None and resources.gpus.count:
            amounts.append(f"{self._profile.gpu_resource}={resources.gpus.count}")
            if resources.gpus.kind is not None:
                kind_resource = self._profile.gpu_kind_resource
                if kind_resource is None:
                    words = text("One kind of GPU cannot be asked for on this cluster.")
                    raise RequestRejected(words, fields={"gpus": words})
                amounts.append(f"{kind_resource}={_checked(_WORD, resources.gpus.kind)}")
        walltime = f"walltime={format_hours(resources.walltime)}"
        if self._profile.request_style == "resources":
            return [*amounts, walltime]
        place = [f"place={self._profile.place}"] if self._profile.place else []
        return [":".join(["select=1", *amounts]), walltime, *place]

    def build_cancel(self, job: JobId) -> list[str]:
        """``qdel`` of one job: exactly one, since an unknown id beside others ends the server."""
        return self._effect("qdel", _checked(_JOB_ID, job))

    def build_status(
        self, jobs: Sequence[JobId], *, history: bool, form: JobFormat = "json"
    ) -> list[str]:
        """``qstat`` for these jobs; with ``history`` those that have ended too.

        ``-E`` asks for all of them in one request on one connection, and each connection holds a
        privileged port of the login node for a minute.
        """
        ids = [_checked(_JOB_ID, job) for job in dict.fromkeys(jobs)]
        ended = ["-x"] if history else []
        return self._query("qstat", "-E", *ended, "-f", "-F", form, *ids)

    def build_find(self, user: str, name: str, *, history: bool) -> list[str]:
        """``qselect`` for the ids of a user's jobs of that name."""
        ended = ["-x"] if history else []
        return self._query(
            "qselect", *ended, "-u", _checked(_USER, user), "-N", _checked(_NAME, name)
        )

    def build_queues(self) -> list[str]:
        """``qstat -Q``: all queues."""
        return self._query("qstat", "-Q", "-f", "-F", "json")

    def build_server(self) -> list[str]:
        """``qstat -B``: the server, its default queue and its limits."""
        return self._query("qstat", "-B", "-f", "-F", "json")

    def build_nodes(self) -> list[str]:
        """``pbsnodes``: all vnodes."""
        return self._query("pbsnodes", "-av", "-F", "json")

    def build_reservations(self) -> list[str]:
        """``pbs_rstat -F``: all reservations; it has no JSON."""
        return self._query("pbs_rstat", "-F")

    def build_groups(self, user: str) -> list[str]:
        """``id`` for the POSIX groups of a user, on the login node."""
        return build_argv(QUERY_LINE, "id", ["-Gn", "--", _checked(_USER, user)])

    def build_version(self) -> list[str]:
        """``qstat --version``; does not ask the server."""
        return self._query("qstat", "--version")


def format_hours(value: timedelta) -> str:
    """``HH:MM:SS`` with as many hours as it takes: PBS has no days (pbs_resources(7B))."""
    seconds = int(value.total_seconds())
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def _checked(pattern: re.Pattern[str], value: str) -> str:
    if pattern.fullmatch(value) is None:
        raise ClusterRefused(
            text("A name given to the scheduler is not usable."), detail=ascii(value[:80])
        )
    return value
