"""The order of login hosts, and the pause after refused sign-ins."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError, GatewayError
from gateway.profiles.models import LoginHost
from gateway.text import text
from gateway.transport.base import Actor, Role
from gateway.transport.login_hosts import (
    NODE_PAUSES,
    PAUSE_SECONDS,
    PUT_BACK_SECONDS,
    REFUSALS,
    LoginHosts,
    SignInGuard,
)

DOWN = ClusterUnavailable(text("down"))
BAD_KEY = ClusterRefused(text("key"), reason="host_key")
REFUSED = ClusterRefused(text("no"), reason="sign_in")


class Far:
    def __init__(self) -> None:
        self.now = 100.0
        self.faults: dict[str, GatewayError] = {}
        self.tried: list[str] = []
        self.gate: asyncio.Event | None = None
        self.hosts = LoginHosts([LoginHost(host="a"), LoginHost(host="b")], clock=lambda: self.now)

    async def open(self, host: LoginHost) -> tuple[str, int]:
        self.tried.append(host.host)
        if self.gate is not None:
            await self.gate.wait()
        self.now += 0.001
        if host.host in self.faults:
            raise self.faults[host.host]
        return host.host, 1

    async def ask(self) -> str:
        self.tried.clear()
        _, name, _ = await self.hosts.try_in_order(self.open, asked_at=self.hosts.now())
        return name


async def test_first_host_is_taken() -> None:
    far = Far()
    assert await far.ask() == "a"
    assert far.tried == ["a"]


async def test_failed_host_is_put_back_for_a_while() -> None:
    far = Far()
    far.faults["a"] = DOWN
    assert await far.ask() == "b"
    assert far.tried == ["a", "b"]
    del far.faults["a"]
    assert await far.ask() == "b"
    assert far.tried == ["b"]
    far.now += PUT_BACK_SECONDS + 1
    assert await far.ask() == "a"


async def test_host_that_was_put_back_is_still_tried_last() -> None:
    far = Far()
    far.faults["a"] = DOWN
    await far.ask()
    far.faults = {"b": DOWN}
    assert await far.ask() == "a"
    assert far.tried == ["b", "a"]
    assert await far.ask() == "a"  # a works again, b is put back
    assert far.tried == ["a"]


async def test_wrong_key_is_told_first() -> None:
    far = Far()
    far.faults = {"a": DOWN, "b": BAD_KEY}
    with pytest.raises(ClusterRefused) as caught:
        await far.ask()
    assert caught.value is BAD_KEY
    far.faults = {"a": DOWN, "b": DOWN}
    with pytest.raises(ClusterUnavailable):
        await far.ask()


@pytest.mark.parametrize("fault", [REFUSED, ConfigurationError(text("x"))])
async def test_other_refusals_are_final(fault: GatewayError) -> None:
    far = Far()
    far.faults["a"] = fault
    with pytest.raises(type(fault)) as caught:
        await far.ask()
    assert caught.value is fault
    assert far.tried == ["a"]


async def test_one_tries_a_failed_host_and_the_others_share_its_answer() -> None:
    far = Far()
    far.faults = {"a": DOWN, "b": DOWN}
    with pytest.raises(ClusterUnavailable):
        await far.ask()
    far.tried.clear()
    far.gate = asyncio.Event()
    calls = [
        asyncio.ensure_future(far.hosts.try_in_order(far.open, asked_at=far.now)) for _ in range(5)
    ]
    await asyncio.sleep(0.01)
    far.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(r, ClusterUnavailable) for r in results)
    assert sorted(far.tried) == ["a", "b"]
    far.faults.clear()
    assert await far.ask() == "a"


def test_pause_after_three_refusals() -> None:
    now = 0.0
    guard = SignInGuard(clock=lambda: now)
    alice, bob = Actor(Role.USER, "alice"), Actor(Role.USER, "bob")
    where = text("login node x")
    for _ in range(REFUSALS):
        guard.check(alice, "login", where)
        guard.refused(alice, "login")
    with pytest.raises(ClusterRefused) as caught:
        guard.check(alice, "login", where)
    assert caught.value.reason == "sign_in_paused"
    assert "alice" in str(caught.value)
    assert "login node x" in str(caught.value)
    guard.check(bob, "login", where)
    guard.check(alice, "node1", where)
    now = PAUSE_SECONDS + 1
    guard.check(alice, "login", where)
    guard.refused(alice, "login")  # one trial, then the pause again
    with pytest.raises(ClusterRefused):
        guard.check(alice, "login", where)
    guard.admitted(alice, "login")
    guard.check(alice, "login", where)


def test_a_node_that_has_not_heard_of_the_job_is_asked_again_soon() -> None:
    now = 0.0
    guard = SignInGuard(clock=lambda: now)
    alice, where = Actor(Role.USER, "alice"), text("compute node c1")
    for _ in range(REFUSALS - 1):
        guard.refused(alice, "c1", node=True)
    guard.check(alice, "c1", where)
    for pause in (*NODE_PAUSES, NODE_PAUSES[-1], NODE_PAUSES[-1]):
        guard.refused(alice, "c1", node=True)
        now += pause - 0.1
        with pytest.raises(ClusterRefused) as caught:
            guard.check(alice, "c1", where)
        assert "1 seconds" in str(caught.value)
        now += 0.2
        guard.check(alice, "c1", where)
    guard.admitted(alice, "c1")
    for _ in range(REFUSALS - 1):
        guard.refused(alice, "c1", node=True)
    guard.check(alice, "c1", where)
