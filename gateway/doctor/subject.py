"""The cluster under examination: the same parts as the connector's, put together for one visit."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.connector.wiring import build_edge, build_scheduler
from gateway.errors import ConfigurationError, GatewayError
from gateway.launch.cluster import Cluster
from gateway.profiles.loading import load_profiles
from gateway.profiles.models import Certificate, ClusterProfile, LoginHost
from gateway.remote.bundle import build_agent
from gateway.rendering.job_log import parse_job_log
from gateway.rendering.renderer import Renderer, shipped_template_directory
from gateway.schedulers.base import Partition
from gateway.schedulers.monitor import JobMonitor
from gateway.settings import Settings, load_settings
from gateway.signer.client import SignerClient
from gateway.text import text
from gateway.transport.base import Actor, Role
from gateway.transport.credentials import CredentialProvider, build_credentials
from gateway.transport.pool import SshPool
from gateway.transport.ssh import SshTransport
from gateway.tunnel.compute_ssh import ComputeSshOpener
from gateway.tunnel.hub_api import HubApiFilter


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a cluster, and the cluster user for whom it is tried, if any."""

    config: Path
    cluster: str
    user: str | None = None
    environment: str | None = None
    wait_seconds: float = 120.0


def load_subject(question: Question) -> tuple[Settings, ClusterProfile]:
    """Read settings and profiles.

    :raises ConfigurationError: they have faults, or the question names what is not in them.
    """
    settings = load_settings(question.config)
    profiles = load_profiles(settings.profiles_directory)
    profile = profiles.get(question.cluster)
    if profile is None:
        raise ConfigurationError(
            text(
                "There is no cluster {cluster}; there are: {names}.",
                cluster=question.cluster,
                names=", ".join(sorted(profiles)),
            ),
            reason="cluster",
        )
    if question.environment is not None and question.environment not in profile.environments:
        raise ConfigurationError(
            text(
                "The cluster {cluster} has no environment {environment}; there are: {names}.",
                cluster=profile.name,
                environment=question.environment,
                names=", ".join(profile.environments),
            ),
            reason="environment",
        )
    return settings, profile


@dataclass(eq=False)
class Subject:
    """Async context: on leaving, every connection is closed.

    ``authority`` becomes the fingerprint of the user authority once a certificate was signed,
    ``unsigned`` the actors for whom none is, ``partitions`` what the scheduler said of them.
    """

    settings: Settings
    profile: ClusterProfile
    question: Question
    authority: str | None = None
    unsigned: set[Actor] = field(default_factory=set)
    partitions: tuple[Partition, ...] = ()
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _pools: dict[LoginHost, SshPool] = field(default_factory=dict)
    _sign_ins: dict[tuple[LoginHost, Actor], GatewayError | None] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        directory = Path(tempfile.mkdtemp(prefix="landfall-doctor-"))
        self.directory = directory
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self.signer = SignerClient(self.settings.signer_socket)
        self.credentials: CredentialProvider = build_credentials(self.profile, self.signer)
        self.pool = self.open_pool(self.profile)
        self.transport = SshTransport(self.pool)
        self.observer = Actor(Role.OBSERVER, self.profile.roles.observer.name)
        self.scheduler = build_scheduler(self.transport, self.profile, self.observer)
        self.renderer = Renderer(
            [*self.settings.template_directories, shipped_template_directory()]
        )
        self.opener = ComputeSshOpener(self.pool, self.profile)
        self._stack.push_async_callback(self.opener.close)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def tunnel(self) -> Actor | None:
        """The account that forwards through the login node; the user's own without one."""
        role = self.profile.roles.tunnel
        return self.user if role is None else Actor(Role.TUNNEL, role.name)

    @property
    def user(self) -> Actor | None:
        """The cluster user for whom it is tried."""
        name = self.question.user
        return None if name is None else Actor(Role.USER, name)

    @property
    def actors(self) -> tuple[Actor, ...]:
        """Everybody who signs in, each once."""
        return tuple(
            dict.fromkeys(a for a in (self.observer, self.tunnel, self.user) if a is not None)
        )

    def uses_certificates(self, actor: Actor) -> bool:
        """Whether the actor's role signs in with the signer's certificates."""
        roles = self.profile.roles
        role = {Role.OBSERVER: roles.observer, Role.TUNNEL: roles.tunnel}.get(actor.role)
        return role is None or isinstance(role.credential, Certificate)

    async def try_sign_in(self, host: LoginHost, actor: Actor) -> GatewayError | None:
        """Sign in at this very login host; what went wrong, or ``None``. Tried once: a refused
        sign-in counts against the gateway's address at the sshd."""
        key = (host, actor)
        if key not in self._sign_ins:
            try:
                await self._pool_of(host).login(actor)
            except GatewayError as error:
                self._sign_ins[key] = error
            else:
                self._sign_ins[key] = None
        return self._sign_ins[key]

    def _pool_of(self, host: LoginHost) -> SshPool:
        if len(self.profile.login.hosts) == 1:
            return self.pool
        if host not in self._pools:
            login = self.profile.login.model_copy(update={"hosts": (host,)})
            alone = self.profile.model_copy(update={"login": login})
            self._pools[host] = self.open_pool(alone)
        return self._pools[host]

    def open_pool(self, profile: ClusterProfile) -> SshPool:
        """A pool for a changed profile; closed with the rest."""
        pool = SshPool(profile, self.credentials)
        self._stack.push_async_callback(pool.close)
        return pool

    def build_cluster(self, profile: ClusterProfile) -> Cluster:
        """The parts as a launch uses them; nothing of it watches or listens by itself."""
        return Cluster(
            profile=profile,
            transport=self.transport,
            scheduler=self.scheduler,
            monitor=JobMonitor(self.scheduler),
            renderer=self.renderer,
            opener=self.opener,
            observer=self.observer,
            agent_source=build_agent(),
            hub_api=HubApiFilter("http://127.0.0.1:1/hub/api", self.directory / "unused"),
            build_edge=build_edge,
            parse_job_log=parse_job_log,
            admission=asyncio.Semaphore(1),
        )
