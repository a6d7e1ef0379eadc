"""Requests that a job may try; none of them reaches the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.tunnel.hub_api_site import (
    ACTIVITY,
    FORM,
    JSON,
    OAUTH,
    OTHER,
    OWN,
    PREFIX,
    TOKEN,
    WHEN,
    Hub,
    activity,
    api,
    ask,
    build,
    hub,
    path,
)

__all__ = ["api", "hub", "path"]


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
    "activity with a list of servers": build("POST", ACTIVITY, OWN | JSON, activity(["work"])),
    "activity with odd time of a server": build(
        "POST", ACTIVITY, OWN | JSON, activity({"work": {"last_activity": 5}})
    ),
    "OAuth that is no form": build("POST", f"{PREFIX}/oauth2/token", OWN | FORM, "&&"),
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
