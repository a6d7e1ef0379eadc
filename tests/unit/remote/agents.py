"""Runs the real agent as a process and speaks to it as a tunnel does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gateway.remote

# A directory with a __main__.py; its zipped form is tried in test_agent_source.
AGENT = Path(gateway.remote.__file__).parent
LAUNCH = "0123456789abcdef"
# Says what it was given, then serves its socket until it is told to end.
SERVER = Path(__file__).parent / "stub_server.py"
PATIENCE = 20.0


class Control:
    """The tunnel's end of a control stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def receive(self) -> dict[str, Any] | None:
        """The next message; ``None`` when the agent has closed the stream."""
        async with asyncio.timeout(PATIENCE):
            try:
                line = await self.reader.readline()
            except ConnectionResetError:
                return None
        return json.loads(line) if line else None

    async def wait_phase(self, phase: str) -> dict[str, Any]:
        """Read until the agent reports ``phase``."""
        while message := await self.receive():
            if message.get("phase") == phase:
                return message
        raise AssertionError(f"closed before {phase}")

    def send(self, **message: Any) -> None:
        """Send one message."""
        self.send_raw(json.dumps(message).encode() + b"\n")

    def send_raw(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    def hello(self, hub_socket: str = "hub-1.sock", **changes: Any) -> None:
        """Say hello."""
        self.send(
            **{
                "type": "hello",
                "protocol": 1,
                "launch_id": LAUNCH,
                "hub_socket": hub_socket,
                **changes,
            }
        )

    def start(self, environment: Mapping[str, str], *arguments: str, start_id: str = "s1") -> None:
        """Send the server's environment."""
        self.send(
            type="start", start_id=start_id, environment=dict(environment), arguments=arguments
        )


class RunningAgent:
    """One agent process with a home, a launch directory and a place for sockets of its own."""

    def __init__(self, root: Path, process: asyncio.subprocess.Process) -> None:
        self.root = root
        self.process = process
        self._log = bytearray()
        self._reading = asyncio.create_task(self._read())
        self.controls: list[Control] = []

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(65536):
            self._log += data

    @property
    def log(self) -> str:
        """Everything the job's log would hold."""
        return self._log.decode()

    async def announcement(self) -> dict[str, Any]:
        """Wait for the announcement."""
        path = self.root / "launch" / "announcement.json"
        async with asyncio.timeout(PATIENCE):
            while not path.exists():
                assert self.process.returncode is None, self.log
                await asyncio.sleep(0.02)
        value: dict[str, Any] = json.loads(path.read_text())
        return value

    async def directory(self) -> Path:
        """The agent's own directory."""
        return Path((await self.announcement())["directory"])

    async def connect(self) -> Control:
        """Open a control stream."""
        path = await self.directory() / "agent.sock"
        control = Control(*await asyncio.open_unix_connection(path))
        self.controls.append(control)
        return control

    async def wait(self) -> int:
        """Wait for the end and return the exit status."""
        async with asyncio.timeout(PATIENCE):
            status = await self.process.wait()
            await self._reading
        return status

    async def wait_log(self, words: str) -> None:
        """Wait until the log holds ``words``."""
        async with asyncio.timeout(PATIENCE):
            while words not in self.log:
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        """End it, whatever it does."""
        for control in self.controls:
            control.writer.close()
            with contextlib.suppress(OSError):
                await control.writer.wait_closed()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), 5)
            except TimeoutError:
                self.process.kill()
        await self.process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def run_agent(
    command: Sequence[str] = (sys.executable, str(SERVER)),
    *options: str,
    environment: Mapping[str, str] | None = None,
    launch: Path | None = None,
    sockets: Path | None = None,
    prefix: Sequence[str] = (),
    python: str = sys.executable,
    agent: Path = AGENT,
) -> AsyncIterator[RunningAgent]:
    """Run an agent; paths of pytest are too long for sockets, so it gets a short root."""
    root = Path(tempfile.mkdtemp(prefix="lft", dir="/tmp"))
    root.chmod(0o755)
    for name in ("home", "launch", "s"):
        (root / name).mkdir()
        if prefix:
            (root / name).chmod(0o1777)
    argv = [
        *prefix,
        *(python, "-I", str(agent)),
        *("--launch-id", LAUNCH),
        *("--directory", str(launch or root / "launch")),
        *("--socket-directory", str(sockets or root / "s")),
        *options,
        *("--", *command),
    ]
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "LANG": "C.UTF-8",
            # So that coverage, when it measures, measures this process too.
            **{name: value for name, value in os.environ.items() if name.startswith("COV")},
            **(environment or {}),
        },
    )
    running = RunningAgent(root, process)
    try:
        yield running
    finally:
        await running.close()
        shutil.rmtree(root)
