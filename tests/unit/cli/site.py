"""Everything that ``gateway doctor`` needs, on a rehearsal cluster: settings, profile, signer."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from gateway.cli.doctor import visit
from gateway.doctor.findings import Result
from gateway.doctor.subject import Question
from gateway.rehearsal.cluster import RehearsalCluster
from gateway.rehearsal.hosts import OBSERVER, TUNNEL, USERS
from gateway.rehearsal.profile import CLUSTER, build_rehearsal_profile
from gateway.settings import load_settings
from gateway.signer.authority import generate_authority
from gateway.signer.server import build_signer, serve_signer


@dataclass
class Site:
    """``settings`` is the path of gateway.yml; files may be changed between visits."""

    directory: Path
    cluster: RehearsalCluster

    @property
    def settings(self) -> Path:
        return self.directory / "gateway.yml"

    @property
    def profile(self) -> Path:
        return self.directory / "profiles" / f"{CLUSTER}.yml"

    def home(self, user: str) -> Path:
        return self.cluster.hosts.home(user)

    def allow(self, **rules: list[str]) -> None:
        """Replace rules of the signer's allow-list."""
        every = {"users": list(USERS), "observer": [OBSERVER], "tunnel": [TUNNEL]}
        write(self.directory / "allow.yml", {"clusters": {CLUSTER: every | rules}})

    @contextlib.contextmanager
    def changed_profile(self) -> Any:
        """The profile's document, to be changed inside; as before afterwards."""
        before = self.profile.read_bytes()
        yaml = YAML(typ="rt", pure=True)
        document = yaml.load(before.decode())

        def save() -> None:
            with self.profile.open("w") as stream:
                yaml.dump(document, stream)

        try:
            yield document, save
        finally:
            self.profile.write_bytes(before)

    async def visit(self, user: str | None = None, **more: Any) -> tuple[int, dict[str, Result]]:
        """Run the doctor here; its exit status, and the results by station."""
        results: dict[str, Result] = {}

        def report(result: Result) -> None:
            assert result.key not in results
            results[result.key] = result

        question = Question(self.settings, CLUSTER, user, **more)
        return await visit(question, report), results

    def leftovers(self) -> list[str]:
        """Live jobs, and launch directories of anybody."""
        jobs = [str(job.id) for job in self.cluster.state.jobs.values() if job.live]
        kept = [str(p) for user in USERS for p in self.home(user).glob(".local/**/launches/*")]
        return jobs + kept


def write(path: Path, value: object) -> None:
    """Write YAML that the signer trusts."""
    path.write_text("")
    path.chmod(0o600)
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(value, stream)


@asynccontextmanager
async def open_site() -> AsyncIterator[Site]:
    """A cluster and a signer that serves it."""
    # Short: unix sockets lie below it.
    directory = Path(tempfile.mkdtemp(prefix=f"lf-cli-{secrets.token_hex(2)}"))
    try:
        for name in ("state", "run", "profiles"):
            (directory / name).mkdir(mode=0o700)
        public = generate_authority(directory / "state" / "user_ca")
        cluster = RehearsalCluster(directory / "cluster", user_ca=public)
        await cluster.open()
        site = Site(directory, cluster)
        try:
            build_rehearsal_profile(cluster, directory / "profiles")
            site.allow()
            write(site.settings, build_settings())
            settings = load_settings(site.settings)
            signer = asyncio.create_task(
                serve_signer(build_signer(settings), settings.signer_socket)
            )
            try:
                async with asyncio.timeout(10):
                    while not settings.signer_socket.is_socket():
                        await asyncio.sleep(0.02)
                yield site
            finally:
                signer.cancel()
                await asyncio.wait({signer})
        finally:
            await cluster.close()
    finally:
        shutil.rmtree(directory)


def build_settings() -> dict[str, Any]:
    """gateway.yml, all paths beside it."""
    return {
        "state_directory": "state",
        "runtime_directory": "run",
        "profiles_directory": "profiles",
        "sign_in": {"kind": "dummy", "users": list(USERS), "password": "rehearsal"},
        "signer": {
            "ca_key": "state/user_ca",
            "allow_list": "allow.yml",
            "audit_log": "state/audit.jsonl",
        },
    }
