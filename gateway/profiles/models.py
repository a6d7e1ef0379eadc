"""The cluster profile: one YAML file per cluster, one model.

Amounts carry their unit (``8h``, ``20G``); a bare number is refused. Unknown keys are refused.
Paths are relative to the profile's own directory.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.fields import Duration, Host, Memory, Name, Port

Resource = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$")]
MODULE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,127}", re.ASCII)


class Model(BaseModel):
    """Base of everything admins write: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Title(Model):
    """A short text in English and French."""

    en: str = Field(min_length=1, max_length=200, description="English text")
    fr: str = Field(min_length=1, max_length=200, description="French text")


class _SchedulerProfile(Model):
    kind: str
    bin_directory: Path | None = Field(
        default=None, description="where its commands are on the login node, when not on PATH"
    )
    accounting: bool = Field(
        default=True,
        description="whether the cluster keeps accounts (Slurm: slurmdbd; Grid Engine: qacct;"
        " PBS has none)",
    )
    command_timeout: Duration = Field(
        default=timedelta(seconds=30), description="bound on one scheduler command"
    )


class SlurmSchedulerProfile(_SchedulerProfile):
    """Slurm, and how it is asked."""

    kind: Literal["slurm"] = Field(description="the scheduler of this cluster")


class PbsSchedulerProfile(_SchedulerProfile):
    """OpenPBS or PBS Professional, and how it is asked."""

    kind: Literal["pbs"] = Field(description="the scheduler of this cluster")
    request_style: Literal["select", "resources"] = Field(
        default="select",
        description="how amounts are asked for: -l select=1:ncpus=…, or the old -l ncpus=…",
    )
    place: Annotated[str, Field(pattern=r"^[a-z][a-z:=_-]{1,60}$")] | None = Field(
        default=None, description="-l place=…, with request_style select"
    )
    account_option: Literal["project", "account"] = Field(
        default="project", description="what an account is to qsub: -P (project) or -A (account)"
    )
    gpu_resource: Resource = Field(default="ngpus", description="resource that counts GPUs")
    gpu_kind_resource: Resource | None = Field(
        default=None, description="resource that names the kind of GPU of a node, if there is one"
    )


class GridEngineSchedulerProfile(_SchedulerProfile):
    """Grid Engine, and how it is asked."""

    kind: Literal["gridengine"] = Field(description="the scheduler of this cluster")
    parallel_environment: Name = Field(
        description="parallel environment on one node, for jobs of more than one core"
    )
    memory_complex: Resource = Field(default="h_vmem", description="complex that limits memory")
    memory_per: Literal["slot", "job"] = Field(
        default="slot", description="what the memory complex counts for; slot: consumable YES"
    )
    gpu_complex: Resource | None = Field(
        default=None, description="complex that counts GPUs; null where there are none"
    )
    gpu_per: Literal["slot", "job"] = Field(
        default="job", description="what the GPU complex counts for; job: consumable JOB"
    )
    root: Annotated[str, Field(pattern=r"^/[A-Za-z0-9/_.-]{0,200}$")] | None = Field(
        default=None, description="SGE_ROOT, when the accounts on the login node do not have it set"
    )
    cell: Name = Field(default="default", description="SGE_CELL, used together with root")


SCHEDULER_KINDS: Final = ("slurm", "pbs", "gridengine")
SchedulerProfile = Annotated[
    SlurmSchedulerProfile | PbsSchedulerProfile | GridEngineSchedulerProfile,
    Field(discriminator="kind"),
]


class LoginHost(Model):
    """One login node."""

    host: Host = Field(description="name or address")
    port: Port = Field(default=22, description="port of its sshd")


class LoginProfile(Model):
    """How the login nodes are reached: over SSH."""

    kind: Literal["ssh"] = "ssh"
    hosts: tuple[LoginHost, ...] = Field(min_length=1, description="tried in order")
    host_key_alias: Host | None = Field(
        default=None, description="name to look up in known_hosts for all login hosts"
    )
    known_hosts: Path = Field(
        description="file with the host keys (or @cert-authority lines) of login and compute nodes"
    )
    bastion: LoginHost | None = Field(
        default=None, description="a host to go through, entered as the tunnel account"
    )
    connect_timeout: Duration = Field(
        default=timedelta(seconds=10), description="bound on reaching and signing in"
    )
    max_sessions: int = Field(
        default=8, ge=1, le=100, description="channels at once on one connection (sshd MaxSessions)"
    )
    max_startups: int = Field(
        default=6, ge=1, le=100, description="handshakes at once (sshd MaxStartups)"
    )


class Certificate(Model):
    """Sign in with short-lived user certificates from the signer."""

    kind: Literal["certificate"]


class KeyFile(Model):
    """Sign in with a private key that lies in a file."""

    kind: Literal["key_file"]
    path: Path = Field(description="private key, mode 0600, without a passphrase")


Credential = Annotated[Certificate | KeyFile, Field(discriminator="kind")]


class UserRole(Model):
    """Acts as the cluster user: submit, cancel, the compute-node end of the tunnel."""

    credential: Certificate = Field(default=Certificate(kind="certificate"))


