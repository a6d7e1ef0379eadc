"""Real OpenSSH servers on loopback, for tests.

::

    with open_sshd_site() as site:              # keys, user CA, host CA, known_hosts
        login = site.open_sshd()                # 127.x.y.z, free port
        node = site.open_sshd()                 # another address: login -> node hops
        profile = site.build_profile([login], compute_port=node.port, ...)
        pool = SshPool(profile, site.credentials())

As root the servers run in a mount namespace of their own with their own ``/etc/passwd``: the
accounts ``alice bob carol observer tunnel`` exist there (uids from 47001) and only there, with
home directories below ``site.home``. Without root (or without the right to make a namespace)
each server runs as the current user, who is then the only account: ask ``site.user`` for a name
that works everywhere, and ``site.has_accounts`` before you use the others.

Everything of a site lies in its own directory below ``/tmp`` and is removed at the end; every
process started is stopped, by pid.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncssh

from gateway.profiles.models import ClusterProfile
from gateway.transport.base import Actor
from gateway.transport.credentials import CredentialProvider

ACCOUNTS: Final = ("alice", "bob", "carol", "observer", "tunnel")
FIRST_UID: Final = 47001
SSHD: Final = shutil.which("sshd") or "/usr/sbin/sshd"

_NAMESPACE: Final = """\
set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount --bind "$1/shadow" /etc/shadow
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p -m 0755 /run/sshd
rm -f /run/nologin
shift
exec "$@"
"""


@dataclass(eq=False)
class Sshd:
    """One running server; ``host`` and ``port`` are where it listens, ``key`` its host key."""

    host: str
    port: int
    key: Path
    log: Path
    _process: subprocess.Popen[bytes] = field(repr=False)
    _command: list[str] = field(repr=False)
    _stopped: bool = False

    @property
    def pid(self) -> int:
        """The process that listens."""
        return self._process.pid

    def session_pids(self) -> list[int]:
        """The processes of sshd that serve connections (not the commands run in them)."""
        found: list[int] = []
        pending = _children(self.pid)
        while pending:
            pid = pending.pop()
            if _name(pid).startswith("sshd"):
                found.append(pid)
                pending += _children(pid)
        return found

    def kill_sessions(self) -> None:
        """End every connection at once, as a crash would."""
        for pid in self.session_pids():
            _signal(pid, signal.SIGKILL)

    def pause(self) -> None:
        """Stop (SIGSTOP) the listener and all sessions: connections hang."""
        for pid in (self.pid, *self.session_pids()):
            _signal(pid, signal.SIGSTOP)
        self._stopped = True

    def resume(self) -> None:
        """Undo :meth:`pause`."""
        for pid in (self.pid, *self.session_pids()):
            _signal(pid, signal.SIGCONT)
        self._stopped = False

    def stop(self) -> None:
        """End the server and its connections; idempotent."""
        if self._process.poll() is not None:
            return
        if self._stopped:
            self.resume()
        sessions = self.session_pids()
        self._process.terminate()
        for pid in sessions:
            _signal(pid, signal.SIGKILL)
        self._process.wait(timeout=10)

    def start(self) -> None:
        """Start again, on the same port, after :meth:`stop`."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        _wait_for_banner(self)


