"""The agent: what a job runs on the compute node, between the tunnel and the single-user server.

One file, standard library only, Python 3.8 or later; it is copied to the cluster and started as::

    python3 -I agent.py --launch-id ID --directory LAUNCH_DIR --socket-directory DIR
        [--start-directory D] -- COMMAND…

It makes a private directory of sockets on the node, announces it in the launch directory, waits for
the tunnel to bring the server's environment, runs COMMAND on ``nb.sock`` there, and keeps
``hub.sock`` in front of whichever socket the newest tunnel forwards to the hub's API, so that the
server outlives any number of tunnels. What both sides say is in ``gateway/tunnel/base.py``.

Secrets exist only in the memory of this process until the server starts, then only in the server's
environment; they are never printed. What went wrong is one line in the job's log:
``landfall: error CODE: words``.
"""

import argparse
import asyncio
import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import time
from typing import Any, Awaitable, Callable, Dict, List, NamedTuple, Optional, Tuple

PROTOCOL = 1
LINE_LIMIT = 64 * 1024
HELLO_SECONDS = SEND_SECONDS = STOP_SECONDS = 10.0
HUB_WAIT_SECONDS = 60.0
# A kernel's ipc socket is DIRECTORY/r/kernel-<36 characters>-ipc-N; sun_path holds 107 bytes.
DIRECTORY_LIMIT = 107 - len("/r/kernel--ipc-9") - 36
DIRECTORY_GRAMMAR = re.compile(r"/[a-z0-9/_.-]+")
HUB_SOCKET_NAME = re.compile(r"hub-[a-z0-9]{1,32}\.sock")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What describes this node, not the hub's: the job's own value counts, whatever the hub sends.
JOB_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|PWD|TMPDIR|BASH_ENV|ENV|VIRTUAL_ENV"
    r"|LD_.*|PYTHON.*|CONDA_.*|SLURM_.*|PBS_.*|SGE_.*"
)
FAILURES = {
    "quota": "{} is full or over quota: free some space, then start again.",
    "directory_missing": "{} does not exist on this node: tell the cluster's support.",
    "directory_not_writable": "{} cannot be written ({}): tell the cluster's support.",
    "socket_directory": "{} is too long or not all lower case: tell the cluster's support.",
    "home_missing": "The home directory {} is not available on this node: start again.",
    "start_directory": "The start directory {}: choose another.",
    "command_not_found": 'The command "{}" cannot be run ({}): choose another environment or tell '
    "the cluster's support.",
    "server_failed": "The server ended with exit status {}{}: its own words are above this line.",
    "server_killed": "The server was killed by signal {}{}: signal 9 most often means too little "
    "memory; ask for more.",
}

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Message = Dict[str, Any]


class Failure(Exception):
    """The job cannot go on; ``words`` say why and what to do, ``status`` is the exit status."""

    def __init__(self, code: str, *details: object, status: int = 1) -> None:
        self.code, self.status = code, status
        self.words = FAILURES[code].format(*details)
        super().__init__(self.words)


class Options(NamedTuple):
    """The command line."""

    launch_id: str
    directory: str
    socket_directory: str
    start_directory: Optional[str]
    command: List[str]


def say(words: str, error: Optional[str] = None) -> None:
    """Write one line to the job's log; with ``error``, the one that the gateway looks for."""
    head = time.strftime("%Y-%m-%d %H:%M:%S") if error is None else "error {}:".format(error)
    with contextlib.suppress(OSError):  # a full disk must not end the session
        sys.stderr.write("landfall: {} {}\n".format(head, " ".join(words.split())))
        sys.stderr.flush()


def explain_os_error(error: OSError, path: str) -> Failure:
    """Turn a failure to write at ``path`` into words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("quota", path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Failure("directory_missing", path)
    return Failure("directory_not_writable", path, error.strerror)


def check_start_directory(asked: Optional[str]) -> str:
    """Return the absolute directory in which the server starts: the home directory or below."""
    home = os.path.expanduser("~")
    if not os.path.isabs(home) or not os.path.isdir(home):
        raise Failure("home_missing", home)
    if asked is None:
        return home
    real, real_home = os.path.realpath(os.path.join(home, asked)), os.path.realpath(home)
    if os.path.commonpath([real, real_home]) != real_home:
        raise Failure("start_directory", "is not inside your home directory")
    if not os.path.isdir(real) or not os.access(real, os.R_OK | os.X_OK):
        raise Failure("start_directory", "does not exist or cannot be entered")
    return real


def find_command(name: str) -> str:
    """Return the absolute path of the server's program."""
    path = shutil.which(name)
    if path is None:
        raise Failure("command_not_found", name, "not found, or not executable", status=127)
    return os.path.abspath(path)


def make_socket_directory(asked: str) -> str:
    """Make a new 0700 directory on this node, in ``asked`` or else where any node has room."""
    failures = []
    for parent in dict.fromkeys((asked, "/tmp", "/var/tmp", "/dev/shm")):  # noqa: S108
        try:
            mode = os.stat(parent).st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                # Anybody could put a directory of their own in the place of ours.
                raise PermissionError(errno.EPERM, "writable by all, without the sticky bit")
            path = tempfile.mkdtemp(prefix="lf", dir=parent)
        except OSError as error:
            failures.append(explain_os_error(error, parent))
        else:
            if len(path) <= DIRECTORY_LIMIT and DIRECTORY_GRAMMAR.fullmatch(path):
                return path
            os.rmdir(path)
            failures.append(Failure("socket_directory", parent))
        say("No place for sockets: {}".format(failures[-1].words))
    raise failures[0]


