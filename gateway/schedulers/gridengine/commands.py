"""Builds the argv of every Grid Engine command. Pure.

Sources: qsub(1), qstat(1), qdel(1), qacct(1), qconf(1), qrstat(1) of 8.1.9. Only options that 6.2u5
and its descendants share are used.

Each command runs under a fixed ``sh`` line with an environment of its own (see
:mod:`gateway.schedulers.command_environment`); queries print times in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from gateway.errors import ClusterRefused, RequestRejected
from gateway.profiles.models import GridEngineSchedulerProfile
from gateway.schedulers.command_environment import build_argv, build_effect_line, build_query_line
from gateway.text import text
from gateway.values.jobs import JobId, JobRequest

# Where the cluster is, as settings.sh exports it.
_KEPT: Final = ("SGE_ROOT", "SGE_CELL", "SGE_CLUSTER_NAME", "SGE_QMASTER_PORT", "SGE_EXECD_PORT")
EFFECT_LINE: Final = build_effect_line(*_KEPT)
QUERY_LINE: Final = build_query_line(*_KEPT)
# `qconf -sprj` takes one name only: once for each.
EACH_LINE: Final = (
    'program=$1 option=$2; shift 2; for one; do "$program" "$option" "$one" || exit; done'
)
# A job older than this is not looked for by name in the accounting.
NAMED_DAYS: Final = 7

_JOB_ID: Final = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
# A name that begins with a digit is taken for a job id; * and ? are patterns.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}", re.ASCII)
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_OBJECT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}", re.ASCII)
_RESERVATION: Final = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
# qsub(1), -o: a comma separates, a colon ends a host, a dollar sign begins a variable.
_PATH: Final = re.compile(r"/[^,:$\x00-\x1f]{0,1000}")


def is_job_id(value: str) -> bool:
    """Whether ``value`` is the id of one whole Grid Engine job."""
    return _JOB_ID.fullmatch(value) is not None


class GridEngineCommands:
    """Builders of one cluster.

    They raise :class:`~gateway.errors.ClusterRefused` for a name that cannot be one, since it would
    change the meaning of the command.
    """

    def __init__(self, profile: GridEngineSchedulerProfile) -> None:
        self._profile = profile

    def _words(self, program: str, arguments: Sequence[str]) -> list[str]:
        directory = self._profile.bin_directory
        words = [program if directory is None else str(directory / program), *arguments]
        if self._profile.root is None:
            return words
        return [
            "env",
            f"SGE_ROOT={self._profile.root}",
            f"SGE_CELL={self._profile.cell}",
            *words,
        ]

    def _query(self, program: str, *arguments: str) -> list[str]:
        first, *rest = self._words(program, arguments)
        return build_argv(QUERY_LINE, first, rest)

    def _effect(self, program: str, *arguments: str) -> list[str]:
        first, *rest = self._words(program, arguments)
        return build_argv(EFFECT_LINE, first, rest)

    def build_submit(self, request: JobRequest) -> list[str]:
        """``qsub`` with the script on stdin; prints the job id.

        ``-w e``: what no queue could ever run is refused at once (states and load of queues do not
        count). No ``-V``: the job starts with Grid Engine's own small environment.

        :raises RequestRejected: the amounts cannot be said in this cluster's terms.
        """
        return self._effect("qsub", "-terse", "-w", "e", *self._build_options(request))

    def build_verify(self, request: JobRequest) -> list[str]:
        """``qsub -w v``: says why no queue could run the job, and creates none."""
        return self._effect("qsub", "-w", "v", *self._build_options(request))

    def _build_options(self, request: JobRequest) -> list[str]:
        resources = request.resources
        limits = [f"h_rt={int(resources.walltime.total_seconds())}", self._build_memory(request)]
        if resources.gpus is not None and resources.gpus.count:
            limits.append(self._build_gpus(request))
        options = [
            *("-N", _checked(_NAME, request.name)),
            *("-S", "/bin/bash"),
            *("-r", "n"),
            *("-j", "y"),
            *("-o", _checked(_PATH, request.log_path)),
            *("-wd", _checked(_PATH, request.directory)),
            *("-q", _checked(_OBJECT, resources.partition)),
            *("-l", ",".join(limits)),
        ]
        if resources.cores > 1:
            options += ["-pe", self._profile.parallel_environment, str(resources.cores)]
        if resources.account is not None:
            options += ["-P", _checked(_OBJECT, resources.account)]
        if resources.reservation is not None:
            if not _RESERVATION.fullmatch(resources.reservation):
                refused = text("A reservation of this cluster is named by its number.")
                raise RequestRejected(refused, fields={"reservation": refused})
            options += ["-ar", resources.reservation]
        if resources.qos is not None:
            refused = text("This cluster has no QoS.")
            raise RequestRejected(refused, fields={"qos": refused})
        return options

    def _build_memory(self, request: JobRequest) -> str:
        mib = request.resources.memory.mib
        if self._profile.memory_per == "slot":
            # Rounded up: never less than was asked for.
            mib = -(-mib // request.resources.cores)
        return f"{self._profile.memory_complex}={mib}M"

    def _build_gpus(self, request: JobRequest) -> str:
        gpus, cores = request.resources.gpus, request.resources.cores
        if gpus is None or self._profile.gpu_complex is None or gpus.kind is not None:
            refused = text("These GPUs are not possible here.")
            raise RequestRejected(refused, fields={"gpus": refused})
        if self._profile.gpu_per == "job":
            return f"{self._profile.gpu_complex}={gpus.count}"
        if gpus.count % cores:
            refused = text("Here the number of GPUs must be a multiple of the number of cores.")
            raise RequestRejected(refused, fields={"gpus": refused})
        return f"{self._profile.gpu_complex}={gpus.count // cores}"

    def build_cancel(self, job: JobId) -> list[str]:
        """``qdel`` of one job; says on stdout what it did."""
        return self._effect("qdel", _checked(_JOB_ID, job))

    def build_queue(self, users: Collection[str] | None = None) -> list[str]:
        """``qstat`` for the jobs of these users (``None``: of all) that have not ended.

        qstat cannot select by id but in ``-j``, which gives no state and is far larger.
        """
        named = "*" if users is None else ",".join(_checked(_USER, user) for user in users)
        return self._query("qstat", "-u", named, "-s", "prs", "-r", "-xml")

    def build_queue_of(self, user: str) -> list[str]:
        """``qstat`` for the jobs of one user, and the last ended ones (``finished_jobs``)."""
        return self._query("qstat", "-u", _checked(_USER, user), "-s", "prsz", "-r", "-xml")

    def build_reasons(self, jobs: Collection[JobId]) -> list[str]:
        """``qstat -j``: why these jobs wait or could not be started."""
        return self._query("qstat", "-xml", "-j", ",".join(_checked(_JOB_ID, job) for job in jobs))

    def build_accounting(self, job: JobId) -> list[str]:
        """``qacct`` for one job."""
        return self._query("qacct", "-j", _checked(_JOB_ID, job))

    def build_accounting_by_name(self, user: str, name: str) -> list[str]:
        """``qacct`` for the jobs of that name and user of the last days."""
        return self._query(
            *("qacct", "-o", _checked(_USER, user), "-d", str(NAMED_DAYS)),
            *("-j", _checked(_NAME, name)),
        )

    def build_queue_instances(self) -> list[str]:
        """``qstat -f``: all queue instances, what is free, and what running jobs hold."""
        attributes = ["slots", "mem_total", "h_rt"]
        if self._profile.gpu_complex is not None:
            attributes.append(self._profile.gpu_complex)
        return self._query(
            *("qstat", "-f", "-F", ",".join(attributes), "-u", "*", "-s", "rs", "-r", "-xml")
        )

    def build_queue_configurations(self) -> list[str]:
        """``qconf -sq`` for all queues."""
        return self._query("qconf", "-sq", "*")

    def build_project_names(self) -> list[str]:
        """``qconf -sprjl``."""
        return self._query("qconf", "-sprjl")

    def build_projects(self, names: Collection[str]) -> list[str]:
        """``qconf -sprj`` for each of these projects."""
        checked = [_checked(_OBJECT, name) for name in names]
        words = self._words("qconf", ["-sprj", *checked])
        # What stands before the program, if anything, says where the cluster is.
        split = len(words) - len(checked) - 2
        argv = [*words[:split], "sh", "-c", EACH_LINE, "sh", *words[split:]]
        return build_argv(QUERY_LINE, argv[0], argv[1:])

    def build_access_lists(self, names: Collection[str]) -> list[str]:
        """``qconf -su`` for these access lists."""
        return self._query("qconf", "-su", ",".join(_checked(_OBJECT, name) for name in names))

    def build_user(self, user: str) -> list[str]:
        """``qconf -suser``: the default project of a user."""
        return self._query("qconf", "-suser", _checked(_USER, user))

    def build_reservation_ids(self) -> list[str]:
        """``qrstat`` for all advance reservations."""
        return self._query("qrstat", "-u", "*", "-xml")

    def build_reservations(self, ids: Collection[str]) -> list[str]:
        """``qrstat`` for the details of these advance reservations."""
        numbers = ",".join(_checked(_RESERVATION, one) for one in ids)
        return self._query("qrstat", "-ar", numbers, "-xml")

    def build_groups(self, user: str) -> list[str]:
        """``id`` for the POSIX groups of a user, on the login node."""
        return build_argv(QUERY_LINE, "id", ["-Gn", "--", _checked(_USER, user)])

    def build_version(self) -> list[str]:
        """``qstat -help``, whose first line is the version; does not ask the qmaster."""
        return self._query("qstat", "-help")


def program_name(argv: Sequence[str]) -> str:
    """The Grid Engine program that a built argv runs, without its directory."""
    names = [Path(word).name for word in argv[4:]]
    return next((name for name in names if name.startswith("q")), names[0])


def _checked(pattern: re.Pattern[str], value: str) -> str:
    if pattern.fullmatch(value) is None:
        raise ClusterRefused(
            text("A name given to the scheduler is not usable."), detail=ascii(value[:80])
        )
    return value