class SshdSite:
    """Keys and accounts that several servers share; see the module."""

    def __init__(self, directory: Path, *, shell: str = "/bin/bash") -> None:
        self.directory = directory
        self.home = directory / "home"
        self.known_hosts = directory / "known_hosts"
        self.user_ca = asyncssh.generate_private_key("ssh-ed25519")
        self.host_ca = asyncssh.generate_private_key("ssh-ed25519")
        self.servers: list[Sshd] = []
        self._numbers = itertools.count(1)
        # One network of addresses a site: two runs at once do not meet.
        self._network = f"127.{random.randint(90, 250)}.{random.randint(0, 255)}"
        self.has_accounts = os.geteuid() == 0 and _can_make_namespace()
        self.user_ca_path = directory / "user_ca.pub"
        self.user_ca_path.write_bytes(self.user_ca.export_public_key())
        self._write_accounts(shell)
        self._write_known_hosts()

    @property
    def user(self) -> str:
        """An account that can sign in."""
        return "alice" if self.has_accounts else pwd.getpwuid(os.geteuid()).pw_name

    @property
    def accounts(self) -> tuple[str, ...]:
        """All accounts that can sign in."""
        return ACCOUNTS if self.has_accounts else (self.user,)

    def home_of(self, user: str) -> Path:
        """The home directory that commands of ``user`` see as ``$HOME``."""
        return self.home / user

    def open_sshd(
        self, *lines: str, host: str | None = None, host_certificate: bool = True
    ) -> Sshd:
        """Start a server; ``lines`` are put first in its sshd_config and so win."""
        number = next(self._numbers)
        directory = self.directory / f"sshd{number}"
        directory.mkdir(mode=0o755)
        host = host or f"{self._network}.{number}"
        port = _free_port(host)
        key = asyncssh.generate_private_key("ssh-ed25519")
        key_path = directory / "host_key"
        key_path.touch(mode=0o600)
        key_path.write_bytes(key.export_private_key())
        certificate = self.host_ca.generate_host_certificate(key, f"host {host}", principals=[host])
        (directory / "host_key-cert.pub").write_bytes(certificate.export_certificate())
        (directory / "host_key.pub").write_bytes(key.export_public_key())
        config = directory / "sshd_config"
        if host_certificate:
            lines = (*lines, f"HostCertificate {directory}/host_key-cert.pub")
        config.write_text("\n".join((*lines, *self._config(directory, host, port))) + "\n")
        command = [SSHD, "-D", "-e", "-f", str(config)]
        if self.has_accounts:
            command = [
                *("unshare", "--mount", "--propagation", "private", "--"),
                *("/bin/sh", "-c", _NAMESPACE, "sh", str(self.directory), *command),
            ]
        log = directory / "sshd.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        server = Sshd(host, port, key_path, log, process, command)
        self.servers.append(server)
        _wait_for_banner(server)
        return server

    def credentials(self, **options: object) -> TestCredentials:
        """Certificates of this site's CA for whomever one asks; see :class:`TestCredentials`."""
        return TestCredentials(self, **options)  # type: ignore[arg-type]

    def build_profile(
        self,
        logins: Sequence[Sshd],
        *,
        known_hosts: Path | None = None,
        tunnel_account: bool = True,
        compute_port: int = 22,
        **login: object,
    ) -> ClusterProfile:
        """A profile whose login hosts are ``logins``; ``login`` adds keys to its login part."""
        service = {"name": "observer" if self.has_accounts else self.user}
        roles: dict[str, object] = {"observer": service}
        if tunnel_account:
            roles["tunnel"] = {"name": "tunnel" if self.has_accounts else self.user}
        return ClusterProfile.model_validate(
            {
                "name": "test",
                "title": {"en": "Test", "fr": "Test"},
                "scheduler": {"kind": "slurm"},
                "login": {
                    "hosts": [{"host": s.host, "port": s.port} for s in logins],
                    "known_hosts": known_hosts or self.known_hosts,
                    "connect_timeout": "5s",
                    **login,
                },
                "roles": roles,
                "tunnel": {"compute_port": compute_port},
                "partitions": {"debug": {"max_walltime": "1h", "max_memory": "1G"}},
                "environments": {"base": {"title": {"en": "Base", "fr": "Base"}}},
            }
        )

    def close(self) -> None:
        """Stop every server and remove the directory."""
        for server in self.servers:
            server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _config(self, directory: Path, host: str, port: int) -> list[str]:
        lines = [
            f"ListenAddress {host}",
            f"Port {port}",
            f"PidFile {directory}/pid",
            f"HostKey {directory}/host_key",
            f"TrustedUserCAKeys {self.user_ca_path}",
            "AuthorizedKeysFile none",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "AllowTcpForwarding yes",
            "AllowStreamLocalForwarding yes",
            "StreamLocalBindMask 0177",
            "PrintMotd no",
            "PrintLastLog no",
            "UseDNS no",
            "LogLevel VERBOSE",
        ]
        if not self.has_accounts:
            # The shell's start-up files are then read from the site's directory.
            lines.append(f"SetEnv HOME={self.home_of(self.user)}")
        return lines

    def _write_accounts(self, shell: str) -> None:
        self.home.mkdir(mode=0o711)
        passwd = Path("/etc/passwd").read_text()
        group = Path("/etc/group").read_text()
        shadow: list[str] = []
        for uid, name in enumerate(self.accounts, FIRST_UID):
            home = self.home_of(name)
            home.mkdir(mode=0o700)
            if not self.has_accounts:
                continue
            os.chown(home, uid, uid)
            passwd += f"{name}:x:{uid}:{uid}::{home}:{shell}\n"
            group += f"{name}:x:{uid}:\n"
            # Without PAM '!' would lock the account.
            shadow.append(f"{name}:*:19000:0:99999:7:::")
        if self.has_accounts:
            (self.directory / "passwd").write_text(passwd)
            (self.directory / "group").write_text(group)
            path = self.directory / "shadow"
            path.touch(mode=0o600)
            path.write_text("\n".join((*shadow, "root:*:19000:0:99999:7:::")) + "\n")

    def _write_known_hosts(self) -> None:
        ca = self.host_ca.export_public_key().decode().strip()
        self.known_hosts.write_text(f"@cert-authority * {ca}\n")


