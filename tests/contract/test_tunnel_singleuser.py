"""A real ``jupyterhub-singleuser`` in the real agent, reached through edge, tunnel and filter."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.tunnel.base import ServerStart
from gateway.tunnel.compute_ssh import ComputeSshOpener
from gateway.tunnel.edge import Edge
from gateway.tunnel.hub_api import HubApiFilter, HubApiScope
from gateway.values.endpoints import EdgeAddress
from tests.contract.tunnel import wait_listening
from tests.unit.tunnel.nodes import LAUNCH_ID, SSHD, Nodes, start_nodes

SINGLEUSER = shutil.which("jupyterhub-singleuser", path=str(Path(sys.executable).parent))
pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.skipif(SINGLEUSER is None, reason="jupyterhub-singleuser is not installed"),
    pytest.mark.timeout(120),
]
TOKEN = "0123456789abcdef0123456789abcdef"
BASE = "/user/alice/work/"
SCOPE = "access:servers!server=alice/work"
_PORTS = itertools.count(20000 + os.getpid() % 20000)


@dataclass
class Hub:
    """Answers what a single-user server asks; ``asked`` are the request lines."""

    asked: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    port: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        answer: object = {"version": "6.1.1"}
        if request.path == "/hub/api/user":
            if request.headers["Authorization"] != "token visitor":
                return web.Response(status=403)
            answer = {"kind": "user", "name": "alice", "admin": False, "scopes": [SCOPE]}
        elif request.method == "POST":
            self.bodies.append(await request.json())
        return web.json_response(answer, headers={"X-JupyterHub-Version": "6.1.1"})


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    hub = Hub()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", hub.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hub.port = runner.addresses[0][1]
    yield hub
    await runner.cleanup()


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    nodes = await start_nodes()
    yield nodes
    await nodes.stop()


def build_start(directory: Path) -> ServerStart:
    url = "http+unix://%2flandfall-hub-socket/hub/api"
    return ServerStart(
        "s1",
        {
            "JUPYTER_CONFIG_DIR": str(directory / "config"),
            "JUPYTER_DATA_DIR": str(directory / "data"),
            "JUPYTERHUB_API_TOKEN": TOKEN,
            "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-alice-work",
            "JUPYTERHUB_USER": "alice",
            "JUPYTERHUB_SERVER_NAME": "work",
            "JUPYTERHUB_SERVICE_PREFIX": BASE,
            "JUPYTERHUB_BASE_URL": "/",
            "JUPYTERHUB_API_URL": url,
            "JUPYTERHUB_ACTIVITY_URL": f"{url}/users/alice/activity",
            "JUPYTERHUB_ACTIVITY_INTERVAL": "1",
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": f'["{SCOPE}"]',
            "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{BASE}oauth_callback",
        },
        ["--allow-root"] if os.getuid() == 0 else [],
    )


async def test_singleuser_server(nodes: Nodes, hub: Hub) -> None:
    assert SINGLEUSER is not None
    api = HubApiFilter(f"http://127.0.0.1:{hub.port}/hub/api", nodes.directory / "api")
    await api.open()
    hub_socket = await api.add(
        LAUNCH_ID, HubApiScope("alice", "work", "jupyterhub-user-alice-work", TOKEN)
    )
    pool = nodes.pool()
    opener = ComputeSshOpener(pool, nodes.profile())
    edge = Edge(EdgeAddress("127.88.7.2", next(_PORTS)), base_url=BASE, launch_page="/x")
    await edge.open()
    try:
        await nodes.start_agent(SINGLEUSER)
        tunnel = await opener.open(nodes.target(hub_socket), timeout=20)
        edge.connect(tunnel)
        async with aiohttp.ClientSession(f"{edge.address.url}{BASE}") as session:
            assert (await _fetch(session, "api"))[0] == 200
            assert edge.connections == 0
            phase = await tunnel.send_start(build_start(nodes.directory))
            async with asyncio.timeout(60):
                await wait_listening(tunnel, phase)
            status, _ = await _fetch(session, "api")
            assert (status, edge.connections) == (200, 1)
            visitor = {"Authorization": "token visitor"}
            status, kernels = await _fetch(session, "api/kernels", visitor)
            assert (status, kernels) == (200, "[]")
            stranger = {"Authorization": "token stranger"}
            assert (await _fetch(session, "api/kernels", stranger))[0] == 403
        async with asyncio.timeout(20):
            while "POST /hub/api/users/alice/activity" not in hub.asked:
                await asyncio.sleep(0.1)
        assert set(hub.bodies[0]["servers"]) == {"work"}
        assert set(hub.asked) == {
            "GET /hub/api",
            "GET /hub/api/user",
            "POST /hub/api/users/alice/activity",
        }
        await tunnel.send_stop()
        await asyncio.wait_for(tunnel.wait_closed(), 20)
    finally:
        await edge.close()
        await opener.close()
        await pool.close()
        await api.close()


async def _fetch(
    session: aiohttp.ClientSession, path: str, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    async with session.get(path, headers=headers) as answer:
        return answer.status, await answer.text()
