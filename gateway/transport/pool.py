"""SSH connections of one cluster: opened once, shared, bounded, host keys always verified."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncssh

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError, GatewayError
from gateway.profiles.models import ClusterProfile
from gateway.text import Text, text
from gateway.transport import failures
from gateway.transport.base import Actor, Role
from gateway.transport.credentials import CredentialProvider
from gateway.transport.login_hosts import LoginHosts, SignInGuard

log = logging.getLogger(__name__)

# Measured on two cores: the GCM cipher carries about three times what chacha20 does in asyncssh.
CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
)
KEEPALIVE_SECONDS: Final = 5
KEEPALIVE_COUNT: Final = 3
IDLE_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 3.0
# Waiting for a turn to shake hands, or for a free channel, is bounded too.
QUEUE_SECONDS: Final = 120.0
# A busy sshd drops new connections at random (MaxStartups): seconds until we knock again.
DROPPED_PAUSES: Final = (0.3, 1.0)


class _Client(asyncssh.SSHClient):
    """Watches one connection: how far the sign-in came, whether more than our key was asked for,
    and its end.

    asyncssh asks for a password only after the keys; when the keys were not refused before
    (``public_key_auth_requested`` means: have you another?), the server took ours and wants more.
    """

    def __init__(self) -> None:
        self.sign_in_begun = False
        self.keys_refused = False
        self.more_asked = False
        self._lost = False
        self._when_lost: list[Callable[[], object]] = []

    def when_lost(self, call: Callable[[], object]) -> None:
        """Call it when the connection is lost or closed; now, if it is already."""
        if self._lost:
            call()
        else:
            self._when_lost.append(call)

    def begin_auth(self, username: str) -> None:
        self.sign_in_begun = True

    def public_key_auth_requested(self) -> None:
        self.keys_refused = True

    def password_auth_requested(self) -> None:
        self.more_asked = self.more_asked or not self.keys_refused

    def kbdint_auth_requested(self) -> None:
        self.more_asked = self.more_asked or not self.keys_refused

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        calls, self._when_lost = self._when_lost, []
        for call in calls:
            call()


@dataclass(eq=False, slots=True)
class _Pooled:
    connection: asyncssh.SSHClientConnection
    where: Text
    channels: asyncio.Semaphore
    in_use: int = 0
    abandoned: int = 0
    idle_timer: asyncio.TimerHandle | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """A connection with one of its channels reserved; ``where`` names the host in sentences."""

    connection: asyncssh.SSHClientConnection
    where: Text
    abandon: Callable[[], None]
    """Call it when a command may go on running there although its channel was closed."""
    retire: Callable[[], None]
    """Call it when the connection takes no more channels: the next command opens another."""


class SshPool:
    """Connections of one cluster, one per actor (and one to the bastion).

    Users' connections are closed when they were idle for a minute; the observer's and the
    tunnel account's stay. A lost connection is replaced at the next use. Raises only
    ``GatewayError``.
    """

    def __init__(
        self,
        profile: ClusterProfile,
        credentials: CredentialProvider,
        *,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._profile = profile
        self._credentials = credentials
        self._idle_seconds = idle_seconds
        self._timeout = profile.login.connect_timeout.total_seconds()
        self._pooled: dict[tuple[str, Actor], _Pooled] = {}
        self._opening: dict[tuple[str, Actor], asyncio.Lock] = {}
        self._hosts = LoginHosts(profile.login.hosts)
        self._guard = SignInGuard()
        self._handshakes: dict[tuple[str, int], asyncio.Semaphore] = {}
        self._nodes: set[asyncssh.SSHClientConnection] = set()
        self._closed = False

    def count_connections(self) -> Counter[Role]:
        """How many connections are open now, by role; those to compute nodes are the users'."""
        counts = Counter(actor.role for _, actor in self._pooled)
        counts[Role.USER] += len(self._nodes)
        return counts

    async def login(self, actor: Actor) -> asyncssh.SSHClientConnection:
        """Return the actor's connection to a login node, opening it if need be.

        Use it at once: a user's connection without channels is closed after a minute.
        """
        pooled = await self._login(actor)
        self._touch(pooled, actor)
        return pooled.connection

    @asynccontextmanager
    async def lease(self, actor: Actor) -> AsyncIterator[Lease]:
        """Reserve one channel on the actor's login connection; waits while all are taken."""
        pooled = await self._login(actor)
        self._begin(pooled)
        try:
            async with _turn(pooled.channels, pooled.where):
                if pooled.connection.is_closed():
                    raise failures.build_error(failures.LOST, pooled.where)

                def abandon() -> None:
                    # sshd counts the session until its process ends: with too many of them the
                    # connection is worn out, and the next command opens another.
                    pooled.abandoned += 1
                    if pooled.abandoned > self._profile.login.max_sessions // 2:
                        self._forget(pooled)

                yield Lease(pooled.connection, pooled.where, abandon, lambda: self._forget(pooled))
        finally:
            self._end(pooled, actor)

    async def node(self, user: str, node: str) -> asyncssh.SSHClientConnection:
        """Open a new connection as ``user`` to the compute node that the scheduler calls
        ``node``, through the tunnel account's login connection (or the user's own). The caller
        closes it.
        """
        if not _is_node_name(node):
            raise ClusterRefused(
                text("The scheduler named a compute node in a way that is not understood."),
                detail=repr(node[:80]),
                reason="node_name",
            )
        tunnel = self._profile.tunnel
        address = tunnel.node_address.replace("{node}", node)
        actor = Actor(Role.USER, user)
        via = self._tunnel_actor() or actor
        where = text("compute node {node}", node=node)
        self._guard.check(actor, address, where)
        pooled = await self._login(via)
        self._begin(pooled)
        try:
            connection, client = await self._open(
                actor, address, tunnel.compute_port, where, node=node, via=pooled.connection
            )
        except BaseException:
            self._end(pooled, via)
            raise
        self._nodes.add(connection)
        client.when_lost(lambda: self._nodes.discard(connection))
        client.when_lost(lambda: self._end(pooled, via))
        return connection

    async def close(self) -> None:
        """Close every connection, those to compute nodes too; idempotent."""
        self._closed = True
        connections = [*self._nodes, *(p.connection for p in self._pooled.values())]
        for pooled in self._pooled.values():
            if pooled.idle_timer is not None:
                pooled.idle_timer.cancel()
        self._pooled.clear()
        self._nodes.clear()
        for connection in connections:
            connection.close()
        await asyncio.gather(*(close_connection(c) for c in connections))

    # Opening

    async def _login(self, actor: Actor) -> _Pooled:
        key = ("login", actor)
        if (pooled := self._alive(key)) is not None:
            return pooled
        async with self._opening.setdefault(key, asyncio.Lock()):
            if (pooled := self._alive(key)) is not None:
                return pooled
            bastion = await self._bastion()
            host, connection, client = await self._hosts.try_in_order(
                lambda host: self._open_login(actor, host.host, host.port, bastion)
            )
            where = text("login node {host}", host=host.host)
            return self._keep(key, connection, client, where)

    async def _open_login(
        self, actor: Actor, host: str, port: int, bastion: asyncssh.SSHClientConnection | None
    ) -> tuple[asyncssh.SSHClientConnection, _Client]:
        where = text("login node {host}", host=host)
        self._guard.check(actor, "login", where)
        alias = self._profile.login.host_key_alias
        return await self._open(actor, host, port, where, via=bastion, alias=alias, scope="login")

    async def _bastion(self) -> asyncssh.SSHClientConnection | None:
        bastion = self._profile.login.bastion
        if bastion is None:
            return None
        actor = self._tunnel_actor()
        if actor is None:
            raise ConfigurationError(
                text(
                    "The profile of cluster {cluster} has a bastion but no tunnel account to "
                    "enter it: add roles.tunnel.",
                    cluster=self._profile.name,
                )
            )
        key = ("bastion", actor)
        if (pooled := self._alive(key)) is not None:
            return pooled.connection
        async with self._opening.setdefault(key, asyncio.Lock()):
            if (pooled := self._alive(key)) is not None:
                return pooled.connection
            where = text("bastion {host}", host=bastion.host)
            self._guard.check(actor, "bastion", where)
            connection, client = await self._open(
                actor, bastion.host, bastion.port, where, scope="bastion"
            )
            return self._keep(key, connection, client, where).connection

    async def _open(
        self,
        actor: Actor,
        host: str,
        port: int,
        where: Text,
        *,
        node: str | None = None,
        via: asyncssh.SSHClientConnection | None = None,
        alias: str | None = None,
        scope: str | None = None,
    ) -> tuple[asyncssh.SSHClientConnection, _Client]:
        turns = self._handshakes.setdefault(
            (host, port), asyncio.Semaphore(self._profile.login.max_startups)
        )
        for pause in (*DROPPED_PAUSES, None):
            try:
                async with _turn(turns, where):
                    opened = await self._shake_hands(actor, host, port, where, node, via, alias)
            except GatewayError as error:
                if error.reason in (failures.SIGN_IN.reason, failures.SECOND_FACTOR.reason):
                    self._guard.refused(actor, scope or host)
                if pause is None or error.reason != failures.DROPPED.reason:
                    raise
                await asyncio.sleep(pause)
            else:
                self._guard.admitted(actor, scope or host)
                return opened
        raise AssertionError("the last turn returns or raises")

    async def _shake_hands(
        self,
        actor: Actor,
        host: str,
        port: int,
        where: Text,
        node: str | None,
        via: asyncssh.SSHClientConnection | None,
        alias: str | None,
    ) -> tuple[asyncssh.SSHClientConnection, _Client]:
        keys = await self._credentials.fetch_client_keys(actor, node=node)
        known_hosts = await asyncio.to_thread(self._load_known_hosts)
        if self._closed:
            raise ClusterUnavailable(text("The gateway is stopping."), reason="closed")
        client = _Client()
        try:
            with failures.ssh_failures(where):
                async with asyncio.timeout(self._timeout):
                    connection = await asyncssh.connect(
                        host,
                        port,
                        tunnel=via,
                        client_factory=lambda: client,
                        config=None,
                        agent_path=None,
                        agent_forwarding=False,
                        x11_forwarding=False,
                        gss_host=None,
                        username=actor.name,
                        client_keys=keys,
                        known_hosts=known_hosts,
                        host_key_alias=alias,
                        # Only the key is ever sent; the others tell that more was asked for.
                        preferred_auth="publickey,keyboard-interactive,password",
                        encryption_algs=CIPHERS,
                        compression_algs=None,
                        keepalive_interval=KEEPALIVE_SECONDS,
                        keepalive_count_max=KEEPALIVE_COUNT,
                        login_timeout=self._timeout,
                    )
        except GatewayError as error:
            raise self._explain(error, client, where) from error.__cause__
        if self._closed:
            await close_connection(connection)
            raise ClusterUnavailable(text("The gateway is stopping."), reason="closed")
        return connection, client

    def _explain(self, error: GatewayError, client: _Client, where: Text) -> GatewayError:
        if error.reason == failures.SIGN_IN.reason and client.more_asked:
            return failures.build_error(failures.SECOND_FACTOR, where, error.detail)
        if error.reason == failures.LOST.reason and not client.sign_in_begun:
            return failures.build_error(failures.DROPPED, where, error.detail)
        return error

    def _load_known_hosts(self) -> asyncssh.SSHKnownHosts:
        # Read at each connection: a changed file counts at once. It is never empty to asyncssh,
        # which would look into the home directory then.
        path = self._profile.login.known_hosts
        try:
            return asyncssh.import_known_hosts(path.read_text())
        except (OSError, ValueError) as exc:
            raise ConfigurationError(
                text(
                    "The file of host keys {path} of cluster {cluster} cannot be used.",
                    path=str(path),
                    cluster=self._profile.name,
                ),
                detail=str(exc),
                reason="known_hosts",
            ) from exc

    def _tunnel_actor(self) -> Actor | None:
        tunnel = self._profile.roles.tunnel
        return None if tunnel is None else Actor(Role.TUNNEL, tunnel.name)

    # Keeping

    def _alive(self, key: tuple[str, Actor]) -> _Pooled | None:
        pooled = self._pooled.get(key)
        return None if pooled is None or pooled.connection.is_closed() else pooled

    def _keep(
        self,
        key: tuple[str, Actor],
        connection: asyncssh.SSHClientConnection,
        client: _Client,
        where: Text,
    ) -> _Pooled:
        pooled = _Pooled(connection, where, asyncio.Semaphore(self._profile.login.max_sessions))
        self._pooled[key] = pooled
        client.when_lost(lambda: self._forget(pooled))
        return pooled

    def _forget(self, pooled: _Pooled) -> None:
        """Take it out of the pool; whoever still uses it may finish."""
        self._pooled = {k: v for k, v in self._pooled.items() if v is not pooled}
        if pooled.in_use == 0:
            pooled.connection.close()

    def _begin(self, pooled: _Pooled) -> None:
        pooled.in_use += 1
        if pooled.idle_timer is not None:
            pooled.idle_timer.cancel()
            pooled.idle_timer = None

    def _end(self, pooled: _Pooled, actor: Actor) -> None:
        pooled.in_use -= 1
        self._touch(pooled, actor)

    def _touch(self, pooled: _Pooled, actor: Actor) -> None:
        if pooled.idle_timer is not None:
            pooled.idle_timer.cancel()
            pooled.idle_timer = None
        if pooled.in_use > 0 or pooled.connection.is_closed():
            return
        if not any(p is pooled for p in self._pooled.values()):
            pooled.connection.close()
        elif actor.role is Role.USER:
            loop = asyncio.get_running_loop()
            pooled.idle_timer = loop.call_later(self._idle_seconds, self._forget, pooled)


async def close_connection(connection: asyncssh.SSHClientConnection) -> None:
    """Close and wait, for a few seconds at most, until it is closed; then cut it off."""
    connection.close()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.wait_closed()
    except TimeoutError:
        connection.abort()


def build_marker() -> str:
    """Return 32 random hex digits."""
    return secrets.token_hex(16)


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore, where: Text) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(QUEUE_SECONDS):
            await turns.acquire()
    except TimeoutError:
        raise ClusterUnavailable(
            text("Too many commands are waiting for {where}.", where=where), reason="busy"
        ) from None
    try:
        yield
    finally:
        turns.release()


def _is_node_name(node: str) -> bool:
    return (
        0 < len(node) < 254
        and node.isascii()
        and node[0].isalnum()
        and all(c.isalnum() or c in ".-_" for c in node)
    )