def write_announcement(directory: str, announcement: Message) -> str:
    """Write ``announcement.json`` so that a reader sees all of it or nothing; return its path."""
    content = json.dumps(announcement).encode("ascii")
    path = os.path.join(directory, "announcement.json")
    temporary = "{}.{}".format(path, announcement["nonce"])
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                # Some file systems tell of a full disk only by the size.
                if os.fstat(stream.fileno()).st_size != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise explain_os_error(error, directory) from error
    return path


def own_peer(writer: Writer) -> bool:
    """Tell whether the other end of a unix socket runs as the same user (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("3i")
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return bool(struct.unpack("3i", peer)[1] == os.getuid())


def send(writer: Writer, message: Message) -> None:
    """Queue one message of the control protocol."""
    writer.write(json.dumps(message).encode("ascii") + b"\n")


async def pump(reader: Reader, writer: Writer) -> None:
    """Copy bytes until the end of file and pass that on."""
    while True:
        data = await reader.read(64 * 1024)
        if not data:
            break
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


class HubRelay:
    """``hub.sock``: each connection goes on to the newest forwarded socket, and waits for one
    while there is none."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._target = None  # type: Optional[str]
        self._changed = asyncio.Event()

    def point_to(self, name: Optional[str]) -> None:
        """Use the socket ``name`` from now on (``None``: the tunnel is lost)."""
        self._target = None if name is None else os.path.join(self._directory, name)
        self._changed.set()
        self._changed = asyncio.Event()
        if self._target is not None and os.path.exists(self._target):
            self._remove_older(self._target)

    def _remove_older(self, newest: str) -> None:
        # A newer tunnel's socket may already lie there, its hello still to come: keep that.
        for name in os.listdir(self._directory):
            path = os.path.join(self._directory, name)
            if path != newest and HUB_SOCKET_NAME.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):  # sshd may remove its own
                    if os.lstat(path).st_mtime_ns <= os.lstat(newest).st_mtime_ns:
                        os.unlink(path)

    async def _dial(self) -> Tuple[Reader, Writer]:
        while True:
            changed = self._changed
            if self._target is not None:
                with contextlib.suppress(OSError):  # not there yet, or the forward is gone
                    return await asyncio.open_unix_connection(self._target)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), 0.25)

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Carry one connection of the server."""
        ends, ways = [writer], []  # type: Tuple[List[Writer], List[asyncio.Future[None]]]
        try:
            far_reader, far_writer = await asyncio.wait_for(self._dial(), HUB_WAIT_SECONDS)
            ends.append(far_writer)
            ways.append(asyncio.ensure_future(pump(reader, far_writer)))
            ways.append(asyncio.ensure_future(pump(far_reader, writer)))
            await asyncio.gather(*ways)
        except asyncio.TimeoutError:
            say("The hub was not reachable for {:.0f} seconds.".format(HUB_WAIT_SECONDS))
        except OSError:
            pass  # either end went away: the other sees its connection close
        finally:
            for way in ways:
                way.cancel()
            for end in ends:
                end.close()


class Agent:
    """The life of one job: waiting, starting, listening, ended."""

    def __init__(self, options: Options, directory: str, cwd: str, command: List[str]) -> None:
        self._options = options
        self._directory = directory
        self._cwd = cwd
        self._command = command
        self._nonce = secrets.token_hex(16)
        self._phase = {"phase": "waiting"}  # type: Message
        self._streams = []  # type: List[Writer]
        self._control = None  # type: Optional[Writer]
        self._relay = HubRelay(directory)
        loop = asyncio.get_event_loop()
        # Environment and arguments of the server: secrets, dropped once it runs.
        self._start = loop.create_future()  # type: asyncio.Future[Tuple[Dict[str, str], List[str]]]
        self._stop = loop.create_future()  # type: asyncio.Future[int]

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
            either = [self._start, self._stop]  # type: List[asyncio.Future[Any]]
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


def parse_arguments(argv: List[str]) -> Options:
    """Parse the command line; exits with status 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="agent")
    for name in ("--launch-id", "--directory", "--socket-directory"):
        parser.add_argument(name, required=True)
    parser.add_argument("--start-directory")
    cut = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    command = argv[cut + 1 :]
    if not command:
        parser.error("no command after --")
    return Options(command=command, **vars(options))


async def serve(options: Options) -> int:
    """Check everything that can be checked before the wait, then live."""
    cwd = check_start_directory(options.start_directory)
    command = [find_command(options.command[0]), *options.command[1:]]
    directory = make_socket_directory(options.socket_directory)
    try:
        return await Agent(options, directory, cwd, command).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main(argv: List[str]) -> int:
    """Run the agent; return its exit status."""
    os.umask(0o077)
    if sys.version_info < (3, 8):
        say("The agent needs Python 3.8 or later: tell the support.", error="agent_python_old")
        return 73
    options = parse_arguments(argv)
    try:
        return asyncio.run(serve(options))
    except Failure as failure:
        say(failure.words, error=failure.code)
        return failure.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
