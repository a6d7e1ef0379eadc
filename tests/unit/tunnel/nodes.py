"""A login node and a compute node: two real sshd on loopback, for the user who runs the tests."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from gateway.profiles.models import ClusterProfile
from gateway.transport.base import Actor
from gateway.transport.pool import SshPool
from gateway.tunnel.base import TunnelTarget
from gateway.values.identity import ClusterUser

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
AGENT = Path(__file__).parents[3] / "gateway" / "remote"
LAUNCH_ID = "00aa11bb22cc33dd"
USER = getpass.getuser()


@dataclass
class Keys:
    """A credential provider with one key, whatever the role."""

    key: asyncssh.SSHKey

    async def fetch_client_keys(
        self, actor: Actor, *, node: str | None
    ) -> Sequence[asyncssh.SSHKeyPair]:
        return asyncssh.load_keypairs([self.key])


@dataclass
class Sshd:
    port: int
    process: asyncio.subprocess.Process
    host_key: asyncssh.SSHKey

    def cut(self) -> None:
        """Kill what serves connections; the listener stays."""
        for pid in reversed(find_descendants(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()


@dataclass
class Nodes:
    """``directory`` is short: sockets lie in it."""

    directory: Path
    login: Sshd
    compute: Sshd
    key: asyncssh.SSHKey
    agents: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def launch_directory(self) -> Path:
        return self.directory / "launch"

    def profile(self, *, node_host_key: asyncssh.SSHKey | None = None) -> ClusterProfile:
        known = self.directory / "known_hosts"
        node_key = node_host_key or self.compute.host_key
        known.write_text(
            f"[127.0.0.1]:{self.login.port} {_public(self.login.host_key)}\n"
            f"[127.0.0.1]:{self.compute.port} {_public(node_key)}\n"
        )
        title = {"en": "Test", "fr": "Test"}
        return ClusterProfile.model_validate(
            {
                "name": "test",
                "title": title,
                "scheduler": {"kind": "slurm"},
                "login": {
                    "hosts": [{"host": "127.0.0.1", "port": self.login.port}],
                    "known_hosts": known,
                },
                "roles": {"observer": {"name": "observer"}},
                "tunnel": {"compute_port": self.compute.port},
                "partitions": {"short": {"max_walltime": "1h", "max_memory": "1G"}},
                "environments": {"base": {"title": title}},
            }
        )

    def pool(self, profile: ClusterProfile | None = None) -> SshPool:
        return SshPool(profile or self.profile(), Keys(self.key))

    def target(self, hub_api_socket: Path, stale_nonce: str | None = None) -> TunnelTarget:
        return TunnelTarget(
            launch_id=LAUNCH_ID,
            user=ClusterUser("test", USER),
            node="127.0.0.1",
            launch_directory=str(self.launch_directory),
            hub_api_socket=hub_api_socket,
            stale_nonce=stale_nonce,
        )

    async def start_agent(self, *command: str) -> asyncio.subprocess.Process:
        """Start the real agent; by default its "server" echoes on nb.sock."""
        self.launch_directory.mkdir(mode=0o700, exist_ok=True)
        argv = command or (sys.executable, str(Path(__file__).with_name("echo_server.py")))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(AGENT),
            *("--launch-id", LAUNCH_ID, "--directory", str(self.launch_directory)),
            *("--socket-directory", str(self.directory), "--"),
            *argv,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.agents.append(process)
        return process

    async def stop(self) -> None:
        for process in self.agents:
            if process.returncode is None:
                process.terminate()
            await process.wait()
        await self.compute.stop()
        await self.login.stop()
        shutil.rmtree(self.directory)


async def start_nodes(*compute_options: str) -> Nodes:
    """Start both; ``compute_options`` are lines of the compute node's sshd_config."""
    directory = Path(tempfile.mkdtemp(prefix="lf", dir="/tmp"))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    key = asyncssh.generate_private_key("ssh-ed25519")
    (directory / "authorized_keys").write_bytes(key.export_public_key())
    return Nodes(
        directory,
        await _start_sshd(directory, "login"),
        await _start_sshd(directory, "compute", *compute_options),
        key,
    )


async def _start_sshd(directory: Path, name: str, *options: str) -> Sshd:
    assert SSHD is not None
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    host_key_path = directory / f"{name}.key"
    host_key.write_private_key(host_key_path)
    host_key_path.chmod(0o600)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / f"{name}.conf"
    lines = [
        *options,
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {host_key_path}",
        f"AuthorizedKeysFile {directory / 'authorized_keys'}",
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
    ]
    config.write_text("\n".join(lines) + "\n")
    process = await asyncio.create_subprocess_exec(
        SSHD, "-D", "-e", "-f", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return Sshd(port, process, host_key)


def find_descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *find_descendants(int(child))]
    return found


def _public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()
