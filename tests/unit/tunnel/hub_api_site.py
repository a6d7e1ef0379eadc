"""A filter in front of a stand-in hub, and raw requests to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.tunnel.hub_api import HubApiFilter, HubApiScope

TOKEN = "0123456789abcdef0123456789abcdef"
SCOPE = HubApiScope("alice", "work", "jupyterhub-user-alice-work", TOKEN)
LAUNCH = "00aa11bb22cc33dd"
PREFIX = "/hub/api"
ACTIVITY = "/hub/api/users/alice/activity"
WHEN = "2026-11-20T20:50:58.000000Z"
OWN = {"Authorization": f"token {TOKEN}"}
OTHER = {"Authorization": "token " + "f" * 32}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
OAUTH = (
    f"client_id=jupyterhub-user-alice-work&client_secret={TOKEN}&grant_type=authorization_code"
    "&code=abc&redirect_uri=%2Fuser%2Falice%2Fwork%2Foauth_callback&code_verifier=v"
)


@dataclass
class Hub:
    """Stands for the hub; remembers what reached it."""

    port: int = 0
    runner: web.AppRunner | None = None
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    answer: bytes = b"{}"
    status: int = 200

    async def open(self) -> None:
        async def handle(request: web.Request) -> web.Response:
            body = await request.read()
            headers = {k.lower(): v for k, v in request.headers.items()}
            self.seen.append((request.method, request.raw_path, headers, body))
            return web.Response(
                status=self.status,
                body=self.answer,
                content_type="application/json",
                headers={
                    "X-JupyterHub-Version": "6.1.1",
                    "Set-Cookie": "_xsrf=leak",
                    "Location": "/elsewhere",
                },
            )

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handle)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def close(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    hub = Hub()
    await hub.open()
    yield hub
    await hub.close()


@pytest.fixture
async def api(hub: Hub, tmp_path: Path) -> AsyncIterator[HubApiFilter]:
    api = HubApiFilter(f"http://127.0.0.1:{hub.port}/hub/api", tmp_path / "s", hold=5)
    await api.open()
    yield api
    await api.close()


@pytest.fixture
async def path(api: HubApiFilter) -> Path:
    return await api.add(LAUNCH, SCOPE)


async def ask(path: Path, raw: bytes) -> Answer:
    """Send bytes as they are; read one answer (``Connection: close`` is in the request)."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(raw)
        async with asyncio.timeout(20):
            data = await reader.read()
    finally:
        writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return Answer(int(lines[0].split(" ")[1]), headers, body)


def build(
    method: str, target: str, headers: dict[str, str] | None = None, body: bytes | str = b""
) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {target} HTTP/1.1", "Host: hub", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if data:
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def activity(servers: object = None, **more: object) -> str:
    given = {"work": {"last_activity": WHEN}} if servers is None else servers
    return json.dumps({"servers": given, "last_activity": WHEN, **more})