class ServiceRole(Model):
    """An account of the gateway on the cluster."""

    name: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = Field(
        description="POSIX name of the account"
    )
    credential: Credential = Field(default=Certificate(kind="certificate"))


class RolesProfile(Model):
    """The three roles and their credentials; one account may hold two of them."""

    user: UserRole = Field(default=UserRole(), description="acts as the cluster user")
    observer: ServiceRole = Field(description="asks the scheduler; must see the jobs of all users")
    tunnel: ServiceRole | None = Field(
        default=None,
        description="forwards through the login node; without it each user's own account does",
    )


class TunnelProfile(Model):
    """How the notebook is reached."""

    mode: Literal["compute_ssh"] = Field(default="compute_ssh", description="see the tunnel guide")
    node_address: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]*\{node\}[A-Za-z0-9.-]*$")] = Field(
        default="{node}",
        description="address of a compute node, as the login node resolves it, and its name in "
        "known_hosts; {node} is the scheduler's name for it",
    )
    compute_port: Port = Field(default=22, description="port of sshd on compute nodes")
    socket_directory: Annotated[str, Field(pattern=r"^/[a-z0-9/_.-]{0,40}$")] = Field(
        default="/tmp",  # noqa: S108 - the agent makes its own 0700 directory in it
        description="node-local directory for the agent's sockets; all lower case, short",
    )


class PartitionProfile(Model):
    """What users may ask for in one partition; the live limits narrow it, never widen it."""

    title: Title | None = Field(default=None, description="shown instead of the name")
    max_walltime: Duration = Field(description="longest walltime offered")
    default_walltime: Duration = Field(default=timedelta(hours=1), description="filled in the form")
    max_cores: int = Field(default=1, ge=1, le=4096, description="most cores offered")
    max_memory: Memory = Field(description="most memory offered")
    max_gpus: int = Field(default=0, ge=0, le=64, description="most GPUs offered")

    @model_validator(mode="after")
    def _check_default(self) -> Self:
        if self.default_walltime > self.max_walltime:
            raise ValueError("default_walltime is longer than max_walltime")
        return self


class EnvironmentProfile(Model):
    """A software environment in which the server runs."""

    title: Title = Field(description="shown in the form")
    setup: tuple[str, ...] = Field(
        default=(), description="shell lines run first in the job, written by the admin"
    )
    modules: tuple[str, ...] = Field(
        default=(), description="environment modules to load, in order"
    )
    command: tuple[str, ...] = Field(
        default=("jupyterhub-singleuser",), min_length=1, description="the server: an argv"
    )
    arguments: tuple[str, ...] = Field(default=(), description="further arguments of the server")
    agent_python: str = Field(
        default="/usr/bin/python3", description="Python 3.8 or later that runs the agent"
    )
    interface: Literal["lab", "notebook"] = Field(default="lab", description="first page opened")

    @model_validator(mode="after")
    def _check_modules(self) -> Self:
        for module in self.modules:
            if not MODULE.fullmatch(module):
                raise ValueError(f'"{module}" is not a module name')
        return self


class ClusterProfile(Model):
    """One cluster."""

    name: Name = Field(description="short name, used in addresses and logs")
    title: Title = Field(description="shown to users")
    scheduler: SchedulerProfile
    login: LoginProfile
    roles: RolesProfile
    tunnel: TunnelProfile = Field(default=TunnelProfile())
    launch_directory: Annotated[str, Field(pattern=r"^[A-Za-z0-9._][A-Za-z0-9/_.-]{0,100}$")] = (
        Field(
            default=".local/state/landfall",
            description="directory of the agent and of launches, below each user's home",
        )
    )
    partitions: dict[Name, PartitionProfile] = Field(min_length=1)
    default_partition: Name | None = Field(default=None, description="first one when not named")
    accounts: Literal["from_scheduler", "none"] | tuple[Name, ...] = Field(
        default="from_scheduler", description="what users may charge"
    )
    environments: dict[Name, EnvironmentProfile] = Field(min_length=1)
    job_template: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*\.j2$")] = Field(
        default="",
        validate_default=False,
        description="template, below a template directory; when not named, notebook.sh.j2 in the"
        " directory of the scheduler's kind",
    )
    start_deadline: Duration = Field(
        default=timedelta(minutes=5),
        description="a job that runs this long without being reached once has failed",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_template(cls, values: Any) -> Any:
        match values:
            case {"job_template": _}:
                return values
            case {"scheduler": {"kind": str(kind)}} | {"scheduler": _SchedulerProfile(kind=kind)}:
                if kind in SCHEDULER_KINDS:
                    return {**values, "job_template": f"{kind}/notebook.sh.j2"}
        return values

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        if self.default_partition and self.default_partition not in self.partitions:
            raise ValueError(
                f'default_partition "{self.default_partition}" is not among partitions'
            )
        if ".." in self.job_template.split("/") or ".." in self.launch_directory.split("/"):
            raise ValueError("paths may not contain ..")
        return self
