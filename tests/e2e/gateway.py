"""The gateway's four processes on the hub host of a bed, as they run in production.

The signer runs under its own uid; connector, proxy and hub as ``landfall``. They are started with
the argv that ``gateway up`` uses, outside the checkout.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ruamel.yaml import YAML

import gateway
from gateway.cli.processes import Service
from gateway.cli.up import build_services
from gateway.settings import Settings, load_settings
from tests.testbed.bed import Bed
from tests.testbed.layout import SERVICES
from tests.testbed.processes import send

from . import site

URL = "http://127.0.0.1:8000"
GATEWAY, SIGNER = SERVICES
ORDER = ("signer", "connector", "proxy", "hub")
START_BOUND = 40.0
STOP_BOUND = 20.0


@dataclass
class Running:
    """A process and where its log stood when the present test began."""

    process: subprocess.Popen[bytes]
    shown: int = 0


class Gateway:
    """Async context: on entering all four serve; on leaving none of them or their children runs.

    Enter it inside ``bed.network("hub")``: how it looks whether a process serves needs the hub's
    loopback.
    """

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.directory = bed.hub_files / f"gw-{secrets.token_hex(2)}"
        self.settings: Settings
        self._services: dict[str, Service] = {}
        self._running: dict[str, Running] = {}
        self._last_words = ""
        self._homes = self._list_homes()

    async def __aenter__(self) -> Self:
        try:
            self._write_site()
            for name in ORDER:
                await self.start(name)
        except BaseException:
            print(self.read_logs(everything=True))
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

    async def _close(self) -> None:
        for name in reversed(ORDER):
            await self.stop(name)
        keep = os.environ.get("LANDFALL_E2E_LOGS")
        if keep and self.directory.exists():
            shutil.copytree(self.directory / "state" / "logs", keep, dirs_exist_ok=True)
        self._last_words = self.read_logs()
        for path in self._list_homes() - self._homes:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Processes

    async def start(self, name: str) -> float:
        """Start a process and wait until it serves; how many seconds that took."""
        service, began = self._services[name], time.monotonic()
        with service.log.open("ab") as log:
            process = subprocess.Popen(
                [*self._prefix(name), *_installed(service.argv)],
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        shown = self._running[name].shown if name in self._running else 0
        self._running[name] = Running(process, shown)
        async with asyncio.timeout(START_BOUND):
            while not await self._is_ready(name):
                assert process.poll() is None, f"{name} ended with status {process.returncode}"
                await asyncio.sleep(0.1)
        return time.monotonic() - began

    async def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """Signal a process and wait for its end; what it started ends too."""
        running = self._running.get(name)
        if running is None:
            return
        process = running.process
        if process.poll() is None:
            process.send_signal(number)
        try:
            await asyncio.to_thread(process.wait, STOP_BOUND)
        finally:
            _kill_group(process.pid)
            process.wait()
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        # What a service manager does: the hub's culler leads a session of its own and outlives a
        # hub that was killed.
        for found in self.bed.processes("hub", uid=GATEWAY.uid):
            if found.parent == 1:
                send(found.process, signal.SIGKILL)

    async def restart(self, name: str, number: int = signal.SIGTERM) -> None:
        """End with a signal and start again."""
        await self.stop(name, number)
        await self.start(name)

    def pid(self, name: str) -> int:
        """The process id of a service."""
        return self._running[name].process.pid

    async def _is_ready(self, name: str) -> bool:
        if name == "signer":  # its socket may be that of a former run
            return _answers(self.settings.signer_socket)
        return bool(await self._services[name].ready())

    def _prefix(self, name: str) -> list[str]:
        person = SIGNER if name == "signer" else GATEWAY
        # The signer hands its socket to the gateway's group.
        groups = f"--groups={GATEWAY.uid}" if name == "signer" else "--clear-groups"
        ids = [f"--reuid={person.uid}", f"--regid={person.uid}", groups]
        home = self.directory / ("signer" if name == "signer" else "state")
        return [
            *self.bed.in_namespace("hub"),
            *("setpriv", *ids, "--no-new-privs", "--"),
            *("env", "--chdir=/", f"HOME={home}", f"USER={person.name}", f"LOGNAME={person.name}"),
        ]

    def _environment(self, name: str) -> dict[str, str]:
        given = self._services[name].environment
        names = (
            "GATEWAY_SETTINGS",
            "PYTHONUNBUFFERED",
            "CONFIGPROXY_AUTH_TOKEN",
            "PATH",
            "PYTHONPATH",
        )
        kept = {key: given[key] for key in names if key in given}
        return kept | {"LANG": "C.UTF-8"}

    # Files

    def _write_site(self) -> None:
        directory = self.directory
        for name, owner, group, mode in (
            ("", 0, 0, 0o755),
            ("profiles", 0, 0, 0o755),
            ("state", GATEWAY.uid, GATEWAY.uid, 0o700),
            ("run", GATEWAY.uid, GATEWAY.uid, 0o700),
            ("signer", SIGNER.uid, SIGNER.uid, 0o700),
            ("signer-run", SIGNER.uid, GATEWAY.uid, 0o750),
        ):
            (directory / name).mkdir()
            _give(directory / name, owner, group, mode)
        key = directory / "signer" / "user_ca"
        shutil.copyfile(self.bed.user_ca_key, key)
        _give(key, SIGNER.uid, SIGNER.uid, 0o600)
        profile = site.build_profile(self.bed.known_hosts, self.bed.python)
        _write(directory / "profiles" / f"{site.CLUSTER}.yml", profile)
        _write(directory / "people.yml", site.build_people())
        _write(directory / "allow.yml", site.build_allow_list())
        settings = directory / "gateway.yml"
        _write(settings, site.build_settings(directory, gateway_uid=GATEWAY.uid))
        # It holds the demo's password: not for everybody on the hub host.
        os.chown(settings, 0, GATEWAY.uid)
        settings.chmod(0o640)
        self.settings = load_settings(settings)
        self._services = {
            service.name: service for service in build_services(self.settings, settings)
        }
        # build_services made the log directory and the proxy's token, as root.
        for path in (directory / "state").rglob("*"):
            os.chown(path, GATEWAY.uid, GATEWAY.uid)

    def _list_homes(self) -> set[Path]:
        """What lies in people's homes: sessions leave their settings there."""
        return {entry for home in self.bed.home.iterdir() for entry in home.iterdir()}

    # What they said

    def mark_logs(self) -> None:
        """From here on is what belongs to the next test."""
        for name, running in self._running.items():
            log = self._services[name].log
            running.shown = log.stat().st_size if log.exists() else 0

    def read_log(self, name: str) -> str:
        """The whole log of one process."""
        return self._services[name].log.read_text(errors="replace")

    def read_logs(self, *, everything: bool = False, limit: int = 12_000) -> str:
        """What the processes said since :meth:`mark_logs`, the end of it for each."""
        if not self.directory.exists():
            return self._last_words
        parts = []
        for name, running in self._running.items():
            said = self._services[name].log.read_bytes()[0 if everything else running.shown :]
            state = running.process.poll()
            words = said[-limit:].decode(errors="replace")
            parts.append(
                f"---- {name} ({'running' if state is None else f'status {state}'})\n{words}"
            )
        return "\n".join(parts)


def _installed(argv: Sequence[str]) -> list[str]:
    """``argv`` with files of the installed package: the checkout may be closed to the gateway."""
    show = "import gateway; print(gateway.__path__[0])"
    found = subprocess.run(
        [sys.executable, "-I", "-c", show], cwd="/", capture_output=True, text=True, check=True
    )
    return [word.replace(gateway.__path__[0], found.stdout.strip()) for word in argv]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _give(path: Path, uid: int, gid: int, mode: int) -> None:
    os.chown(path, uid, gid)
    path.chmod(mode)


def _write(path: Path, value: Any) -> None:
    with path.open("w") as stream:
        YAML(typ="rt", pure=True).dump(value, stream)  # keeps the order of keys
