"""The hub-API filter over real sockets: what a single-user server needs, and bounds."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from gateway.errors import ConfigurationError
from gateway.tunnel.hub_api import HubApiFilter, HubApiScope
from tests.unit.tunnel.hub_api_site import (
    ACTIVITY,
    FORM,
    JSON,
    LAUNCH,
    OAUTH,
    OTHER,
    OWN,
    PREFIX,
    SCOPE,
    TOKEN,
    Hub,
    activity,
    api,
    ask,
    build,
    hub,
    path,
)

__all__ = ["api", "hub", "path"]


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


async def test_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    with pytest.raises(ConfigurationError):
        await HubApiFilter("http://127.0.0.1:1/hub/api", tmp_path / "s").open()


async def test_socket_that_cannot_be_made(api: HubApiFilter, path: Path) -> None:
    (path.parent / "taken.sock").mkdir()
    with pytest.raises(ConfigurationError):
        await api.add("taken", SCOPE)
    (path.parent / "taken.sock").rmdir()
    assert (await api.add("taken", SCOPE)).exists()


async def test_hub_that_breaks_off_is_not_asked_twice(path: Path, hub: Hub) -> None:
    await hub.close()
    asked = 0

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read(100)
        writer.transport.abort()

    async with await asyncio.start_server(break_off, "127.0.0.1", hub.port):
        answer = await ask(path, build("POST", ACTIVITY, OWN | JSON, activity()))
    assert (answer.status, asked) == (503, 1)


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
