"""The control stream against an agent of this test, and its messages."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    ClusterRefused,
    ClusterUnavailable,
    ConfigurationError,
    GatewayError,
    NotAnnounced,
)
from gateway.tunnel import control as control_module
from gateway.tunnel.base import AgentPhase, ServerStart
from gateway.tunnel.control import ControlStream
from gateway.tunnel.messages import (
    LINE_LIMIT,
    AgentHello,
    Pong,
    build_environment,
    build_hello,
    build_start,
    parse_agent_message,
)
from gateway.values.endpoints import Announcement

ANNOUNCEMENT = Announcement("00aa11bb22cc33dd", 1, "c1", 7, "/tmp/lfabc", "0" * 32)
HELLO: dict[str, Any] = {
    "type": "hello",
    "protocol": 1,
    "launch_id": "00aa11bb22cc33dd",
    "nonce": "0" * 32,
    "phase": "waiting",
}
START = ServerStart("s1", {"TOKEN": "very-secret"}, ("--x",))


@dataclass
class Agent:
    """The far end, by hand."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    control: ControlStream

    def say(self, **message: object) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            message: dict[str, Any] = json.loads(await self.reader.readline())
        return message

    async def greet(self) -> None:
        self.say(**HELLO)
        await self.control.hear_hello()
        await self.control.say_hello("hub-1.sock")
        await self.hear()


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    near, far = socket.socketpair()
    near_reader, near_writer = await asyncio.open_unix_connection(sock=near)
    far_reader, far_writer = await asyncio.open_unix_connection(sock=far)
    control = ControlStream(
        near_reader, near_writer, ANNOUNCEMENT, ping_interval=0.2, pong_timeout=0.3
    )
    yield Agent(far_reader, far_writer, control)
    near_writer.close()
    far_writer.close()


@pytest.fixture
async def running(agent: Agent) -> AsyncIterator[Agent]:
    await agent.greet()
    task = asyncio.ensure_future(agent.control.run())
    yield agent
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_hello(agent: Agent) -> None:
    agent.say(**{**HELLO, "phase": "listening", "start_id": "s0"})
    assert await agent.control.hear_hello() == AgentPhase("listening", "s0")
    await agent.control.say_hello("hub-1.sock")
    assert await agent.hear() == {
        "type": "hello",
        "protocol": 1,
        "launch_id": "00aa11bb22cc33dd",
        "hub_socket": "hub-1.sock",
    }


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"nonce": "1" * 32}, NotAnnounced),
        ({"nonce": ""}, NotAnnounced),
        ({"nonce": "é" * 32}, NotAnnounced),
        ({"launch_id": "ffffffffffffffff"}, ClusterRefused),
        ({"protocol": 2}, ClusterRefused),
        ({"protocol": True}, ClusterRefused),
        ({"nonce": None}, ClusterRefused),
        ({"type": "phase"}, ClusterRefused),
        ({"type": "pong"}, ClusterRefused),
        ({"type": "other"}, ClusterRefused),
        ({"phase": "flying"}, ClusterRefused),
    ],
)
async def test_wrong_hello_gets_nothing(
    agent: Agent, changes: dict[str, object], kind: type[GatewayError]
) -> None:
    agent.say(**{**HELLO, **changes})
    with pytest.raises(kind):
        await agent.control.hear_hello()
    for sending in (agent.control.send_start(START), agent.control.say_hello("hub-1.sock")):
        with pytest.raises(RuntimeError):
            await sending
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await agent.reader.read(1)


async def test_silent_agent(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "ANSWER_TIMEOUT", 0.2)
    with pytest.raises(ClusterUnavailable):
        await agent.control.hear_hello()


async def test_agent_that_leaves(agent: Agent) -> None:
    agent.writer.close()
    with pytest.raises(ClusterUnavailable):
        await agent.control.hear_hello()


async def test_endless_line(agent: Agent) -> None:
    agent.writer.write(b"x" * (LINE_LIMIT + 4096))
    with pytest.raises(ClusterRefused):
        await agent.control.hear_hello()


async def test_start_is_answered(running: Agent) -> None:
    sending = asyncio.ensure_future(running.control.send_start(START))
    message = await running.hear()
    assert message == {
        "type": "start",
        "start_id": "s1",
        "environment": {"TOKEN": "very-secret"},
        "arguments": ["--x"],
    }
    running.say(type="phase", phase="waiting")
    running.say(type="phase", phase="starting", start_id="s1")
    assert await sending == AgentPhase("starting", "s1")


async def test_start_without_an_answer(running: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "ANSWER_TIMEOUT", 0.1)
    with pytest.raises(ClusterUnavailable):
        await running.control.send_start(START)


