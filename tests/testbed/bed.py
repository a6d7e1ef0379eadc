"""One complete cluster and a hub host on this machine: see README.md in this directory."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from . import accounts, daemons, hosts, keys, slurm_conf, state
from .layout import (
    CLUSTER_HOSTS,
    COMPUTE,
    FIRST_EXTRA_UID,
    HUB,
    LINKS,
    LOGIN,
    SERVICES,
    Layout,
    Person,
    address_between,
    layout_of,
)
from .preconditions import why_users_cannot_run_python
from .processes import CLEAN_ENVIRONMENT, Process, Status, is_alive, list_inside, send, wait_gone
from .teardown import tear_down


class BedError(Exception):
    """The bed could not do what was asked; the message says what failed."""


class Bed:
    """A running bed. Make one with `Bed.up()` or find one with `Bed.find(run_id)`.

    Every call is synchronous and bounded. As a context manager it goes down at the end.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @classmethod
    def up(
        cls,
        run_id: str | None = None,
        *,
        say: Callable[[str], None] | None = None,
        keep: bool = False,
    ) -> Self:
        """Bring up a bed; on failure nothing is left. Raises BedError.

        `keep`: the bed outlives the calling process (else a later `up` may remove it as stale).
        """
        from .bring_up import bring_up  # it needs Bed itself

        layout = layout_of(run_id or secrets.token_hex(2))
        bed = cls(layout)
        bring_up(bed, say or (lambda _line: None), keep=keep)
        return bed

    @classmethod
    def find(cls, run_id: str) -> Self:
        """A bed that is up already. Raises BedError."""
        bed = cls(layout_of(run_id))
        try:
            record = state.load(bed.layout)
        except FileNotFoundError:
            raise BedError(f"no bed {run_id} in {bed.layout.root}") from None
        if not record.ready or not all(is_alive(h.holder) for h in record.hosts.values()):
            raise BedError(f"bed {run_id} is not up; `down {run_id}` removes what is left")
        return bed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def down(self) -> None:
        """Stop everything that belongs to this bed and remove every trace of it."""
        tear_down(self.layout)

    # Paths and names

    @property
    def run_id(self) -> str:
        return self.layout.run_id

    @property
    def user_ca_key(self) -> Path:
        """The user CA's private key, 0600 root; the public half beside it, `.pub`."""
        return self.layout.user_ca_key

    @property
    def known_hosts(self) -> Path:
        """Host CA line and plain keys, for the names and addresses of all cluster hosts."""
        return self.layout.known_hosts

    @property
    def home(self) -> Path:
        """The cluster's /home as the machine sees it."""
        return self.layout.home

    @property
    def scratch(self) -> Path:
        """A directory with one path for this process and every host; /tmp is each host's own."""
        return self.layout.scratch

    @property
    def hub_files(self) -> Path:
        """A directory with one path for this process and the hub; empty on cluster hosts."""
        return self.layout.hub_files

    @property
    def python(self) -> Path:
        """This interpreter, for jobs. Raises BedError where cluster users cannot run it."""
        why = why_users_cannot_run_python()
        if why is not None:
            raise BedError(why)
        return Path(sys.prefix) / "bin" / "python"

    def address(self, host: str, source: str = HUB) -> str:
        """The IPv4 address of `host` as `source` dials it; KeyError where there is no route."""
        return address_between(source, host)

    @property
    def kernel_limits_memory(self) -> bool:
        """Whether a job over its memory becomes OUT_OF_MEMORY, at once."""
        return state.load(self.layout).cgroups

    @property
    def memory_limits(self) -> str:
        """How a job's memory limit is enforced, as a sentence."""
        if self.kernel_limits_memory:
            return "enforced by the kernel (task/cgroup, cgroup v1): OUT_OF_MEMORY"
        return "polled every 2 s (no cgroup v1 here): such a job is FAILED, and short bursts pass"

    # Running things

    def _holder(self, host: str) -> Process:
        try:
            return state.load(self.layout).hosts[host].holder
        except (FileNotFoundError, KeyError):
            raise BedError(f"bed {self.run_id} has no host {host}") from None

    def in_namespace(self, host: str, user: str | None = None) -> list[str]:
        """The argv prefix that runs a command on `host`, as root or as `user` of that host.

        With a user: clean environment (HOME, SHELL, USER, LOGNAME, PATH), working directory HOME.
        """
        prefix = hosts.enter(self._holder(host))
        if user is None:
            return prefix
        ids = [f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env"]
        there = "/" if user in {service.name for service in SERVICES} else f"/home/{user}"
        return [*prefix, "setpriv", *ids, "--", "env", f"--chdir={there}"]

    def run(
        self,
        host: str,
        argv: Sequence[str],
        user: str | None = None,
        input: str | None = None,
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Raises subprocess.TimeoutExpired, and CalledProcessError when `check`."""
        words = [f"{name}={value}" for name, value in (env or {}).items()]
        prefix = self.in_namespace(host, user)
        return subprocess.run(
            [*prefix, *(["env", *words] if words and user is None else words), *argv],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=check,
            env=CLEAN_ENVIRONMENT,
        )

    def popen(
        self,
        host: str,
        argv: Sequence[str],
        user: str | None = None,
        stdin: int | None = subprocess.PIPE,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """The caller ends it; `down` ends what is left."""
        words = [f"{name}={value}" for name, value in (env or {}).items()]
        prefix = self.in_namespace(host, user)
        return subprocess.Popen(
            [*prefix, *(["env", *words] if words and user is None else words), *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=CLEAN_ENVIRONMENT,
        )

    def network(self, host: str = HUB) -> AbstractContextManager[None]:
        """Inside the block, this thread's new sockets and processes use the host's network."""
        return hosts.network_of(self._holder(host))

    def processes(self, host: str, uid: int | None = None) -> list[Status]:
        """What runs on a host, of whom `uid` says; what only holds its namespaces is left out."""
        record = state.load(self.layout).hosts[host]
        found = list_inside({(record.network, record.mounts)})
        return [
            one
            for one in found
            if one.process != record.holder and uid in (None, _uid_of(one.process.pid))
        ]

    # Breaking and mending

    def cut(self, one: str, other: str) -> None:
        """Drop every packet between two hosts, silently, also of open connections."""
        hosts.set_cut(state.load(self.layout).hosts, one, other, cut=True)

    def heal(self, one: str, other: str) -> None:
        hosts.set_cut(state.load(self.layout).hosts, one, other, cut=False)

    def _daemon(self, host: str, name: str) -> Process:
        try:
            return state.load(self.layout).daemons[f"{host}/{name}"]
        except KeyError:
            raise BedError(f"no {name} on {host}") from None

    def is_running(self, host: str, name: str) -> bool:
        return is_alive(self._daemon(host, name))

    def kill(self, host: str, name: str) -> None:
        """SIGKILL to the daemon itself; what it started (sessions, job steps) lives on."""
        process = self._daemon(host, name)
        send(process, signal.SIGKILL)
        if wait_gone([process], 5):
            raise BedError(f"{name} on {host} survives SIGKILL")

    def pause(self, host: str, name: str) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        send(self._daemon(host, name), signal.SIGSTOP)

    def resume(self, host: str, name: str) -> None:
        send(self._daemon(host, name), signal.SIGCONT)

    def stop(self, host: str, name: str) -> None:
        """SIGTERM, and SIGKILL after 10 seconds."""
        process = self._daemon(host, name)
        send(process, signal.SIGCONT)
        send(process, signal.SIGTERM)
        if wait_gone([process], 10):
            self.kill(host, name)

    def start(self, host: str, name: str) -> None:
        """Start a daemon that is not running and wait until it serves. Raises BedError."""
        holder = self._holder(host)
        with state.change(self.layout) as record:
            old = record.daemons.get(f"{host}/{name}")
            if old is not None and is_alive(old):
                return
            process = daemons.launch(self.layout, holder, host, name)
            record.daemons[f"{host}/{name}"] = process
        try:
            daemons.wait_ready(self.layout, holder, host, name, process)
        except hosts.HostError as error:
            raise BedError(str(error)) from error

    def drop_connections(self, host: str) -> int:
        """Kill every SSH session of a host, not its sshd; how many processes that were."""
        listener = self._daemon(host, "sshd")
        gone = 0
        for found in self.processes(host):
            if found.command == "sshd" and found.process != listener:
                gone += send(found.process, signal.SIGKILL)
        return gone

    def configure_slurm(self, *extra: str) -> None:
        """Slurm with these lines added to the bed's own slurm.conf, and no earlier ones.

        For options that `scontrol reconfigure` takes up, such as `PrivateData=jobs`.
        """
        cgroups = state.load(self.layout).cgroups
        text = slurm_conf.build_slurm_conf(self.layout, cgroups=cgroups, extra=extra)
        file = self.layout.etc(LOGIN) / "slurm" / "slurm.conf"
        if file.read_text() == text:
            return
        file.write_text(text)
        done = self.run(LOGIN, ["scontrol", "reconfigure"])
        if done.returncode != 0:
            raise BedError(f"scontrol reconfigure: {done.stderr}")

    def reset(self) -> None:
        """As after `up`: links whole, all daemons serving, no job, idle nodes. Raises BedError."""
        here = state.load(self.layout).hosts
        for one, other in LINKS:
            hosts.set_cut(here, one, other, cut=False)
        for host, name in daemons.PLACES:
            self.resume(host, name)
            self.start(host, name)
        self.configure_slurm()
        for name in COMPUTE:
            self.run(LOGIN, ["scontrol", "update", f"nodename={name}", "state=resume"])
        jobs = self.run(LOGIN, ["squeue", "--noheader", "--format=%A"]).stdout.split()
        if jobs:
            self.run(LOGIN, ["scancel", *sorted(set(jobs))])
        self.wait_for("an empty queue and idle nodes", self.is_idle, timeout=60)

    def is_idle(self) -> bool:
        """No job that is not ended, and every node idle."""
        nodes = self.run(LOGIN, ["sinfo", "--noheader", "-N", "-o", "%N %T"], timeout=30)
        states = dict(line.split() for line in nodes.stdout.splitlines())
        queue = self.run(LOGIN, ["squeue", "--noheader"], timeout=30)
        ok = nodes.returncode == queue.returncode == 0 and not queue.stdout.strip()
        return ok and all(states.get(name) == "idle" for name in COMPUTE)

    # People

    def add_user(self, name: str, account: str | None = "def-alice") -> Person:
        """A further cluster user with a home; with a Slurm association unless account is None."""
        passwd = (self.layout.etc(LOGIN) / "passwd").read_text().splitlines()
        if any(line.startswith(f"{name}:") for line in passwd):
            raise BedError(f"the cluster has a user {name} already")
        taken = {int(line.split(":")[2]) for line in passwd}
        uid = next(n for n in range(FIRST_EXTRA_UID, 6100) if n not in taken)
        person = Person(name, uid)
        accounts.add_person(self.layout, person)
        if account is not None:
            self.sacctmgr(f"add user {name} DefaultAccount={account} Account={account} QOS=normal")
        return person

    def sacctmgr(self, line: str) -> str:
        """One change of the accounting, as root. Raises BedError."""
        done = self.run(LOGIN, ["sacctmgr", "--immediate", "--quiet", *line.split()])
        if done.returncode != 0:
            raise BedError(f"sacctmgr {line}: {done.stderr}{done.stdout}")
        return done.stdout

    def certify(self, user: str, directory: Path | None = None, *options: str) -> Path:
        """A key with a 12-hour certificate of the user CA; the private key's path."""
        return keys.certify(self.layout, user, directory or self.hub_files / "ssh", *options)

    def ssh_argv(self, user: str, host: str, *options: str, key: Path | None = None) -> list[str]:
        """argv of ssh(1), to be run on the hub: `bed.run("hub", bed.ssh_argv(...) + [command])`.

        A compute node is reached through the login node with the account `tunnel`. `key`: the
        private key to offer instead of one with a certificate.
        """
        base = ["ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
        base += ["-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "ConnectTimeout=10"]
        base += ["-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes"]

        def identity(name: str) -> list[str]:
            key = self.hub_files / "ssh" / f"id_{name}"
            return ["-i", str(key if key.exists() else self.certify(name))]

        if host in CLUSTER_HOSTS and host != LOGIN:
            jump = [*base, *identity("tunnel"), "-W", f"{host}:22", f"tunnel@{LOGIN}"]
            options = ("-o", f"ProxyCommand={' '.join(jump)}", *options)
        own = identity(user) if key is None else ["-i", str(key)]
        return [*base, *own, *options, f"{user}@{host}"]

    def wait_for(
        self, what: str, question: Callable[[], bool], timeout: float = 30, every: float = 0.1
    ) -> None:
        """Ask until it is true. Raises BedError naming `what`."""
        end = time.monotonic() + timeout
        while not question():
            if time.monotonic() > end:
                raise BedError(f"waited {timeout:g} s in vain for {what}")
            time.sleep(every)


def _uid_of(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except FileNotFoundError:
        return None
