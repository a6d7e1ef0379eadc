"""What the connector remembers: launches, their history, sealed secrets, edge addresses.

Every change of state is one transaction that checks that the step is allowed and appends to the
history. "One launch per server" is a unique index, so that no race can make two.
"""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import GatewayError
from gateway.launch.database import Database
from gateway.launch.rows import (
    NewLaunch,
    build_changes,
    build_identity,
    build_words,
    parse_record,
)
from gateway.launch.secrets import SecretBox, StartSecrets
from gateway.launch.states import (
    ADOPTABLE_STATES,
    LIVE_STATES,
    TRANSITIONS,
    LaunchRecord,
    LaunchState,
)
from gateway.launch.tables import edge_addresses, launches, starts, transitions
from gateway.text import Words, text
from gateway.values.endpoints import EdgeAddress

# Below the range from which Linux takes ports for outgoing connections (32768 to 60999).
EDGE_PORTS: Final = range(21000, 31000)
EDGE_REST: Final = timedelta(hours=24)
_TRIES: Final = 50


class ChangedMeanwhile(GatewayError):
    """The launch is no longer in a state from which the step is allowed: look again."""

    transient = True
    default_reason = "changed_meanwhile"


@dataclass(frozen=True, slots=True)
class Ensured:
    """The launch that a server has now. ``given`` are the secrets that its server has been given
    already, ``None`` while those of the latest request still count."""

    record: LaunchRecord
    adopted: bool
    given: StartSecrets | None = None


