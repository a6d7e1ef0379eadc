from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
from pathlib import Path

import pytest

from tests.unit.remote.agents import LAUNCH, Control, RunningAgent, run_agent

SECRET = {"SECRET_TOKEN": "deadbeefcafe", "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/"}


async def started(agent: RunningAgent, **environment: str) -> Control:
    control = await agent.connect()
    control.hello()
    control.start({**SECRET, **environment}, "--extra=1")
    return control


async def listening(agent: RunningAgent, **environment: str) -> Control:
    control = await started(agent, **environment)
    await control.wait_phase("listening")
    return control


async def ask(agent: RunningAgent, question: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(await agent.directory() / "nb.sock")
    writer.write(question)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def hub(path: Path, name: bytes) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name + b":" + await reader.read())
        writer.close()

    return await asyncio.start_unix_server(answer, path)


async def test_announcement_and_directory_are_private() -> None:
    async with run_agent() as agent:
        announcement = await agent.announcement()
        assert announcement.pop("directory").startswith(str(agent.root / "s" / "lf"))
        assert re.fullmatch(r"[0-9a-f]{32}", announcement.pop("nonce"))
        assert announcement == {
            "launch_id": LAUNCH,
            "protocol": 1,
            "host": os.uname().nodename,
            "pid": agent.process.pid,
            "port": None,
            "key_sha256": None,
        }
        directory = await agent.directory()
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in (directory, *directory.iterdir(), *(agent.root / "launch").iterdir())
        }
        assert modes == {
            directory.name: 0o700,
            "agent.sock": 0o600,
            "hub.sock": 0o600,
            "announcement.json": 0o600,
        }


async def test_the_whole_life_of_a_session() -> None:
    async with run_agent(environment={"FROM_JOB": "yes", "TOKEN": "old"}) as agent:
        announcement = await agent.announcement()
        control = await agent.connect()
        assert await control.receive() == {
            "type": "hello",
            "protocol": 1,
            "launch_id": LAUNCH,
            "nonce": announcement["nonce"],
            "phase": "waiting",
        }
        control.hello()
        control.send(type="ping")
        assert await control.receive() == {"type": "pong"}
        control.start({**SECRET, "TOKEN": "new", "PATH": "/hub", "HOME": "/hub"}, "--extra=1")
        phases = [await control.wait_phase(phase) for phase in ("starting", "listening")]
        assert [message["start_id"] for message in phases] == ["s1", "s1"]
        assert await ask(agent, b"hello") == b"hello"
        control.send(type="stop")
        assert await control.wait_phase("ended") == {
            "type": "phase",
            "phase": "ended",
            "start_id": "s1",
            "exit_status": 0,
            "words": "The server was stopped.",
        }
        assert await control.receive() is None
        assert await agent.wait() == 0
        directory = announcement["directory"]
        stub = json.loads(re.findall(r"STUB (.*)", agent.log)[0])
        assert stub == {
            "argv": [
                "--extra=1",
                "--KernelManager.transport=ipc",
                f"--ServerApp.sock={directory}/nb.sock",
            ],
            "cwd": str(agent.root / "home"),
            "umask": 0o077,
        }
        environment = json.loads(re.findall(r"ENV (.*)", agent.log)[0])
        assert environment["FROM_JOB"] == "yes"
        assert environment["TOKEN"] == "new"
        assert environment["PATH"] == os.environ["PATH"]
        assert environment["HOME"] == str(agent.root / "home")
        assert environment["JUPYTER_RUNTIME_DIR"] == f"{directory}/r"
        assert environment["JUPYTERHUB_SERVICE_URL"] == "http://127.0.0.1:8888/user/alice/"
        assert not Path(directory).exists()
        assert list((agent.root / "launch").iterdir()) == []
        assert "landfall: error" not in agent.log
        assert SECRET["SECRET_TOKEN"] not in agent.log


async def test_secrets_are_only_in_the_environment_of_the_server() -> None:
    async with run_agent() as agent:
        await listening(agent)
        secret = SECRET["SECRET_TOKEN"].encode()
        holders = []
        for process in Path("/proc").iterdir():
            try:
                if int(process.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]) in (
                    agent.process.pid,
                    os.getpid(),
                ):
                    assert secret not in process.joinpath("cmdline").read_bytes()
                    if secret in process.joinpath("environ").read_bytes():
                        holders.append(process.name)
            except (OSError, ValueError):
                continue
        assert len(holders) == 1
        assert holders != [str(agent.process.pid)]
        for path in agent.root.rglob("*"):
            assert not path.is_file() or secret not in path.read_bytes()


async def test_a_second_start_changes_nothing() -> None:
    async with run_agent() as agent:
        control = await listening(agent)
        control.start({"TOKEN": "other"}, start_id="s2")
        message = await control.receive()
        assert message is not None
        assert (message["phase"], message["start_id"]) == ("listening", "s1")
        assert agent.log.count("STUB") == 1


async def test_the_server_outlives_its_control_stream_and_meets_the_next() -> None:
    async with run_agent() as agent:
        first = await listening(agent)
        first.writer.close()
        await agent.wait_log("The tunnel is gone")
        assert await ask(agent, b"still there") == b"still there"
        second = await agent.connect()
        hello = await second.receive()
        assert hello is not None
        assert (hello["phase"], hello["start_id"]) == ("listening", "s1")


