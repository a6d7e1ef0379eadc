"""The hub-API filter over real sockets: what a single-user server needs, and attacks."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.errors import ConfigurationError
from gateway.tunnel.hub_api import HubApiFilter, HubApiScope

TOKEN = "0123456789abcdef0123456789abcdef"
SCOPE = HubApiScope("alice", "work", "jupyterhub-user-alice-work", TOKEN)
LAUNCH = "00aa11bb22cc33dd"
PREFIX = "/hub/api"
ACTIVITY = "/hub/api/users/alice/activity"
WHEN = "2026-11-20T20:50:58.000000Z"
OWN = {"Authorization": f"token {TOKEN}"}
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


@pytest.mark.parametrize("target", ["/hub/api", "/hub/api/"])
async def test_version(path: Path, hub: Hub, target: str) -> None:
    answer = await ask(path, build("GET", target))
    assert answer.status == 200
    assert answer.headers["x-jupyterhub-version"] == "6.1.1"
    assert not {"set-cookie", "location"} & answer.headers.keys()
    assert hub.seen[0][:2] == ("GET", target)


async def test_visitors_token_is_looked_up(path: Path, hub: Hub) -> None:
    hub.answer = b'{"name": "bob"}'
    answer = await ask(path, build("GET", f"{PREFIX}/user", {"Authorization": "Bearer visitor.1"}))
    assert answer.json() == {"name": "bob"}
    assert hub.seen[0][2]["authorization"] == "token visitor.1"


async def test_activity_of_its_own_server(path: Path, hub: Hub) -> None:
    answer = await ask(path, build("POST", ACTIVITY, OWN | JSON, activity()))
    assert answer.status == 200
    method, target, headers, body = hub.seen[0]
    assert (method, target) == ("POST", ACTIVITY)
    assert headers["authorization"] == f"token {TOKEN}"
    assert json.loads(body) == json.loads(activity())


async def test_oauth_code_is_exchanged(path: Path, hub: Hub) -> None:
    answer = await ask(path, build("POST", f"{PREFIX}/oauth2/token", OWN | FORM, OAUTH))
    assert answer.status == 200
    assert hub.seen[0][3].decode() == OAUTH


async def test_only_named_headers_pass(path: Path, hub: Hub) -> None:
    extra = {
        "Cookie": "jupyterhub-session-id=x",
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-HTTP-Method-Override": "DELETE",
        "X-Real-IP": "127.0.0.1",
        "Forwarded": "for=127.0.0.1",
        "Origin": "http://evil",
        "X-XSRFToken": "x",
        "Transfer": "x",
    }
    await ask(path, build("GET", f"{PREFIX}/user", OWN | extra))
    assert hub.seen[0][2].keys() <= {"host", "accept", "accept-encoding", "authorization"}
    assert hub.seen[0][2]["host"] == f"127.0.0.1:{hub.port}"


OTHER = {"Authorization": "token " + "f" * 32}
ATTACKS = {
    "admin list of users": build("GET", "/hub/api/users", OWN),
    "own user model": build("GET", "/hub/api/users/alice", OWN),
    "start a server": build("POST", "/hub/api/users/alice/server", OWN | JSON, "{}"),
    "stop a server": build("DELETE", "/hub/api/users/alice/server", OWN),
    "make a token": build("POST", "/hub/api/users/alice/tokens", OWN | JSON, "{}"),
    "read tokens": build("GET", "/hub/api/users/alice/tokens", OWN),
    "spawner call-back": build("POST", "/hub/api/batchspawner", OWN | JSON, '{"cmd": "id"}'),
    "shutdown": build("POST", "/hub/api/shutdown", OWN | JSON, "{}"),
    "info": build("GET", "/hub/api/info", OWN),
    "proxy routes": build("GET", "/hub/api/proxy", OWN),
    "authorize": build("GET", "/hub/api/oauth2/authorize?client_id=x", OWN),
    "pages": build("GET", "/hub/home", OWN),
    "metrics": build("GET", "/hub/metrics", OWN),
    "root": build("GET", "/", OWN),
    "dot segments": build("GET", "/hub/api/user/../users", OWN),
    "encoded dot segments": build("GET", "/hub/api/user/%2e%2e/users", OWN),
    "encoded letter": build("GET", "/hub/api/%75ser", OWN),
    "double slash": build("GET", "/hub/api//user", OWN),
    "leading double slash": build("GET", "//hub/api/user", OWN),
    "path parameter": build("GET", "/hub/api/user;x=1", OWN),
    "encoded slash": build("POST", "/hub/api/users/alice%2Factivity", OWN | JSON, activity()),
    "trailing slash": build("GET", "/hub/api/user/", OWN),
    "query": build("GET", "/hub/api/user?token=x", OWN),
    "fragment": build("GET", "/hub/api/user#x", OWN),
    "absolute form": build("GET", "http://127.0.0.1:8081/hub/api/user", OWN),
    "other host": build("GET", "http://169.254.169.254/latest/meta-data", OWN),
    "upper case": build("GET", "/HUB/API/user", OWN),
    "backslash": build("GET", "/hub/api\\user", OWN),
    "nul byte": build("GET", "/hub/api/user%00", OWN),
    "HEAD": build("HEAD", "/hub/api/user", OWN),
    "OPTIONS": build("OPTIONS", "/hub/api/user", OWN),
    "PUT": build("PUT", ACTIVITY, OWN | JSON, activity()),
    "CONNECT": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "method override": build("GET", ACTIVITY, OWN | {"X-HTTP-Method-Override": "POST"}),
    "user without token": build("GET", "/hub/api/user"),
    "basic authorization": build("GET", "/hub/api/user", {"Authorization": "Basic YTpi"}),
    "odd token": build("GET", "/hub/api/user", {"Authorization": "token a b"}),
    "two authorizations": build("GET", "/hub/api/user", OWN | {"authorization": "token x"}),
    "GET with body": build("GET", "/hub/api/user", OWN, "x=1"),
    "activity without token": build("POST", ACTIVITY, JSON, activity()),
    "activity with another token": build("POST", ACTIVITY, OTHER | JSON, activity()),
    "activity with a longer token": build(
        "POST", ACTIVITY, {"Authorization": f"token {TOKEN}0"} | JSON, activity()
    ),
    "activity of another user": build(
        "POST", "/hub/api/users/bob/activity", OWN | JSON, activity()
    ),
    "activity of another server": build(
        "POST", ACTIVITY, OWN | JSON, activity({"": {"last_activity": WHEN}})
    ),
    "activity of two servers": build(
        "POST",
        ACTIVITY,
        OWN | JSON,
        activity({"work": {"last_activity": WHEN}, "x": {"last_activity": WHEN}}),
    ),
    "activity with more keys": build("POST", ACTIVITY, OWN | JSON, activity(admin=True)),
    "activity with more server keys": build(
        "POST", ACTIVITY, OWN | JSON, activity({"work": {"last_activity": WHEN, "state": {}}})
    ),
    "activity that is no object": build("POST", ACTIVITY, OWN | JSON, "[]"),
    "activity that is no JSON": build("POST", ACTIVITY, OWN | JSON, "{"),
    "activity that is empty": build("POST", ACTIVITY, OWN | JSON, "{}"),
    "activity with odd time": build(
        "POST", ACTIVITY, OWN | JSON, json.dumps({"last_activity": "<script>"})
    ),
    "activity nested deeply": build("POST", ACTIVITY, OWN | JSON, "[" * 30000 + "]" * 30000),
    "activity as a form": build("POST", ACTIVITY, OWN | FORM, activity()),
    "activity too large": build("POST", ACTIVITY, OWN | JSON, "x" * 70000),
    "OAuth of another client": build(
        "POST", f"{PREFIX}/oauth2/token", OWN | FORM, OAUTH.replace("alice-work", "bob")
    ),
    "OAuth with another secret": build(
        "POST", f"{PREFIX}/oauth2/token", OWN | FORM, OAUTH.replace(TOKEN, "f" * 32)
    ),
    "OAuth without secret": build(
        "POST", f"{PREFIX}/oauth2/token", OWN | FORM, OAUTH.replace(TOKEN, "")
    ),
    "OAuth with another token": build("POST", f"{PREFIX}/oauth2/token", OTHER | FORM, OAUTH),
    "OAuth with two clients": build(
        "POST", f"{PREFIX}/oauth2/token", OWN | FORM, f"{OAUTH}&client_id=other"
    ),
    "OAuth of another grant": build(
        "POST",
        f"{PREFIX}/oauth2/token",
        OWN | FORM,
        OAUTH.replace("authorization_code", "client_credentials"),
    ),
    "OAuth with more fields": build(
        "POST", f"{PREFIX}/oauth2/token", OWN | FORM, f"{OAUTH}&scope=admin"
    ),
    "OAuth as JSON": build("POST", f"{PREFIX}/oauth2/token", OWN | JSON, OAUTH),
    "two lengths": build(
        "GET", "/hub/api/user", OWN | {"Content-Length": "5", "content-length": "6"}
    ),
    "length and chunks": build(
        "POST", ACTIVITY, OWN | JSON | {"Transfer-Encoding": "chunked"}, activity()
    ),
    "no HTTP": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
    "long target": build("GET", "/hub/api/" + "a" * 20000, OWN),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_attack_does_not_reach_the_hub(path: Path, hub: Hub, name: str) -> None:
    answer = await ask(path, ATTACKS[name])
    assert 400 <= answer.status < 500
    assert hub.seen == []
    assert TOKEN.encode() not in answer.body
    after = await ask(path, build("GET", "/hub/api"))
    assert after.status == 200


async def test_smuggled_second_request_is_judged_alone(path: Path, hub: Hub) -> None:
    first = build("GET", "/hub/api").replace(b"Connection: close\r\n", b"")
    answer = await ask(path, first + build("GET", "/hub/api/users", OWN))
    assert b"403 Forbidden" in answer.body
    assert [s[1] for s in hub.seen] == ["/hub/api"]


async def test_refusal_is_plain_json(path: Path) -> None:
    answer = await ask(path, build("GET", "/hub/api/users", OWN))
    assert answer.status == 403
    assert answer.json()["message"] == "This server may not use this part of the hub API."


async def test_scope_is_replaced(api: HubApiFilter, path: Path, hub: Hub) -> None:
    api.replace_scope(LAUNCH, replace(SCOPE, token="a" * 32))
    assert (await ask(path, build("POST", ACTIVITY, OWN | JSON, activity()))).status == 403
    new = {"Authorization": "token " + "a" * 32}
    assert (await ask(path, build("POST", ACTIVITY, new | JSON, activity()))).status == 200


async def test_empty_token_opens_nothing(api: HubApiFilter, path: Path, hub: Hub) -> None:
    api.replace_scope(LAUNCH, replace(SCOPE, token=""))
    form = OAUTH.replace(TOKEN, "")
    assert (await ask(path, build("POST", f"{PREFIX}/oauth2/token", FORM, form))).status == 403
    assert hub.seen == []


async def test_launches_are_apart(api: HubApiFilter, path: Path, hub: Hub) -> None:
    other = await api.add("ffff", HubApiScope("bob", "", "jupyterhub-user-bob", "b" * 32))
    assert (await ask(other, build("POST", ACTIVITY, OWN | JSON, activity()))).status == 403
    await api.remove("ffff")
    assert not other.exists()
    assert path.exists()


async def test_sockets_are_private(api: HubApiFilter, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await api.close()
    assert list(path.parent.iterdir()) == []


async def test_stale_socket_is_replaced(api: HubApiFilter, path: Path, hub: Hub) -> None:
    await api.remove(LAUNCH)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    again = await api.add(LAUNCH, SCOPE)
    assert (await ask(again, build("GET", "/hub/api"))).status == 200


async def test_add_twice_is_one_socket(api: HubApiFilter, path: Path) -> None:
    assert await api.add(LAUNCH, SCOPE) == path


async def test_long_directory_is_a_configuration_fault(tmp_path: Path) -> None:
    api = HubApiFilter("http://127.0.0.1:1/hub/api", tmp_path / ("d" * 100))
    await api.open()
    with pytest.raises(ConfigurationError):
        await api.add(LAUNCH, SCOPE)
    await api.close()


async def test_request_is_held_while_the_hub_restarts(path: Path, hub: Hub) -> None:
    await hub.close()
    asking = asyncio.ensure_future(ask(path, build("POST", ACTIVITY, OWN | JSON, activity())))
    await asyncio.sleep(0.6)
    assert not asking.done()
    await hub.open()
    assert (await asking).status == 200
    assert len(hub.seen) == 1


async def test_hub_that_stays_away_is_503(hub: Hub, tmp_path: Path) -> None:
    await hub.close()
    api = HubApiFilter(f"http://127.0.0.1:{hub.port}/hub/api", tmp_path / "s", hold=0.5)
    await api.open()
    answer = await ask(await api.add(LAUNCH, SCOPE), build("GET", "/hub/api"))
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    await api.close()


async def test_remove_ends_held_requests(api: HubApiFilter, path: Path, hub: Hub) -> None:
    await hub.close()
    asking = asyncio.ensure_future(ask(path, build("GET", "/hub/api")))
    await asyncio.sleep(0.3)
    async with asyncio.timeout(3):
        await api.remove(LAUNCH)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_too_many_requests(hub: Hub, tmp_path: Path) -> None:
    api = HubApiFilter(f"http://127.0.0.1:{hub.port}/hub/api", tmp_path / "s", rate=0.1, burst=3)
    await api.open()
    path = await api.add(LAUNCH, SCOPE)
    statuses = [(await ask(path, build("GET", "/hub/api"))).status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    await api.close()


async def test_large_answer_is_cut_short(path: Path, hub: Hub) -> None:
    hub.answer = b" " * (1024 * 1024 + 1)
    assert (await ask(path, build("GET", "/hub/api"))).status == 502
    hub.answer = b" " * (1024 * 1024)
    assert len((await ask(path, build("GET", "/hub/api"))).body) == 1024 * 1024


async def test_hubs_own_refusal_passes(path: Path, hub: Hub) -> None:
    hub.status = 403
    assert (await ask(path, build("GET", f"{PREFIX}/user", OTHER))).status == 403
    hub.status = 302
    answer = await ask(path, build("GET", f"{PREFIX}/user", OTHER))
    assert "location" not in answer.headers


async def test_chunked_body_is_capped_too(path: Path, hub: Hub) -> None:
    head = build("POST", ACTIVITY, OWN | JSON | {"Transfer-Encoding": "chunked"})
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = await ask(path, head + chunk * 2 + b"0\r\n\r\n")
    assert answer.status == 413
    assert hub.seen == []


async def test_with_the_client_of_single_user_servers(path: Path, hub: Hub) -> None:
    """The socket answers aiohttp's unix connector, over one kept connection."""
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(2):
            async with session.post(
                f"http://hub{ACTIVITY}", headers=OWN | JSON, data=activity()
            ) as answer:
                assert answer.status == 200
            async with session.get(f"http://hub{PREFIX}") as answer:
                assert answer.headers["X-JupyterHub-Version"] == "6.1.1"
    assert len(hub.seen) == 4


async def test_token_is_not_shown() -> None:
    assert TOKEN not in repr(SCOPE)


async def test_base_url_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    api = HubApiFilter(f"http://127.0.0.1:{hub.port}/jupyter/hub/api/", tmp_path / "s")
    await api.open()
    path = await api.add(LAUNCH, SCOPE)
    assert (await ask(path, build("GET", "/jupyter/hub/api"))).status == 200
    assert (await ask(path, build("GET", "/hub/api"))).status == 403
    await api.close()
    assert list((tmp_path / "s").iterdir()) == []
