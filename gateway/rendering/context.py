"""What a job template sees: a fixed set of typed values, never the raw request.

The names here are what template authors write; they are part of the product's interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from gateway.profiles.models import ClusterProfile, EnvironmentProfile
from gateway.rendering.quoting import ShellCode
from gateway.values.jobs import JobRequest
from gateway.values.resources import ResourceRequest, format_walltime


@dataclass(frozen=True, slots=True)
class ClusterContext:
    """``cluster``: ``name`` and ``scheduler`` (``slurm``, ``pbs`` or ``gridengine``)."""

    name: str
    scheduler: str


@dataclass(frozen=True, slots=True)
class JobContext:
    """``job``: ids and places. All paths are absolute, but ``start_directory`` may be relative to
    the home directory and is ``None`` for the home directory itself."""

    launch_id: str
    name: str
    user: str
    directory: str
    log_path: str
    agent_path: str
    socket_directory: str
    start_directory: str | None


@dataclass(frozen=True, slots=True)
class ResourcesContext:
    """``resources``: what the user chose; it already stands on the submit command's argv.

    ``walltime`` is ``[D-]HH:MM:SS``, ``memory_mib`` whole MiB, ``gpus`` a count (0: none).
    """

    partition: str
    walltime: str
    walltime_seconds: int
    cores: int
    memory_mib: int
    gpus: int
    gpu_kind: str | None
    account: str | None
    qos: str | None
    reservation: str | None

    @classmethod
    def of(cls, request: ResourceRequest) -> Self:
        """Flatten ``request``."""
        gpus = request.gpus
        return cls(
            partition=request.partition,
            walltime=format_walltime(request.walltime),
            walltime_seconds=request.walltime // timedelta(seconds=1),
            cores=request.cores,
            memory_mib=request.memory.mib,
            gpus=gpus.count if gpus else 0,
            gpu_kind=gpus.kind if gpus else None,
            account=request.account,
            qos=request.qos,
            reservation=request.reservation,
        )


@dataclass(frozen=True, slots=True)
class EnvironmentContext:
    """``environment``: the software environment. ``setup`` holds lines of shell code."""

    name: str
    setup: tuple[ShellCode, ...]
    modules: tuple[str, ...]
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    agent_python: str
    interface: str

    @classmethod
    def of(cls, name: str, profile: EnvironmentProfile) -> Self:
        """Take what templates need from ``profile``."""
        return cls(
            name=name,
            setup=tuple(ShellCode(line) for line in profile.setup),
            modules=profile.modules,
            command=profile.command,
            arguments=profile.arguments,
            agent_python=profile.agent_python,
            interface=profile.interface,
        )


def build_context(profile: ClusterProfile, request: JobRequest) -> dict[str, object]:
    """Return the variables of a job template: ``cluster``, ``job``, ``resources``, ``environment``.

    :raises KeyError: the profile has no environment of that name.
    """
    return {
        "cluster": ClusterContext(name=profile.name, scheduler=profile.scheduler.kind),
        "job": JobContext(
            launch_id=request.launch_id,
            name=request.name,
            user=request.user.name,
            directory=request.directory,
            log_path=request.log_path,
            agent_path=request.agent_path,
            socket_directory=profile.tunnel.socket_directory,
            start_directory=request.start_directory,
        ),
        "resources": ResourcesContext.of(request.resources),
        "environment": EnvironmentContext.of(
            request.environment, profile.environments[request.environment]
        ),
    }
