"""SSH connections of one cluster: opened once, shared, bounded, host keys always verified."""

from __future__ import annotations

import asyncio
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
from gateway.transport.connecting import (
    Watcher,
    close_connection,
    load_known_hosts,
    open_connection,
)
from gateway.transport.credentials import CredentialProvider
from gateway.transport.login_hosts import LoginHosts, SignInGuard

IDLE_SECONDS: Final = 60.0
# Waiting for a turn to shake hands, or for a free channel, is bounded too.
QUEUE_SECONDS: Final = 120.0
# A busy sshd drops new connections at random (MaxStartups): seconds until we knock again.
DROPPED_PAUSES: Final = (0.3, 1.0)


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
        bastion = profile.login.bastion
        self._bastions = LoginHosts([] if bastion is None else [bastion])
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
        asked_at = self._hosts.now()
        async with self._opening.setdefault(key, asyncio.Lock()):
            if (pooled := self._alive(key)) is not None:
                return pooled
            bastion = await self._bastion(asked_at)
            host, connection, client = await self._hosts.try_in_order(
                lambda host: self._open_login(actor, host.host, host.port, bastion),
                asked_at=asked_at,
            )
            where = text("login node {host}", host=host.host)
            return self._keep(key, connection, client, where)

    async def _open_login(
        self, actor: Actor, host: str, port: int, bastion: asyncssh.SSHClientConnection | None
    ) -> tuple[asyncssh.SSHClientConnection, Watcher]:
        where = text("login node {host}", host=host)
        self._guard.check(actor, "login", where)
        alias = self._profile.login.host_key_alias
        return await self._open(actor, host, port, where, via=bastion, alias=alias, scope="login")

    async def _bastion(self, asked_at: float) -> asyncssh.SSHClientConnection | None:
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
            _, connection, client = await self._bastions.try_in_order(
                lambda host: self._open(actor, host.host, host.port, where, scope="bastion"),
                asked_at=asked_at,
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
    ) -> tuple[asyncssh.SSHClientConnection, Watcher]:
        turns = self._handshakes.setdefault(
            (host, port), asyncio.Semaphore(self._profile.login.max_startups)
        )
        for pause in (*DROPPED_PAUSES, None):
            try:
                async with _turn(turns, where):
                    opened = await self._shake_hands(actor, host, port, where, node, via, alias)
            except GatewayError as error:
                if error.reason in (failures.SIGN_IN.reason, failures.SECOND_FACTOR.reason):
                    self._guard.refused(actor, scope or host, node=node is not None)
                if pause is None or error.reason != failures.DROPPED.reason:
                    raise
                await asyncio.sleep(pause)
            else:
                self._guard.admitted(actor, scope or host)
                return opened
        raise AssertionError("the last turn returns or raises")

    def _tunnel_actor(self) -> Actor | None:
        tunnel = self._profile.roles.tunnel
        return None if tunnel is None else Actor(Role.TUNNEL, tunnel.name)

    async def _shake_hands(
        self,
        actor: Actor,
        host: str,
        port: int,
        where: Text,
        node: str | None,
        via: asyncssh.SSHClientConnection | None,
        alias: str | None,
    ) -> tuple[asyncssh.SSHClientConnection, Watcher]:
        keys = await self._credentials.fetch_client_keys(actor, node=node)
        known_hosts = await asyncio.to_thread(load_known_hosts, self._profile.login.known_hosts)
        self._check_open()
        opened = await open_connection(
            host,
            port,
            where,
            user=actor.name,
            keys=keys,
            known_hosts=known_hosts,
            timeout=self._timeout,
            via=via,
            alias=alias,
        )
        if self._closed:
            await close_connection(opened[0])
        self._check_open()
        return opened

    def _check_open(self) -> None:
        if self._closed:
            raise ClusterUnavailable(text("The gateway is stopping."), reason="closed")

    # Keeping

    def _alive(self, key: tuple[str, Actor]) -> _Pooled | None:
        pooled = self._pooled.get(key)
        return None if pooled is None or pooled.connection.is_closed() else pooled

    def _keep(
        self,
        key: tuple[str, Actor],
        connection: asyncssh.SSHClientConnection,
        client: Watcher,
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
