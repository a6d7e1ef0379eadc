"""The agent with the real single-user server of JupyterHub, and a small hub API behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from tests.unit.remote.agents import RunningAgent, run_agent

TOKEN = "0f" * 16
PREFIX = "/user/alice/"
SERVER = Path(sys.executable).with_name("jupyterhub-singleuser")
USER = {
    "kind": "user",
    "name": "alice",
    "admin": False,
    "groups": [],
    "scopes": ["access:servers!server=alice/", "read:users:activity!user=alice"],
    "session_id": None,
}


@contextlib.asynccontextmanager
async def hub_api(socket: Path, asked: list[str]) -> AsyncIterator[None]:
    """Answer what a single-user server asks its hub, on a unix socket."""

    async def answer(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        if request.path == "/hub/api":  # the version, asked for without a token
            return web.json_response({"version": "6.1.1"})
        if request.headers.get("Authorization") not in (f"token {TOKEN}", f"Bearer {TOKEN}"):
            return web.json_response({}, status=403)
        if request.path == "/hub/api/user":
            return web.json_response(USER)
        return web.json_response({"version": "6.1.1"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield
    finally:
        await runner.cleanup()


def build_environment(directory: Path) -> dict[str, str]:
    hub = quote(str(directory / "hub.sock"), safe="").lower()
    return {
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "JUPYTERHUB_API_URL": f"http+unix://{hub}/hub/api",
        "JUPYTERHUB_ACTIVITY_URL": f"http+unix://{hub}/hub/api/users/alice/activity",
        "JUPYTERHUB_ACTIVITY_INTERVAL": "1",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-alice",
        "JUPYTERHUB_HOST": "",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": '["access:servers!server=alice/"]',
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:servers!server=alice/"]',
        "JUPYTERHUB_SERVER_NAME": "",
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
        "JUPYTERHUB_SERVICE_URL": f"http://127.88.0.1:40000{PREFIX}",
        "JUPYTERHUB_USER": "alice",
        "JPY_API_TOKEN": TOKEN,
    }


class Notebook:
    """Requests over ``nb.sock``."""

    def __init__(self, directory: Path) -> None:
        self._connector = aiohttp.UnixConnector(str(directory / "nb.sock"))
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            headers={"Authorization": f"token {TOKEN}"},
            timeout=aiohttp.ClientTimeout(total=20),
        )

    async def __aenter__(self) -> aiohttp.ClientSession:
        return self._session

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()


# Jupyter refuses root, which these tests may be.
ROOT = ["--allow-root"] if os.geteuid() == 0 else []


@contextlib.asynccontextmanager
async def session(
    asked: list[str],
) -> AsyncIterator[tuple[RunningAgent, Path, contextlib.AsyncExitStack]]:
    """A server that listens, its first tunnel up."""
    async with (
        run_agent([str(SERVER), "--ServerApp.default_url=/lab"]) as agent,
        contextlib.AsyncExitStack() as tunnels,
    ):
        directory = await agent.directory()
        await tunnels.enter_async_context(hub_api(directory / "hub-1.sock", asked))
        control = await agent.connect()
        control.hello("hub-1.sock")
        control.start(build_environment(directory), *ROOT)
        try:
            await control.wait_phase("listening")
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(agent.log) from error
        yield agent, directory, tunnels


@pytest.fixture
def asked() -> list[str]:
    return []


async def test_the_server_listens_answers_and_runs_a_kernel_over_ipc(asked: list[str]) -> None:
    began = time.monotonic()
    async with session(asked) as (agent, directory, _):
        async with Notebook(directory) as notebook:
            async with notebook.get(f"http://x{PREFIX}api") as answer:
                assert answer.status == 200
                assert "version" in await answer.json()
            assert time.monotonic() - began < 20
            async with notebook.post(
                f"http://x{PREFIX}api/kernels", json={"name": "python3"}
            ) as answer:
                kernel = (await answer.json())["id"]
                assert answer.status == 201
            async with (
                asyncio.timeout(20),
                notebook.ws_connect(f"http://x{PREFIX}api/kernels/{kernel}/channels") as channel,
            ):
                message = {
                    "header": {"msg_id": "m", "msg_type": "execute_request", "session": "s"},
                    "parent_header": {},
                    "metadata": {},
                    "content": {"code": "6*7", "silent": False},
                    "channel": "shell",
                }
                await channel.send_json(message)
                async for frame in channel:
                    content = frame.json()["content"] if frame.type.name == "TEXT" else {}
                    if content.get("data", {}).get("text/plain") == "42":
                        break
            # Paths of ipc sockets stay inside the private directory.
            assert list((directory / "r").glob(f"kernel-{kernel}-ipc-*"))
        assert "GET /hub/api" in asked
        assert TOKEN not in agent.log
        assert TOKEN not in Path(f"/proc/{agent.process.pid}/environ").read_text()
        control = await agent.connect()
        control.hello()
        control.send(type="stop")
        assert await agent.wait() == 0
        assert not directory.exists()


async def test_the_hub_is_reached_through_each_new_tunnel(asked: list[str]) -> None:
    async with session(asked) as (agent, directory, tunnels):
        assert any("activity" in line or line == "GET /hub/api" for line in asked)
        await tunnels.aclose()
        agent.controls[0].writer.close()
        await agent.wait_log("The tunnel is gone")
        later: list[str] = []
        async with (
            hub_api(directory / "hub-2.sock", later),
            Notebook(directory) as notebook,
            asyncio.timeout(30),
        ):
            (await agent.connect()).hello("hub-2.sock")
            while not any("activity" in line for line in later):
                await asyncio.sleep(0.1)
            async with notebook.get(f"http://x{PREFIX}api/contents") as answer:
                assert answer.status == 200
        assert not (directory / "hub-1.sock").exists()