class TestCredentials(CredentialProvider):
    """Signs with the site's CA what is asked, or, for faults, something else.

    ``principal`` and the validity (seconds from now) can be set wrong on purpose; ``calls``
    counts the connections.
    """

    __test__ = False

    def __init__(
        self,
        site: SshdSite,
        *,
        principal: str | None = None,
        valid: tuple[int, int] = (-60, 600),
        forwarding: bool = True,
    ) -> None:
        self._site = site
        self.principal = principal
        self.valid = valid
        self.forwarding = forwarding
        self.calls: list[tuple[Actor, str | None]] = []

    async def fetch_client_keys(
        self, actor: Actor, *, node: str | None
    ) -> Sequence[asyncssh.SSHKeyPair]:
        self.calls.append((actor, node))
        key = asyncssh.generate_private_key("ssh-ed25519")
        now = int(time.time())
        certificate = self._site.user_ca.generate_user_certificate(
            key,
            "test",
            principals=[self.principal or actor.name],
            valid_after=now + self.valid[0],
            valid_before=now + self.valid[1],
            permit_port_forwarding=self.forwarding,
            permit_pty=False,
        )
        return [p for p in asyncssh.load_keypairs([(key, certificate)]) if p.has_cert]


@contextlib.contextmanager
def open_sshd_site(*, shell: str = "/bin/bash") -> Iterator[SshdSite]:
    """Make a site, and remove all of it at the end; ``shell`` is the accounts' login shell."""
    directory = Path(tempfile.mkdtemp(prefix="landfall-sshd-", dir="/tmp"))
    directory.chmod(0o755)
    site = SshdSite(directory, shell=shell)
    try:
        yield site
    finally:
        site.close()


def _can_make_namespace() -> bool:
    probe = ["unshare", "--mount", "--propagation", "private", "--"]
    probe += ["mount", "-t", "tmpfs", "tmpfs", "/run"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=10, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _wait_for_banner(server: Sshd) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if server._process.poll() is not None:
            break
        try:
            with socket.create_connection((server.host, server.port), timeout=5) as probe:
                if probe.recv(4) == b"SSH-":
                    return
        except OSError:
            pass  # not listening yet
        time.sleep(0.02)
    raise RuntimeError(f"sshd did not start: {server.log.read_text()[-2000:]}")


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