class LaunchStore:
    """Reads and writes launches.

    Raises :class:`~gateway.launch.database.DatabaseFailed` when the database does not work;
    nothing was written then.
    """

    def __init__(
        self,
        database: Database,
        box: SecretBox,
        *,
        edge_network: str = "127.88.0.0/16",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._box = box
        self._edges = ipaddress.IPv4Network(edge_network)
        self.now = now

    async def ensure(self, new: NewLaunch, start: StartSecrets, words: Words) -> Ensured:
        """Adopt the server's launch, or make one, in one transaction.

        The secrets replace those of an adopted launch as long as none were offered to its agent.
        """
        for _ in range(_TRIES):
            try:
                return await self._database.write(
                    lambda connection: self._ensure(connection, new, start, words)
                )
            except IntegrityError:
                # Another process took the server or the address first: look again.
                continue
        raise GatewayError(text("No free address was found for this server."), reason="edge")

    async def _ensure(
        self, connection: AsyncConnection, new: NewLaunch, start: StartSecrets, words: Words
    ) -> Ensured:
        found = await self._adopt(connection, new.identity.name, new.server_name, start)
        if found is not None:
            return found
        now = self.now()
        edge = await self._take_edge(connection, new.id)
        await connection.execute(
            insert(launches).values(
                id=new.id,
                cluster=new.cluster,
                hub_user=new.identity.name,
                identity=build_identity(new.identity),
                server_name=new.server_name,
                cluster_user=new.cluster_user.name,
                cluster_uid=new.cluster_user.uid,
                options=new.options,
                base_url=new.base_url,
                edge_ip=edge.ip,
                edge_port=edge.port,
                state=LaunchState.REQUESTED.value,
                created_at=now,
                changed_at=now,
                restarts=0,
                tunnel_mode="compute_ssh",
                log_tail="",
                token_id=start.token_id,
            )
        )
        await self._append(connection, new.id, LaunchState.REQUESTED, words, new.identity.name)
        await self._add_start(connection, new.id, start)
        return Ensured(await self._fetch(connection, new.id), adopted=False)

    async def adopt(self, hub_user: str, server_name: str, start: StartSecrets) -> Ensured | None:
        """The adopting half of :meth:`ensure`; ``None`` when the server has no launch."""
        return await self._database.write(
            lambda connection: self._adopt(connection, hub_user, server_name, start)
        )

    async def _adopt(
        self, connection: AsyncConnection, hub_user: str, server_name: str, start: StartSecrets
    ) -> Ensured | None:
        row = (
            await connection.execute(
                select(launches.c.id, launches.c.offered_start_id, launches.c.running_start_id)
                .where(launches.c.hub_user == hub_user, launches.c.server_name == server_name)
                .where(launches.c.state.in_(_values(ADOPTABLE_STATES)))
            )
        ).one_or_none()
        if row is None:
            return None
        given = await self._given(connection, row.id, row.running_start_id or row.offered_start_id)
        if given is None:
            await self._add_start(connection, row.id, start)
            await connection.execute(
                update(launches).where(launches.c.id == row.id).values(token_id=start.token_id)
            )
        return Ensured(await self._fetch(connection, row.id), adopted=True, given=given)

    async def transition(
        self, launch_id: str, to: LaunchState, words: Words, *, by: str = "", **changes: Any
    ) -> LaunchRecord:
        """Take one step, with ``changes`` of other fields, and return the new record.

        An ended launch loses its secrets, and its address rests for a day.

        :raises ChangedMeanwhile: from the present state the step is not allowed.
        """
        values = build_changes(changes)

        async def step(connection: AsyncConnection) -> LaunchRecord:
            present = LaunchState(
                (
                    await connection.execute(
                        select(launches.c.state).where(launches.c.id == launch_id).with_for_update()
                    )
                ).scalar_one()
            )
            if to not in TRANSITIONS[present]:
                raise ChangedMeanwhile(
                    text("The server's state has changed meanwhile."),
                    detail=f"{launch_id}: {present} -> {to}",
                )
            await connection.execute(
                update(launches)
                .where(launches.c.id == launch_id)
                .values(state=to.value, changed_at=self.now(), **values)
            )
            await self._append(connection, launch_id, to, words, by)
            if to is LaunchState.ENDED:
                await self._forget(connection, launch_id)
            return await self._fetch(connection, launch_id)

        return await self._database.write(step)

    async def update(self, launch_id: str, **changes: Any) -> LaunchRecord:
        """Write fields without a step; the record of an ended launch stays as it is, but for its
        ``log_tail``."""
        values = build_changes(changes)
        allowed = _values(LIVE_STATES if values.keys() - {"log_tail"} else frozenset(LaunchState))

        async def write(connection: AsyncConnection) -> LaunchRecord:
            await connection.execute(
                update(launches)
                .where(launches.c.id == launch_id, launches.c.state.in_(allowed))
                .values(**values)
            )
            return await self._fetch(connection, launch_id)

        return await self._database.write(write)

    async def offer(self, launch_id: str) -> StartSecrets | None:
        """Record that the newest secrets are about to be given to the agent, and return them; from
        then on they stand for this run. Those offered before are returned again."""

        async def write(connection: AsyncConnection) -> StartSecrets | None:
            offered = (
                await connection.execute(
                    select(launches.c.offered_start_id).where(launches.c.id == launch_id)
                )
            ).scalar_one()
            given = await self._given(connection, launch_id, offered)
            if given is not None:
                return given
            row = (
                await connection.execute(
                    select(starts.c.start_id, starts.c.sealed)
                    .where(starts.c.launch_id == launch_id)
                    .order_by(starts.c.number.desc())
                    .limit(1)
                )
            ).one_or_none()
            if row is None:
                return None
            await connection.execute(
                update(launches)
                .where(launches.c.id == launch_id)
                .values(offered_start_id=row.start_id)
            )
            return self._box.unseal(launch_id, row.start_id, row.sealed)

        return await self._database.write(write)

    async def fetch_start(self, launch_id: str, start_id: str | None) -> StartSecrets | None:
        """One set of secrets, or the newest; ``None`` when there is none (any more)."""
        query = select(starts.c.start_id, starts.c.sealed).where(starts.c.launch_id == launch_id)
        if start_id is not None:
            query = query.where(starts.c.start_id == start_id)
        async with self._database.reading() as connection:
            row = (
                await connection.execute(query.order_by(starts.c.number.desc()).limit(1))
            ).one_or_none()
        return self._box.unseal(launch_id, row.start_id, row.sealed) if row else None

    async def fetch(self, launch_id: str) -> LaunchRecord | None:
        """One launch with its history."""
        async with self._database.reading() as connection:
            known = (
                await connection.execute(select(launches.c.id).where(launches.c.id == launch_id))
            ).one_or_none()
            return await self._fetch(connection, launch_id) if known else None

    async def find(
        self,
        *,
        hub_user: str | None = None,
        server_name: str | None = None,
        live: bool | None = None,
        limit: int = 500,
    ) -> list[LaunchRecord]:
        """Launches, newest first; ``None`` means any."""
        query = select(launches).order_by(launches.c.created_at.desc(), launches.c.id).limit(limit)
        if hub_user is not None:
            query = query.where(launches.c.hub_user == hub_user)
        if server_name is not None:
            query = query.where(launches.c.server_name == server_name)
        if live is not None:
            ended = launches.c.state == LaunchState.ENDED.value
            query = query.where(~ended if live else ended)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
            lines = (
                await connection.execute(
                    select(transitions)
                    .where(transitions.c.launch_id.in_([row["id"] for row in rows]))
                    .order_by(transitions.c.id)
                )
            ).mappings()
            history: dict[str, list[Mapping[str, Any]]] = {}
            for line in lines:
                history.setdefault(line["launch_id"], []).append(dict(line))
        return [parse_record(dict(row), history.get(row["id"], ())) for row in rows]

    async def close(self) -> None:
        """Close the database; idempotent."""
        await self._database.close()

    async def _fetch(self, connection: AsyncConnection, launch_id: str) -> LaunchRecord:
        row = (
            (await connection.execute(select(launches).where(launches.c.id == launch_id)))
            .mappings()
            .one()
        )
        history = (
            (
                await connection.execute(
                    select(transitions)
                    .where(transitions.c.launch_id == launch_id)
                    .order_by(transitions.c.id)
                )
            )
            .mappings()
            .all()
        )
        return parse_record(dict(row), [dict(line) for line in history])

    async def _append(
        self, connection: AsyncConnection, launch_id: str, state: LaunchState, words: Words, by: str
    ) -> None:
        await connection.execute(
            insert(transitions).values(
                launch_id=launch_id,
                at=self.now(),
                state=state.value,
                words=build_words(words),
                by=by,
            )
        )

    async def _add_start(
        self, connection: AsyncConnection, launch_id: str, start: StartSecrets
    ) -> None:
        await connection.execute(
            insert(starts).values(
                launch_id=launch_id,
                start_id=start.start_id,
                sealed=self._box.seal(launch_id, start),
                created_at=self.now(),
            )
        )

    async def _given(
        self, connection: AsyncConnection, launch_id: str, start_id: str | None
    ) -> StartSecrets | None:
        if start_id is None:
            return None
        row = (
            await connection.execute(
                select(starts.c.sealed)
                .where(starts.c.launch_id == launch_id)
                .where(starts.c.start_id == start_id)
            )
        ).one_or_none()
        return self._box.unseal(launch_id, start_id, row.sealed) if row else None

    async def _take_edge(self, connection: AsyncConnection, launch_id: str) -> EdgeAddress:
        await connection.execute(
            delete(edge_addresses).where(edge_addresses.c.released_at < self.now() - EDGE_REST)
        )
        for _ in range(_TRIES):
            # Address and port by chance: connectors that share a host rarely meet.
            ip = str(self._edges[random.randrange(2, self._edges.num_addresses - 1)])  # noqa: S311
            taken = await connection.execute(
                select(edge_addresses.c.ip).where(edge_addresses.c.ip == ip)
            )
            port = random.choice(EDGE_PORTS)  # noqa: S311
            if taken.one_or_none() is None and _can_listen(ip, port):
                await connection.execute(
                    insert(edge_addresses).values(ip=ip, port=port, launch_id=launch_id)
                )
                return EdgeAddress(ip, port)
        raise GatewayError(text("No free address was found for this server."), reason="edge")

    async def _forget(self, connection: AsyncConnection, launch_id: str) -> None:
        await connection.execute(delete(starts).where(starts.c.launch_id == launch_id))
        await connection.execute(
            update(edge_addresses)
            .where(edge_addresses.c.launch_id == launch_id)
            .values(released_at=self.now())
        )


def _can_listen(ip: str, port: int) -> bool:
    # A process that listens on all addresses of this host takes its port on ours too.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError:
            return False
    return True


def _values(states: frozenset[LaunchState]) -> list[str]:
    return sorted(state.value for state in states)
