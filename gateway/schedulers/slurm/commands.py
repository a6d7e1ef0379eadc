"""Builds the argv of every Slurm command. Pure.

Sources: sbatch(1), squeue(1), scancel(1), sacct(1), sacctmgr(1), sinfo(1), scontrol(1) of 22.05.8
and 26.05.3. Only options that both take are used.

Each command runs under a fixed ``sh`` line with an environment of its own, so that no ``SBATCH_*``,
``SLURM_*``, ``SQUEUE_*``, ``SACCT_*``, ``SINFO_*`` or ``SCANCEL_*`` variable of the account changes
what it does. Queries print times in UTC and end with :data:`ANSWERED`, so that half an answer is
recognised.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from gateway.errors import ClusterRefused
from gateway.schedulers.command_environment import (
    build_argv,
    build_effect_line,
    build_query_line,
)
from gateway.text import text
from gateway.values.jobs import JobId, JobRequest
from gateway.values.resources import GpuRequest, format_walltime

# SLURM_CONF says where the cluster is.
EFFECT_LINE: Final = build_effect_line("SLURM_CONF")
QUERY_LINE: Final = build_query_line("SLURM_CONF")

# No field of these can be set by a user to what they like: the job's name, comment or account would
# let one user print a line about another's job.
# The reason comes last: it is the scheduler's free text.
QUEUE_FORMAT: Final = "%i|%T|%B|%N|%P|%u|%V|%S|%e|%r|."
EXIT_FORMAT: Final = "JobID:32,exit_code:32"
ACCOUNTING_FIELDS: Final = (
    "JobIDRaw",
    "State",
    "ExitCode",
    "Reason",
    "Timelimit",
    "ReqMem",
    "Submit",
    "Start",
    "End",
    "User",
    "UID",
    "Partition",
    "NodeList",
)
NAMED_FIELDS: Final = ("JobIDRaw", "Submit", "User")
ASSOCIATION_FIELDS: Final = (
    "User",
    "DefaultAccount",
    "Cluster",
    "Account",
    "Partition",
    "QOS",
    "DefaultQOS",
    "MaxJobs",
    "MaxSubmitJobs",
    "MaxWall",
)
NODE_FORMAT: Final = (
    "NodeList:128,Partition:128,StateLong:32,CPUsState:48,AllocMem:24,Memory:24,"
    "Gres:512,GresUsed:512"
)
# A job older than this is not looked for by name.
NAMED_WINDOW: Final = "now-7days"

_JOB_ID: Final = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}", re.ASCII)
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


def is_job_id(value: str) -> bool:
    """Whether ``value`` is the id of one whole Slurm job."""
    return _JOB_ID.fullmatch(value) is not None


class SlurmCommands:
    """Builders of one cluster; ``bin_directory`` is where its commands lie when not on PATH.

    They raise :class:`~gateway.errors.ClusterRefused` for a job id, job name or user name that
    cannot be one, since it would change the meaning of the command.
    """

    def __init__(self, bin_directory: Path | None = None) -> None:
        self._bin = bin_directory

    def _program(self, name: str) -> str:
        return name if self._bin is None else str(self._bin / name)

    def _query(self, program: str, *arguments: str) -> list[str]:
        return build_argv(QUERY_LINE, self._program(program), arguments)

    def _effect(self, program: str, *arguments: str) -> list[str]:
        return build_argv(EFFECT_LINE, self._program(program), arguments)

    def build_submit(self, request: JobRequest) -> list[str]:
        """``sbatch`` with the script on stdin; prints the job id.

        The job starts from the clean environment of the command and not with ``--export=NONE``:
        that would be handed on to every ``srun`` inside the session, which then lacks even PATH.
        """
        resources = request.resources
        options = [
            "--parsable",
            f"--job-name={_checked(_NAME, request.name)}",
            f"--output={_escape_path(request.log_path)}",
            "--open-mode=append",
            "--export=ALL",
            "--no-requeue",
            f"--partition={resources.partition}",
            f"--time={format_walltime(resources.walltime)}",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={resources.cores}",
            f"--mem={resources.memory.mib}M",
        ]
        if resources.gpus is not None and resources.gpus.count:
            options.append(f"--gres={_build_gres(resources.gpus)}")
        for name, value in (
            ("account", resources.account),
            ("qos", resources.qos),
            ("reservation", resources.reservation),
        ):
            if value is not None:
                options.append(f"--{name}={value}")
        return self._effect("sbatch", *options)

    def build_cancel(self, job: JobId) -> list[str]:
        """``scancel`` of one job."""
        return self._effect("scancel", _checked(_JOB_ID, job))

    def build_queue(self, jobs: Collection[JobId]) -> list[str]:
        """``squeue`` for these jobs, in any state.

        A single unknown id is an error to squeue, one among others is not: a single id is given
        twice.
        """
        return self._query(
            "squeue", "--noheader", "--states=all", f"--format={QUEUE_FORMAT}", _jobs(jobs)
        )

    def build_queue_by_name(self, name: str) -> list[str]:
        """``squeue`` for the caller's own jobs of that name, in any state and any partition.

        Without ``--all`` those of hidden partitions are left out, and would be submitted again.
        """
        return self._query(
            "squeue",
            "--all",
            "--noheader",
            "--me",
            "--states=all",
            f"--format={QUEUE_FORMAT}",
            f"--name={_checked(_NAME, name)}",
        )

    def build_exit_code(self, job: JobId) -> list[str]:
        """``squeue`` for the exit code of a job that has ended."""
        return self._query(
            "squeue", "--noheader", "--states=all", f"--Format={EXIT_FORMAT}", _jobs([job])
        )

    def build_accounting(self, job: JobId) -> list[str]:
        """``sacct`` for one job (the allocation, no steps)."""
        return self._query(
            "sacct",
            "--allocations",
            "--noheader",
            "--parsable",
            f"--jobs={_checked(_JOB_ID, job)}",
            f"--format={','.join(ACCOUNTING_FIELDS)}",
        )

    def build_accounting_by_name(self, user: str, name: str) -> list[str]:
        """``sacct`` for the jobs of that name and user."""
        return self._query(
            "sacct",
            "--allocations",
            "--noheader",
            "--parsable",
            f"--user={_checked(_USER, user)}",
            f"--name={_checked(_NAME, name)}",
            f"--starttime={NAMED_WINDOW}",
            f"--format={','.join(NAMED_FIELDS)}",
        )

    def build_partitions(self) -> list[str]:
        """``scontrol show partition``, hidden ones and those of other groups too."""
        return self._query("scontrol", "--all", "--oneliner", "show", "partition")

    def build_nodes(self) -> list[str]:
        """``sinfo``, one line a node and partition."""
        return self._query("sinfo", "--all", "--Node", "--noheader", f"--Format={NODE_FORMAT}")

    def build_associations(self, user: str) -> list[str]:
        """``sacctmgr`` for what a user may charge."""
        return self._query(
            "sacctmgr",
            "--readonly",
            "--noheader",
            "--parsable",
            "show",
            "user",
            f"name={_checked(_USER, user)}",
            "withassoc",
            f"format={','.join(ASSOCIATION_FIELDS)}",
        )

    def build_cluster_name(self) -> list[str]:
        """``scontrol show config``: holds the cluster's name."""
        return self._query("scontrol", "show", "config")

    def build_reservations(self) -> list[str]:
        """``scontrol show reservation``."""
        return self._query("scontrol", "--all", "--oneliner", "show", "reservation")

    def build_groups(self, user: str) -> list[str]:
        """``id`` for the POSIX groups of a user, on the login node."""
        return build_argv(QUERY_LINE, "id", ["-Gn", "--", _checked(_USER, user)])

    def build_version(self) -> list[str]:
        """``sinfo --version``; does not ask the controller."""
        return self._query("sinfo", "--version")


def _build_gres(gpus: GpuRequest) -> str:
    # --gres, since --gpus-per-node needs select/cons_tres.
    return f"gpu:{gpus.count}" if gpus.kind is None else f"gpu:{gpus.kind}:{gpus.count}"


def _jobs(jobs: Collection[JobId]) -> str:
    ids = [_checked(_JOB_ID, job) for job in jobs]
    return "--jobs=" + ",".join(ids * 2 if len(ids) == 1 else ids)


def _checked(pattern: re.Pattern[str], value: str) -> str:
    if pattern.fullmatch(value) is None:
        raise ClusterRefused(
            text("A name given to the scheduler is not usable."), detail=ascii(value[:80])
        )
    return value


def _escape_path(path: str) -> str:
    # sbatch(1), filename pattern: %% is a percent sign.
    return path.replace("%", "%%")
