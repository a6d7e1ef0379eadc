"""What the agent says when the job cannot go on: one marker line each, and an exit status."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.rendering.job_log import parse_job_log
from tests.unit.remote.agents import AGENT, SERVER, run_agent

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and change uid")


def marker(log: str) -> str:
    codes = re.findall(r"^landfall: error ([a-z_]+): .+$", log, re.MULTILINE)
    assert len(codes) == 1, log
    failure = parse_job_log(log)
    assert failure is not None
    assert failure.reason == codes[0]
    return str(codes[0])


@pytest.fixture
def short() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lft", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def full(short: Path) -> Iterator[Path]:
    """A file system without room."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(short)], check=True)
    try:
        with short.joinpath("filler").open("wb") as stream:
            while True:
                stream.write(b"x" * 4096)
                stream.flush()
    except OSError:
        pass
    yield short
    subprocess.run(["umount", str(short)], check=True)


async def test_a_command_that_is_not_there() -> None:
    async with run_agent(["no-such-server"]) as agent:
        assert await agent.wait() == 127
        assert marker(agent.log) == "command_not_found"
        assert list((agent.root / "s").iterdir()) == []


async def test_a_command_whose_interpreter_is_not_there(short: Path) -> None:
    program = short / "server"
    program.write_text("#!/no/such/python\n")
    program.chmod(0o755)
    async with run_agent([str(program)]) as agent:
        control = await agent.connect()
        control.hello()
        control.start({})
        ended = await control.wait_phase("ended")
        assert ended["exit_status"] == 126
        assert await agent.wait() == 126
        assert marker(agent.log) == "command_not_found"


@pytest.mark.parametrize("name", ["missing", "../..", "/etc", "link", "file"])
async def test_a_start_directory_that_cannot_be_used(name: str, short: Path) -> None:
    (short / "link").symlink_to("/etc")
    (short / "file").touch()
    options = ("--start-directory", name)
    async with run_agent(
        [sys.executable, str(SERVER)], *options, environment={"HOME": str(short)}
    ) as agent:
        assert await agent.wait() == 1
        assert marker(agent.log) == "start_directory"


async def test_a_start_directory_inside_home(short: Path) -> None:
    (short / "a b").mkdir()
    options = ("--start-directory=a b",)
    async with run_agent(
        [sys.executable, str(SERVER)], *options, environment={"HOME": str(short)}
    ) as agent:
        control = await agent.connect()
        control.hello()
        control.start({})
        await control.wait_phase("listening")
        assert f'"cwd": "{short}/a b"' in agent.log


async def test_a_home_that_is_not_there() -> None:
    async with run_agent(environment={"HOME": "/no/such/home"}) as agent:
        assert await agent.wait() == 1
        assert marker(agent.log) == "home_missing"


async def test_a_launch_directory_that_is_not_there(short: Path) -> None:
    async with run_agent(launch=short / "gone") as agent:
        assert await agent.wait() == 1
        assert marker(agent.log) == "directory_missing"
        assert list((agent.root / "s").iterdir()) == []


async def test_another_directory_for_sockets_when_the_asked_one_is_not_there() -> None:
    async with run_agent(sockets=Path("/no/such/place")) as agent:
        directory = await agent.directory()
        assert directory.parent == Path("/tmp")
        assert "/no/such/place does not exist on this node" in agent.log
    assert not directory.exists()


@pytest.mark.parametrize("name", ["Upper", "x" * 60])
async def test_a_directory_for_sockets_that_clients_could_not_use(short: Path, name: str) -> None:
    (short / name).mkdir()
    async with run_agent(sockets=short / name) as agent:
        assert (await agent.directory()).parent == Path("/tmp")
        assert "too long or not all lower case" in agent.log
        assert list((short / name).iterdir()) == []


async def test_a_directory_in_which_anybody_could_replace_ours(short: Path) -> None:
    short.chmod(0o777)
    async with run_agent(sockets=short) as agent:
        assert (await agent.directory()).parent == Path("/tmp")
        assert "without the sticky bit" in agent.log


@needs_root
async def test_a_full_disk(full: Path) -> None:
    async with run_agent(launch=full) as agent:
        assert await agent.wait() == 1
        assert marker(agent.log) == "quota"
        # Nothing half-written is left where a tunnel looks.
        assert [path.name for path in full.iterdir()] == ["filler"]


@needs_root
async def test_a_launch_directory_of_somebody_else(short: Path) -> None:
    # Root may write anywhere: the agent runs as somebody else.
    copy, stub = short / "agent", short / "stub.py"
    shutil.copytree(AGENT, copy)
    shutil.copy(SERVER, stub)
    short.chmod(0o755)
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    async with run_agent(
        ["/bin/true"], launch=Path("/var"), prefix=prefix, python="/usr/bin/python3", agent=copy
    ) as agent:
        assert await agent.wait() == 1
        assert marker(agent.log) == "directory_not_writable"


@pytest.mark.parametrize(
    "argv", [[], ["--launch-id", "x"], ["--launch-id=x", "--directory=/", "--socket-directory=/"]]
)
def test_a_wrong_command_line(argv: list[str]) -> None:
    done = subprocess.run([sys.executable, "-I", str(AGENT), *argv], capture_output=True)
    assert done.returncode == 2
