"""The life of one job: the control stream, and the single-user server."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import socket
from typing import Any, Awaitable, Callable, Dict, List, NamedTuple, Optional, Tuple

from .places import write_announcement
from .streams import HUB_SOCKET_NAME, HubRelay, Message, Reader, Writer, own_peer, send
from .words import FAILURES, Failure, explain_os_error, say

PROTOCOL = 1
LINE_LIMIT = 64 * 1024
HELLO_SECONDS = SEND_SECONDS = STOP_SECONDS = 10.0
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What describes this node, not the hub's: the job's own value counts, whatever the hub sends.
JOB_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|PWD|TMPDIR|BASH_ENV|ENV|VIRTUAL_ENV"
    r"|LD_.*|PYTHON.*|CONDA_.*|SLURM_.*|PBS_.*|SGE_.*"
)


class Options(NamedTuple):
    """The command line."""

    launch_id: str
    directory: str
    socket_directory: str
    start_directory: Optional[str]
    command: List[str]


class Agent:
    """The life of one job: waiting, starting, listening, ended."""

    def __init__(self, options: Options, directory: str, cwd: str, command: List[str]) -> None:
        self._options = options
        self._directory = directory
        self._cwd = cwd
        self._command = command
        self._nonce = secrets.token_hex(16)
        self._phase: Message = {"phase": "waiting"}
        self._streams: List[Writer] = []
        self._control: Optional[Writer] = None
        self._relay = HubRelay(directory)
        loop = asyncio.get_event_loop()
        # Environment and arguments of the server: secrets, dropped once it runs.
        self._start: "asyncio.Future[Tuple[Dict[str, str], List[str]]]" = loop.create_future()
        self._stop: "asyncio.Future[int]" = loop.create_future()

    async def run(self) -> int:
        """Serve until the server ends or a stop is asked for; return the exit status."""
        self._catch_signals()
        servers = [
            await self._listen("agent.sock", self._serve_control),
            await self._listen("hub.sock", self._relay.serve),
        ]
        announcement = {
            "launch_id": self._options.launch_id,
            "protocol": PROTOCOL,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "directory": self._directory,
            "nonce": self._nonce,
            "port": None,
            "key_sha256": None,
        }
        announced = write_announcement(self._options.directory, announcement)
        say("Waiting for the gateway on {}.".format(socket.gethostname()))
        try:
            either: "List[asyncio.Future[Any]]" = [self._start, self._stop]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self._stop.done():
                return await self._run_server()
            self._set_phase("ended", 0, "Stopped before the server was started.")
            return self._stop.result()
        except Failure as failure:
            self._set_phase("ended", failure.status, failure.words)
            raise
        finally:
            for server in servers:
                server.close()
            for stream in list(self._streams):
                with contextlib.suppress(OSError, asyncio.TimeoutError):  # it may be gone
                    await asyncio.wait_for(stream.drain(), 2.0)
                stream.close()
            with contextlib.suppress(OSError):  # a stale one is harmless: its nonce tells
                os.unlink(announced)

    async def _listen(
        self, name: str, serve: Callable[[Reader, Writer], Awaitable[None]]
    ) -> asyncio.AbstractServer:
        path = os.path.join(self._directory, name)

        async def accept(reader: Reader, writer: Writer) -> None:
            if own_peer(writer):
                await serve(reader, writer)
            else:
                say("A connection of another user was refused.")
                writer.close()

        try:
            server = await asyncio.start_unix_server(accept, path, limit=LINE_LIMIT)
            os.chmod(path, 0o600)
        except OSError as error:
            raise explain_os_error(error, self._directory) from error
        return server

    def _catch_signals(self) -> None:
        loop = asyncio.get_event_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_stop, 128 + number, number.name)
        # Schedulers send these as a notice ahead of the end; their default would end the session.
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, say, "{} received.".format(number.name))

    def _ask_stop(self, status: int, by: str) -> None:
        say("Stop asked for ({}).".format(by))
        if not self._stop.done():
            self._stop.set_result(status)

    def _set_phase(self, phase: str, status: Optional[int] = None, words: str = "") -> None:
        self._phase = {"phase": phase, "words": words, "start_id": self._phase.get("start_id")}
        if status is not None:
            self._phase["exit_status"] = status
        for stream in self._streams:
            send(stream, dict(self._phase, type="phase"))

    async def _serve_control(self, reader: Reader, writer: Writer) -> None:
        self._streams.append(writer)
        hello = {"type": "hello", "protocol": PROTOCOL, "launch_id": self._options.launch_id}
        try:
            send(writer, dict(hello, nonce=self._nonce, **self._phase))
            line = await asyncio.wait_for(reader.readline(), HELLO_SECONDS)
            while line.endswith(b"\n"):
                self._handle(writer, line)
                await asyncio.wait_for(writer.drain(), SEND_SECONDS)
                line = await reader.readline()
        except (ValueError, RecursionError) as error:
            # Messages may hold secrets: only our own words and the decoder's position are shown.
            say("A control stream was closed: {}".format(error))
        except (OSError, asyncio.TimeoutError):
            pass  # lost or silent: the tunnel opens another
        finally:
            self._streams.remove(writer)
            if self._control is writer:
                self._control = None
                self._relay.point_to(None)
                if self._phase["phase"] != "ended":
                    say("The tunnel is gone; the server goes on.")
            writer.close()

    def _handle(self, stream: Writer, line: bytes) -> None:
        message = json.loads(line.decode("utf-8"))
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "hello":
            self._handle_hello(stream, message)
        elif self._control is not stream:
            raise ValueError("a message before hello")
        elif kind == "start":
            self._handle_start(stream, message)
        elif kind == "stop":
            self._ask_stop(0, "gateway")
        elif kind == "ping":
            send(stream, {"type": "pong"})
        else:
            raise ValueError("a message of unknown type")

    def _handle_hello(self, stream: Writer, message: Message) -> None:
        name = message.get("hub_socket")
        if (message.get("protocol"), message.get("launch_id")) != (
            PROTOCOL,
            self._options.launch_id,
        ):
            raise ValueError("hello of another protocol or launch")
        if not isinstance(name, str) or not HUB_SOCKET_NAME.fullmatch(name):
            raise ValueError("hello without a proper hub_socket")
        former, self._control = self._control, stream
        self._relay.point_to(name)
        if former is not None and former is not stream:
            former.close()
        say("The tunnel is up.")

    def _handle_start(self, stream: Writer, message: Message) -> None:
        start_id, environment = message.get("start_id"), message.get("environment")
        arguments = message.get("arguments", [])
        if not isinstance(start_id, str) or not 0 < len(start_id) <= 128:
            raise ValueError("start without a proper start_id")
        if not isinstance(environment, dict) or not isinstance(arguments, list):
            raise ValueError("start without environment or arguments")
        if not all(map(VARIABLE_NAME.fullmatch, environment)):
            raise ValueError("start with an improper name in its environment")
        for value in [*environment.values(), *arguments]:
            if not isinstance(value, str) or "\0" in value:
                raise ValueError("start with an improper value")
        if self._start.done() or self._stop.done():
            send(stream, dict(self._phase, type="phase"))
            return
        self._phase["start_id"] = start_id
        self._start.set_result((environment, arguments))
        self._set_phase("starting")

    def _build_environment(self, given: Dict[str, str]) -> Dict[str, str]:
        environment = dict(os.environ)
        environment.update((k, v) for k, v in given.items() if not JOB_VARIABLES.fullmatch(k))
        # The server takes its port from here and refuses any but its default beside a socket.
        prefix = given.get("JUPYTERHUB_SERVICE_PREFIX", "/")
        environment["JUPYTERHUB_SERVICE_URL"] = "http://127.0.0.1:8888" + prefix
        environment["JUPYTER_RUNTIME_DIR"] = os.path.join(self._directory, "r")
        return environment

    async def _spawn(self, notebook: str) -> asyncio.subprocess.Process:
        environment, arguments = self._start.result()
        self._start = asyncio.get_event_loop().create_future()
        self._start.cancel()  # done, and without the secrets
        own = ["--KernelManager.transport=ipc", "--ServerApp.sock=" + notebook]
        try:
            os.mkdir(os.path.join(self._directory, "r"), 0o700)
            return await asyncio.create_subprocess_exec(
                *[*self._command, *arguments, *own],
                cwd=self._cwd,
                env=self._build_environment(environment),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise Failure(
                "command_not_found", self._command[0], error.strerror, status=126
            ) from error

    async def _run_server(self) -> int:
        notebook = os.path.join(self._directory, "nb.sock")
        process = await self._spawn(notebook)
        say("The server is starting.")
        exited = asyncio.ensure_future(process.wait())
        watching = asyncio.ensure_future(self._watch(notebook))
        try:
            await asyncio.wait({exited, self._stop}, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return self._end_of_server(exited.result())
            await self._terminate(process, exited)
            self._set_phase("ended", 0, "The server was stopped.")
            return self._stop.result()
        finally:
            watching.cancel()

    async def _watch(self, path: str) -> None:
        while True:
            await asyncio.sleep(0.05)
            with contextlib.suppress(OSError):  # not there yet
                (await asyncio.open_unix_connection(path))[1].close()
                say("The server is listening.")
                self._set_phase("listening")
                return

    async def _terminate(
        self, process: asyncio.subprocess.Process, exited: "asyncio.Future[int]"
    ) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):  # ended by itself meanwhile
                os.killpg(process.pid, number)
            if (await asyncio.wait({exited}, timeout=STOP_SECONDS))[0]:
                say("The server has ended.")
                return
        say("The server does not end.")

    def _end_of_server(self, status: int) -> int:
        before = "" if self._phase["phase"] == "listening" else " before it was ready"
        if status:
            code = "server_failed" if status > 0 else "server_killed"
            words = FAILURES[code].format(abs(status), before)
            say(words, error=code)
        else:
            words = "The server ended{}.".format(before)
            say(words)
        status = status if status >= 0 else 128 - status
        self._set_phase("ended", status, words)
        return status
