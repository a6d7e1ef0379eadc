"""The rehearsal cluster: one login node and four compute nodes inside this process.

SSH servers on loopback addresses, a small Slurm look-alike, and jobs that are real processes of
the account that runs it. For demos and tests: its accounts share one uid, so it keeps them apart
as far as SSH and the scheduler go, not against each other's files.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import asyncssh

from gateway.rehearsal.controller import Controller
from gateway.rehearsal.hosts import COMPUTE, LOGIN, OBSERVER, TUNNEL, USERS, Hosts
from gateway.rehearsal.job_runner import JobProcesses
from gateway.rehearsal.processes import end_processes
from gateway.rehearsal.slurm_model import Layout, Reservation, default_layout, default_reservations
from gateway.rehearsal.slurm_state import SlurmState
from gateway.rehearsal.sshd import Sshd

HOST_KEY_ALIAS: Final = "rehearsal-login"
_TRIES: Final = 20


class RehearsalCluster:
    """One cluster in ``directory`` (made when missing, 0700; one cluster at a time in it).

    ``user_ca`` is the public key of the user-certificate authority, as an OpenSSH line.
    ``network`` is ``k`` in the addresses ``127.77.k.10`` (login node) and ``127.77.k.11`` to
    ``.14`` (r1 to r4), ``port`` the port of them all; by default free ones are found.
    ``min_job_age`` (seconds) and ``walltime_step`` (seconds to which walltimes are rounded up,
    Slurm: 60) are there for tests that cannot wait.

    :meth:`open` raises :class:`OSError` when the given addresses are taken, and
    :class:`RuntimeError` when another process has a cluster in ``directory``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        user_ca: str,
        network: int | None = None,
        port: int | None = None,
        layout: Layout | None = None,
        reservations: Sequence[Reservation] | None = None,
        min_job_age: float = 300.0,
        walltime_step: int = 60,
    ) -> None:
        self.directory = directory.resolve()
        self._authority = asyncssh.import_public_key(user_ca)
        self._network = network
        self._port = port
        self._layout = layout or default_layout()
        self._reservations = reservations
        self._min_job_age = min_job_age
        self._walltime_step = walltime_step
        self._lock = -1
        self._servers: dict[str, Sshd] = {}
        self._state: SlurmState | None = None
        self._controller: Controller | None = None
        self._hosts: Hosts | None = None

    @property
    def hosts(self) -> Hosts:
        """Addresses and paths; once open."""
        if self._hosts is None:
            raise RuntimeError("the rehearsal cluster is not open")
        return self._hosts

    @property
    def state(self) -> SlurmState:
        """The scheduler's state, for tests; once open."""
        if self._state is None:
            raise RuntimeError("the rehearsal cluster is not open")
        return self._state

    @property
    def login_address(self) -> str:
        """Loopback address of the login node."""
        return self.hosts.addresses[LOGIN]

    @property
    def port(self) -> int:
        """Port of every sshd."""
        return self.hosts.port

    @property
    def known_hosts(self) -> Path:
        """File with the host keys of all hosts."""
        return self.directory / "known_hosts"

    @property
    def socket_directory(self) -> str:
        """Node-local directory for the agent's sockets; gone after :meth:`close`."""
        return str(self.hosts.node_tmp)

    async def open(self) -> None:
        """Clear leftovers of a killed predecessor, then start everything."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        try:
            await self._clear_leftovers()
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End every job, session and server; leave only homes, keys and the jobs' history."""
        if self._state is not None:
            await self._state.close()
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        self._servers.clear()
        if self._controller is not None:
            await self._controller.close()
            self._controller = None
        if self._lock >= 0:
            await self._clear_leftovers()
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            os.close(self._lock)
            self._lock = -1
            words = f"another rehearsal cluster runs in {self.directory}"
            raise RuntimeError(words) from problem

    async def _clear_leftovers(self) -> None:
        await end_processes(f"{self.directory}/")
        note = self.directory / "node_tmp"
        if note.exists():
            shutil.rmtree(note.read_text(encoding="utf-8"), ignore_errors=True)
            note.unlink()
        shutil.rmtree(self.directory / "spool", ignore_errors=True)

    async def _start(self) -> None:
        sockets = self._bind()
        try:
            await self._serve(sockets)
        except BaseException:
            for sock in sockets.values():
                sock.close()
            raise

    async def _serve(self, sockets: dict[str, socket.socket]) -> None:
        addresses = {host: sock.getsockname()[0] for host, sock in sockets.items()}
        port = sockets[LOGIN].getsockname()[1]
        hosts = self._hosts = Hosts(self.directory, self._make_node_tmp(), addresses, port)
        self.hosts.prepare()
        processes = JobProcesses(self.hosts)
        reservations = self._reservations
        self._state = SlurmState(
            self._layout,
            default_reservations(int(time.time())) if reservations is None else reservations,
            processes,
            self.directory / "jobs.json",
            min_job_age=self._min_job_age,
            on_node_left=self._leave_node,
        )
        self._controller = Controller(self._state, processes, self.hosts, self._walltime_step)
        await self._state.open()
        await self._controller.open()
        for host, sock in sockets.items():
            server = Sshd(host, hosts, self._authority, self._admission(host))
            self._servers[host] = server
            await server.open(self._host_key(host), sock)
        self._write_known_hosts()

    def _bind(self) -> dict[str, socket.socket]:
        """One listening socket a host, all with the same port."""
        for left in reversed(range(_TRIES)):
            network = self._network if self._network is not None else 1 + secrets.randbelow(250)
            port = self._port or 0
            sockets: dict[str, socket.socket] = {}
            try:
                for number, host in enumerate((LOGIN, *COMPUTE), start=10):
                    sockets[host] = socket.create_server((f"127.77.{network}.{number}", port))
                    port = sockets[host].getsockname()[1]
                return sockets
            except OSError as problem:
                for sock in sockets.values():
                    sock.close()
                free = self._network is None or not self._port
                if problem.errno != errno.EADDRINUSE or not free or not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _make_node_tmp(self) -> Path:
        # short and lower case, as unix socket paths in URLs must be
        made = Path(tempfile.mkdtemp(prefix="landfall-", dir="/tmp"))
        (self.directory / "node_tmp").write_text(str(made), encoding="utf-8")
        return made

    def _host_key(self, host: str) -> asyncssh.SSHKey:
        path = self.directory / "keys" / f"{host}_ed25519"
        if not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            key = asyncssh.generate_private_key("ssh-ed25519", comment=f"rehearsal {host}")
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(key.export_private_key("openssh"))
        return asyncssh.read_private_key(path)

    def _write_known_hosts(self) -> None:
        lines = []
        for host, address in self.hosts.addresses.items():
            names = [HOST_KEY_ALIAS if host == LOGIN else host, address]
            names += [f"[{name}]:{self.port}" for name in names]
            public = self._host_key(host).export_public_key("openssh").decode().strip()
            lines.append(f"{','.join(names)} {public}\n")
        self.known_hosts.write_text("".join(lines), encoding="utf-8")

    def _admission(self, host: str) -> Callable[[str], bool]:
        if host == LOGIN:
            return lambda user: user in (*USERS, OBSERVER, TUNNEL)
        return lambda user: self.state.admits(user, host)

    def _leave_node(self, user: str, node: str) -> None:
        if node in self._servers:
            self._servers[node].drop_user(user)
