"""A real JupyterHub and a real proxy, as processes, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from gateway.hub.proxy import build_proxy_command, build_proxy_environment
from gateway.settings import DummySignIn, HubSettings, Settings
from tests.unit.hub.stand_in import StandIn

PASSWORD = "correct horse"
CONFIG = """
import os, pathlib
from gateway.hub.config import configure
from gateway.hub.inherited import check_inherited
from gateway.settings import Settings
configure(c, Settings.model_validate_json(pathlib.Path(os.environ["TEST_SETTINGS"]).read_text()))
{extra}
check_inherited(c)
"""


def find_proxy() -> str:
    beside = Path(sys.executable).with_name("configurable-http-proxy")
    found = str(beside) if beside.exists() else shutil.which("configurable-http-proxy")
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail("configurable-http-proxy is not installed; make dev-env installs it")
    pytest.skip("configurable-http-proxy is not installed; make dev-env installs it")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def build_settings(directory: Path, **hub: Any) -> Settings:
    public, api, proxy_api = free_ports(3)
    for name in ("state", "run"):
        (directory / name).mkdir(mode=0o700, exist_ok=True)
    return Settings(
        state_directory=directory / "state",
        runtime_directory=directory / "run",
        profiles_directory=directory,
        sign_in=DummySignIn(kind="dummy", users=("alice", "bob", "carol"), password=PASSWORD),
        hub=HubSettings(
            bind_url=f"http://127.0.0.1:{public}",
            api_port=api,
            proxy_api_port=proxy_api,
            proxy_command=(find_proxy(),),
            **{"idle_timeout": None, "admin_users": frozenset({"carol"})} | hub,
        ),
    )


@dataclass
class RunningHub:
    """Hub and proxy of one test; the stand-in runs in the test itself."""

    settings: Settings
    stand_in: StandIn
    directory: Path
    extra_config: str = ""
    proxy: asyncio.subprocess.Process | None = None
    hub: asyncio.subprocess.Process | None = None
    sessions: list[Browser] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.settings.hub.bind_url

    @property
    def log(self) -> str:
        return (self.directory / "hub.log").read_text(errors="replace")

    async def open(self) -> None:
        await self.open_proxy()
        await self.open_hub()

    async def open_proxy(self) -> None:
        node = str(Path("/usr/bin"))
        environment = os.environ | build_proxy_environment(self.settings)
        environment["PATH"] = f"{environment['PATH']}:{node}"
        with (self.directory / "proxy.log").open("ab") as log:
            self.proxy = await asyncio.create_subprocess_exec(
                *build_proxy_command(self.settings), stdout=log, stderr=log, env=environment
            )
        await wait_for_port(self.settings.hub.proxy_api_port)

    async def open_hub(self) -> None:
        config = self.directory / "jupyterhub_config.py"
        config.write_text(CONFIG.format(extra=self.extra_config))
        settings = self.directory / "settings.json"
        settings.write_text(self.settings.model_dump_json())
        environment = os.environ | {
            "TEST_SETTINGS": str(settings),
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "PYTHONWARNINGS": "ignore",
        }
        with (self.directory / "hub.log").open("ab") as log:
            self.hub = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "jupyterhub", "-f", str(config)),
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.directory,
            )
        async with aiohttp.ClientSession() as session, asyncio.timeout(40):
            while True:
                assert self.hub.returncode is None, self.log
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/hub/health") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.2)

    async def close_hub(self, *, kill: bool = False) -> None:
        if self.hub is not None:
            await end_process(self.hub, kill=kill)
            self.hub = None

    async def close(self) -> None:
        for session in self.sessions:
            await session.http.close()
        await self.close_hub()
        if self.proxy is not None:
            await end_process(self.proxy)

    async def sign_in(self, name: str, language: str = "en") -> Browser:
        http = aiohttp.ClientSession(
            base_url=self.url,
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            headers={"Accept-Language": language},
        )
        browser = Browser(http, name)
        self.sessions.append(browser)
        async with http.get("/hub/login") as response:
            assert response.status == 200
        form = {"username": name, "password": PASSWORD, "_xsrf": browser.xsrf()}
        async with http.post("/hub/login", data=form, allow_redirects=False) as response:
            assert response.status == 302, await response.text()
        return browser


@dataclass
class Browser:
    """One person's cookies."""

    http: aiohttp.ClientSession
    name: str

    def xsrf(self) -> str:
        cookies = [each for each in self.http.cookie_jar if each.key == "_xsrf"]
        longest = max(cookies, key=lambda each: len(each["path"]))
        return longest.value

    async def get(self, path: str) -> tuple[int, str, str]:
        """Return status, final path and text."""
        async with self.http.get(path) as response:
            return response.status, urlsplit(str(response.url)).path, await response.text()

    async def post(self, path: str, data: Mapping[str, str]) -> tuple[int, str, str]:
        query = {"_xsrf": self.xsrf()}
        async with self.http.post(path, data=dict(data), params=query) as response:
            return response.status, urlsplit(str(response.url)).path, await response.text()

    async def api(self, method: str, path: str, **body: Any) -> tuple[int, str]:
        headers = {"X-XSRFToken": self.xsrf(), "Referer": f"{self.http._base_url}hub/home"}
        async with self.http.request(
            method, f"/hub/api{path}", headers=headers, **body
        ) as response:
            return response.status, await response.text()


FORM = {
    "cluster": "rorqual",
    "partition": "short",
    "account": "physics",
    "environment": "python",
    "walltime": "01:00:00",
    "cores": "2",
    "memory": "4G",
}


async def until(condition: Any, *, seconds: float = 20.0) -> Any:
    """Wait until ``condition()`` (may be async) is true, and return it."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.1)


async def end_process(process: asyncio.subprocess.Process, *, kill: bool = False) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill() if kill else process.terminate()
    try:
        async with asyncio.timeout(15):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def wait_for_port(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            await writer.wait_closed()
            return


@contextlib.asynccontextmanager
async def open_hub(
    directory: Path, *, extra_config: str = "", **hub: Any
) -> AsyncIterator[RunningHub]:
    settings = build_settings(directory, **hub)
    stand_in = StandIn(settings.connector_socket)
    await stand_in.open()
    running = RunningHub(settings, stand_in, directory, extra_config)
    try:
        await running.open()
        yield running
    finally:
        await running.close()
        await stand_in.close()
