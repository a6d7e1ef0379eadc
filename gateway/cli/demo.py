"""The demo: everything that ``gateway up --rehearsal`` needs, made in one directory and removed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ruamel.yaml import YAML

from gateway.errors import ConfigurationError
from gateway.rehearsal.cluster import RehearsalCluster
from gateway.rehearsal.hosts import OBSERVER, TUNNEL, USERS
from gateway.rehearsal.profile import CLUSTER, build_rehearsal_profile
from gateway.signer.authority import generate_authority
from gateway.text import text

PASSWORD: Final = "rehearsal"  # noqa: S105 - printed at start; loopback only


class Demo:
    """An async context: on entering, the cluster runs and the settings are written; on leaving,
    its jobs have ended and the directory is gone (when it was made here)."""

    def __init__(self, directory: Path | None, port: int, say: Callable[[str], None]) -> None:
        self._given = directory
        self._port = port
        self._say = say
        self.directory = Path()
        self.cluster: RehearsalCluster | None = None

    @staticmethod
    def drop_root() -> None:
        """Become an unprivileged user for good when started as root: jobs, Jupyter and the signer
        never run as root. ``SUDO_UID`` is preferred, else ``nobody``."""
        if os.geteuid() != 0:
            return
        uid = int(os.environ.get("SUDO_UID", "0")) or pwd.getpwnam("nobody").pw_uid
        account = pwd.getpwuid(uid)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(uid)
        os.environ |= {"USER": account.pw_name, "LOGNAME": account.pw_name, "HOME": "/"}
        if not os.access(sys.executable, os.X_OK):
            raise ConfigurationError(
                text(
                    "The demo was started as root and runs as {user}, who may not run {python}. "
                    "Make the environment elsewhere (make demo VENV=/opt/landfall), or start the "
                    "demo as an ordinary user.",
                    user=account.pw_name,
                    python=sys.executable,
                )
            )

    @property
    def settings_path(self) -> Path:
        """The settings that the demo runs with."""
        return self.directory / "gateway.yml"

    async def __aenter__(self) -> Self:
        self.directory = _make_directory(self._given)
        os.environ["HOME"] = str(self.directory)
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._close()

    async def _open(self) -> None:
        for name in ("state", "run", "profiles"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        ca_key = self.directory / "state" / "user_ca"
        public = generate_authority(ca_key)
        self.cluster = RehearsalCluster(self.directory / "cluster", user_ca=public)
        await self.cluster.open()
        self._say(f"rehearsal cluster is ready (login node {self.cluster.login_address})")
        build_rehearsal_profile(self.cluster, self.directory / "profiles")
        _write(self.directory / "people.yml", _people())
        _write(self.directory / "allow.yml", _allow_list())
        _write(self.settings_path, self._settings(ca_key))

    async def _close(self) -> None:
        if self.cluster is not None:
            await self.cluster.close()
        if self._given is None:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _settings(self, ca_key: Path) -> dict[str, object]:
        hub_port, proxy_port = _free_ports(2)
        return {
            "state_directory": "state",
            "runtime_directory": "run",
            "profiles_directory": "profiles",
            "sign_in": {"kind": "dummy", "users": list(USERS), "password": PASSWORD},
            "hub": {
                "bind_url": f"http://127.0.0.1:{self._port}",
                "api_port": hub_port,
                "proxy_api_port": proxy_port,
            },
            "signer": {
                "ca_key": str(ca_key),
                "allow_list": "allow.yml",
                "audit_log": "state/signer-audit.jsonl",
            },
            "identity": {"table": "people.yml"},
        }

    def invitation(self) -> str:
        """What to do now, for the person at the terminal."""
        return f"""
  Landfall is up:  http://127.0.0.1:{self._port}

  Sign in as {", ".join(USERS[:-1])} or {USERS[-1]}; the password is "{PASSWORD}".
  Try this:  start a server in partition "interactive", run a cell, open a terminal and type
             squeue; ask for more cores than are free and watch why it waits; start the
             environment that fails and read why; stop this with Ctrl-C.
  Settings:  {self.settings_path}
  Launches:  {Path(sys.executable).with_name("gateway")} launches list --config {self.settings_path}
"""


def _make_directory(given: Path | None) -> Path:
    # Short: it holds unix sockets, whose paths are limited to 107 bytes.
    if given is None:
        return Path(tempfile.mkdtemp(prefix="landfall-", dir="/tmp"))
    given = given.absolute()
    if len(str(given)) > 50:
        raise ConfigurationError(
            text(
                "{path} is too long for unix sockets; choose a shorter directory.", path=str(given)
            )
        )
    given.mkdir(mode=0o700, parents=True, exist_ok=True)
    return given


def _people() -> dict[str, object]:
    return {
        "people": [
            {"source": "dummy", "subject": user, "clusters": {CLUSTER: {"user": user}}}
            for user in USERS
        ]
    }


def _allow_list() -> dict[str, object]:
    return {
        "clusters": {CLUSTER: {"users": list(USERS), "observer": [OBSERVER], "tunnel": [TUNNEL]}}
    }


def _write(path: Path, value: object) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        YAML(typ="safe", pure=True).dump(value, stream)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