async def test_start_while_the_agent_leaves(running: Agent) -> None:
    sending = asyncio.ensure_future(running.control.send_start(START))
    await running.hear()
    running.writer.close()
    with pytest.raises(ClusterUnavailable):
        await asyncio.wait_for(sending, 2)


async def test_stop(running: Agent) -> None:
    await running.control.send_stop()
    assert await running.hear() == {"type": "stop"}


async def test_phases_are_told(running: Agent) -> None:
    waiting = asyncio.ensure_future(running.control.wait_phase_change(running.control.phase))
    running.say(type="news", of="a later protocol")
    running.say(
        type="phase", phase="ended", start_id="s1", exit_status=7, words="line\x1b[31m\nred"
    )
    assert await waiting == AgentPhase("ended", "s1", 7, "line [31m red")


async def test_pings_are_answered_or_it_is_lost(running: Agent) -> None:
    for _ in range(4):
        assert await running.hear() == {"type": "ping"}
        running.say(type="pong")
        assert not running.control.lost.is_set()
    await asyncio.wait_for(running.control.lost.wait(), 2)
    with pytest.raises(ClusterUnavailable):
        await running.control.wait_phase_change(running.control.phase)


async def test_rubbish_ends_it(running: Agent) -> None:
    running.writer.write(b"rubbish\n")
    await asyncio.wait_for(running.control.lost.wait(), 2)
    with pytest.raises(ClusterUnavailable) as caught:
        await running.control.send_stop()
    assert "not JSON" in caught.value.detail


async def test_cancelled_run_releases_who_waits(agent: Agent) -> None:
    await agent.greet()
    task = asyncio.ensure_future(agent.control.run())
    waiting = asyncio.ensure_future(agent.control.wait_phase_change(agent.control.phase))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(ClusterUnavailable):
        await asyncio.wait_for(waiting, 1)
    assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is (
        asyncio.CancelledError
    )


def test_start_too_large() -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_start(ServerStart("s", {"A": "secret" * 20_000}), "/tmp/x")
    assert "secret" not in str(caught.value)


def test_placeholder_is_replaced_everywhere() -> None:
    given_ = {
        "A": "http+unix://%2flandfall-hub-socket/hub/api",
        "B": "%2flandfall-hub-socket %2flandfall-hub-socket",
        "C": "plain",
    }
    assert build_environment(given_, "/tmp/lf_a.b-c") == {
        "A": "http+unix://%2ftmp%2flf_a.b-c%2fhub.sock/hub/api",
        "B": "%2ftmp%2flf_a.b-c%2fhub.sock %2ftmp%2flf_a.b-c%2fhub.sock",
        "C": "plain",
    }


@given(st.dictionaries(st.text(), st.text()), st.lists(st.text()))
def test_messages_are_one_line(environment: dict[str, str], arguments: list[str]) -> None:
    data = build_start(ServerStart("s1", environment, arguments), "/tmp/x")
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert json.loads(data)["arguments"] == arguments
    assert build_hello("a\nb", "c\n").count(b"\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"{}",
        b'{"type": 5}',
        b'{"type": "hello", "protocol": 1, "launch_id": 5, "nonce": "x", "phase": "waiting"}',
        b'{"type": "phase"}',
        b'{"type": "phase", "phase": "ended", "start_id": "a b"}',
        b'{"type": "phase", "phase": "ended", "exit_status": 1.5}',
        b'{"type": "phase", "phase": "ended", "exit_status": 1000}',
        b'{"type": "phase", "phase": "ended", "words": null}',
    ],
)
def test_improper_message(line: bytes) -> None:
    with pytest.raises(ClusterRefused):
        parse_agent_message(line)


@given(st.binary(max_size=2000))
def test_any_line(line: bytes) -> None:
    _parse_or_refuse(line)


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["hello", "phase", "pong", "x"])},
        optional={
            "protocol": st.integers() | st.text(),
            "launch_id": st.text() | st.none(),
            "nonce": st.text() | st.none(),
            "phase": st.sampled_from(["waiting", "listening", "x"]) | st.lists(st.text()),
            "start_id": st.text() | st.none() | st.integers(),
            "exit_status": st.integers() | st.none() | st.floats(),
            "words": st.text() | st.none(),
        },
    )
)
def test_any_message(message: dict[str, object]) -> None:
    _parse_or_refuse(json.dumps(message).encode())


def _parse_or_refuse(line: bytes) -> None:
    try:
        message = parse_agent_message(line)
    except ClusterRefused:
        return
    assert message is None or isinstance(message, AgentHello | AgentPhase | Pong)
