"""A stop that failed leaves no trace of who asked: later tidying of the hub must not count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.apihandlers.users import UserServerAPIHandler
from tornado.web import HTTPError

from gateway.hub.server_api import ServerApi
from gateway.hub.stopping import stop_server


class Spawner:
    def __init__(self) -> None:
        self.asked_by: str | None = None
        self.pending: str | None = None
        self.ready = self.active = True
        self.server = object()
        self.launch_id = ""
        self.client = self

    async def launches(self, **_: Any) -> list[Any]:
        return []


@pytest.mark.parametrize(("goes_on", "asker"), [(False, None), (True, "alice")])
async def test_a_page_whose_stop_fails(goes_on: bool, asker: str | None) -> None:
    spawner = Spawner()
    asked: list[str | None] = []

    async def stop_single_user(user: Any, server_name: str) -> None:
        asked.append(spawner.asked_by)
        spawner.pending = "stop" if goes_on else None
        raise HTTPError(503)

    handler = SimpleNamespace(stop_single_user=stop_single_user)
    user = SimpleNamespace(name="alice", spawners={"": spawner})
    with pytest.raises(HTTPError):
        await stop_server(handler, user, "", "alice")
    assert asked == ["alice"]
    assert spawner.asked_by == asker


@pytest.mark.parametrize(("goes_on", "asker"), [(False, None), (True, "alice")])
async def test_a_delete_that_fails(
    monkeypatch: pytest.MonkeyPatch, goes_on: bool, asker: str | None
) -> None:
    spawner = Spawner()
    asked: list[str | None] = []

    async def delete(self: Any, user_name: str, server_name: str = "") -> None:
        asked.append(spawner.asked_by)
        spawner.pending = "stop" if goes_on else None
        raise HTTPError(400)

    user = SimpleNamespace(name="alice", spawners={"": spawner})
    monkeypatch.setattr(UserServerAPIHandler, "delete", delete)
    monkeypatch.setattr(ServerApi, "find_user", lambda self, name: user)
    monkeypatch.setattr(ServerApi, "current_user", user, raising=False)
    handler = ServerApi.__new__(ServerApi)
    with pytest.raises(HTTPError):
        await ServerApi.delete.__wrapped__(handler, "alice")
    assert asked == ["alice"]
    assert spawner.asked_by == asker
