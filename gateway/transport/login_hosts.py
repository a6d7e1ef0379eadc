"""Which login host to try, and when to leave sshd alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final, TypeVar

from gateway.errors import ClusterRefused, ClusterUnavailable, GatewayError
from gateway.profiles.models import LoginHost
from gateway.text import Text, text
from gateway.transport.base import Actor
from gateway.transport.failures import HOST_KEY

PUT_BACK_SECONDS: Final = 30.0
# sshd_config(5) PerSourcePenalties (9.8 and later): 5 s for each refused sign-in, enforced from
# 15 s on against our whole address. Three in a row and we wait longer than that.
REFUSALS: Final = 3
PAUSE_SECONDS: Final = 30.0
# A compute node refuses until it has heard of the job (pam_slurm_adopt): that takes a moment.
NODE_PAUSES: Final = (1.0, 2.0, 5.0, 10.0)

A = TypeVar("A")
B = TypeVar("B")


@dataclass(slots=True)
class _Host:
    host: LoginHost
    put_back_until: float = 0.0
    failure: GatewayError | None = None
    failed_at: float = 0.0
    trial: asyncio.Lock = field(default_factory=asyncio.Lock)


class LoginHosts:
    """The login hosts in their order; one that failed goes last for half a minute.

    A host that failed is tried by one caller at a time; those who waited meanwhile share a fresh
    failure instead of waiting for one of their own.
    """

    def __init__(
        self, hosts: Sequence[LoginHost], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hosts = [_Host(host) for host in hosts]
        self._clock = clock

    def now(self) -> float:
        """The time by the clock of :meth:`try_in_order`."""
        return self._clock()

    async def try_in_order(
        self, open_host: Callable[[LoginHost], Awaitable[tuple[A, B]]], *, asked_at: float
    ) -> tuple[LoginHost, A, B]:
        """Return the first host that opens, and what ``open_host`` returned.

        ``asked_at`` is when the caller began to want it: a failure since then is the answer.

        Unreachable hosts and hosts with a wrong key are passed over; any other error is final.
        A wrong host key is told before a host that is merely away.
        """
        errors: list[GatewayError] = []
        now = self._clock()
        for host in sorted(self._hosts, key=lambda h: h.put_back_until > now):
            try:
                return (host.host, *await self._try(host, open_host, asked_at))
            except (ClusterUnavailable, ClusterRefused) as error:
                if not (isinstance(error, ClusterUnavailable) or error.reason == HOST_KEY.reason):
                    raise
                errors.append(error)
        raise next((e for e in errors if isinstance(e, ClusterRefused)), errors[0])

    async def _try(
        self,
        host: _Host,
        open_host: Callable[[LoginHost], Awaitable[tuple[A, B]]],
        asked_at: float,
    ) -> tuple[A, B]:
        if host.put_back_until <= self._clock():
            return await self._attempt(host, open_host)
        async with host.trial:
            if host.failure is not None and host.failed_at > asked_at:
                raise host.failure
            return await self._attempt(host, open_host)

    async def _attempt(
        self, host: _Host, open_host: Callable[[LoginHost], Awaitable[tuple[A, B]]]
    ) -> tuple[A, B]:
        try:
            opened = await open_host(host.host)
        except (ClusterUnavailable, ClusterRefused) as error:
            if isinstance(error, ClusterUnavailable) or error.reason == HOST_KEY.reason:
                host.failed_at = self._clock()
                host.put_back_until = host.failed_at + PUT_BACK_SECONDS
                host.failure = error
            raise
        host.put_back_until = 0.0
        host.failure = None
        return opened


@dataclass(slots=True)
class _Refusals:
    count: int = 0
    pause_until: float = 0.0


class SignInGuard:
    """Counts refused sign-ins per actor and place, and pauses after three in a row: half a minute
    at a login host; at a compute node a second at first, and longer with each further one.

    Without it one stale account could have the gateway's address banned for everybody.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refusals: dict[tuple[Actor, str], _Refusals] = {}

    def check(self, actor: Actor, place: str, where: Text) -> None:
        """Raise ``ClusterRefused`` (reason ``sign_in_paused``) while the pause lasts."""
        refusals = self._refusals.get((actor, place))
        if refusals is None:
            return
        left = refusals.pause_until - self._clock()
        if left > 0:
            raise ClusterRefused(
                text(
                    "The sign-in as {account} was refused {count} times in a row by {where}; it "
                    "is not tried again for {seconds} seconds.",
                    account=actor.name,
                    count=refusals.count,
                    where=where,
                    seconds=max(1, ceil(left)),
                ),
                reason="sign_in_paused",
            )

    def refused(self, actor: Actor, place: str, *, node: bool = False) -> None:
        """Note one refused sign-in; ``node``: by a compute node."""
        refusals = self._refusals.setdefault((actor, place), _Refusals())
        refusals.count += 1
        further = refusals.count - REFUSALS
        if further >= 0:
            pause = NODE_PAUSES[min(further, len(NODE_PAUSES) - 1)] if node else PAUSE_SECONDS
            refusals.pause_until = self._clock() + pause

    def admitted(self, actor: Actor, place: str) -> None:
        """Note a sign-in that worked: the count starts again."""
        self._refusals.pop((actor, place), None)