async def test_the_newest_control_stream_wins() -> None:
    async with run_agent() as agent:
        first = await listening(agent)
        second = await agent.connect()
        await second.receive()
        first.send(type="ping")
        assert await first.receive() == {"type": "pong"}
        second.hello("hub-2.sock")
        assert await first.receive() is None
        second.send(type="ping")
        assert await second.receive() == {"type": "pong"}
        assert "The tunnel is gone" not in agent.log


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b"\xff\xfe\n",
        b'{"type": "unknown"}\n',
        b'{"type": "stop"}\n',
        b'{"type": "start", "start_id": "x", "environment": {}, "arguments": []}\n',
        b'{"type": "hello", "protocol": 2, "launch_id": "0123456789abcdef"}\n',
        b'{"type": "hello", "protocol": 1, "launch_id": "x", "hub_socket": "hub-1.sock"}\n',
        b'{"type": "hello", "protocol": 1, "launch_id": "0123456789abcdef"}\n',
        b'{"type": "hello", "protocol": 1, "launch_id": "0123456789abcdef",'
        b' "hub_socket": "../hub-1.sock"}\n',
        b'{"type": "hello", "protocol": 1, "launch_id": "0123456789abcdef",'
        b' "hub_socket": "hub.sock"}\n',
        b"[" * 60000 + b"\n",
        b"x" * 70000 + b"\n",
    ],
)
async def test_a_malformed_message_closes_only_its_own_stream(data: bytes) -> None:
    async with run_agent() as agent:
        bad = await agent.connect()
        await bad.receive()
        bad.send_raw(data)
        assert await bad.receive() is None
        control = await listening(agent)
        control.send(type="stop")
        assert await agent.wait() == 0
        assert "Traceback" not in agent.log


@pytest.mark.parametrize(
    "start",
    [
        {"environment": {"A": "b"}},
        {"start_id": "x", "environment": {"A=B": "topsecret"}},
        {"start_id": "x", "environment": {"A": "topsecret\0"}},
        {"start_id": "x", "environment": {"A": 1}},
        {"start_id": "x", "environment": {"A": "b"}, "arguments": "topsecret"},
        {"start_id": "x", "environment": {"A": "b"}, "arguments": [None]},
        {"start_id": "x", "environment": None},
    ],
)
async def test_a_malformed_start_is_refused_without_showing_it(start: dict[str, object]) -> None:
    async with run_agent() as agent:
        control = await agent.connect()
        await control.receive()
        control.hello()
        control.send(type="start", **start)
        assert await control.receive() is None
        assert "topsecret" not in agent.log
        hello = await (await agent.connect()).receive()
        assert hello is not None
        assert hello["phase"] == "waiting"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_server_and_cleans_up(number: signal.Signals) -> None:
    async with run_agent() as agent:
        control = await listening(agent)
        directory = await agent.directory()
        agent.process.send_signal(number)
        assert (await control.wait_phase("ended"))["exit_status"] == 0
        assert await agent.wait() == 128 + number
        assert not directory.exists()


async def test_a_signal_while_waiting() -> None:
    async with run_agent() as agent:
        directory = await agent.directory()
        agent.process.send_signal(signal.SIGTERM)
        assert await agent.wait() == 143
        assert not directory.exists()


async def test_notices_of_the_scheduler_do_not_end_the_session() -> None:
    async with run_agent() as agent:
        await listening(agent)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCONT):
            agent.process.send_signal(number)
        await agent.wait_log("SIGHUP received")
        assert await ask(agent, b"there") == b"there"


async def test_a_server_that_does_not_heed_sigterm_is_killed() -> None:
    async with run_agent() as agent:
        control = await listening(agent, STUB="stubborn")
        control.send(type="stop")
        assert await agent.wait() == 0
        assert "The server has ended." in agent.log


async def test_a_server_that_crashes_at_once() -> None:
    async with run_agent() as agent:
        control = await started(agent, STUB="crash")
        ended = await control.wait_phase("ended")
        assert ended["exit_status"] == 3
        assert "exit status 3 before it was ready" in ended["words"]
        assert await agent.wait() == 3
        assert "landfall: error server_failed: The server ended with exit status 3" in agent.log


async def test_a_server_that_is_killed() -> None:
    async with run_agent() as agent:
        control = await started(agent, STUB="segfault")
        assert (await control.wait_phase("ended"))["exit_status"] == 137
        assert await agent.wait() == 137
        assert "landfall: error server_killed" in agent.log


@pytest.mark.parametrize(("word", "status"), [(b"end", 0), (b"fail", 4)])
async def test_a_server_that_ends_by_itself_ends_the_job(word: bytes, status: int) -> None:
    async with run_agent() as agent:
        control = await listening(agent)
        assert await ask(agent, word) == b""
        assert (await control.wait_phase("ended"))["exit_status"] == status
        assert await agent.wait() == status
        assert ("landfall: error" in agent.log) == bool(status)


async def test_hub_sock_follows_the_newest_tunnel() -> None:
    async with run_agent() as agent:
        directory = await agent.directory()
        one = await hub(directory / "hub-1.sock", b"one")
        control = await listening(agent)
        assert await ask(agent, b"hub") == b"one:question"
        one.close()
        control.writer.close()
        await agent.wait_log("The tunnel is gone")
        # Asked while there is no tunnel: answered by the next one.
        answer = asyncio.create_task(ask(agent, b"hub"))
        await asyncio.sleep(0.3)
        assert not answer.done()
        two = await hub(directory / "hub-2.sock", b"two")
        (await agent.connect()).hello("hub-2.sock")
        assert await answer == b"two:question"
        assert sorted(path.name for path in directory.glob("hub*")) == ["hub-2.sock", "hub.sock"]
        two.close()


async def test_hub_sock_waits_for_a_socket_that_is_named_too_early() -> None:
    async with run_agent() as agent:
        await listening(agent)
        answer = asyncio.create_task(ask(agent, b"hub"))
        await asyncio.sleep(0.3)
        server = await hub(await agent.directory() / "hub-1.sock", b"one")
        assert await answer == b"one:question"
        server.close()
