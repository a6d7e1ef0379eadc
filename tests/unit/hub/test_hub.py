"""The hub as a process, with a stand-in connector."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from gateway.connector.client import ConnectorClient
from gateway.connector.models import EnsureRequest, IdentityModel
from gateway.launch.states import EndReason, LaunchState
from tests.unit.hub.running_hub import FORM, RunningHub, until
from tests.unit.hub.stand_in import words


async def start(hub: RunningHub, browser: Any, path: str = "/hub/spawn") -> Any:
    _, place, _ = await browser.get(path)
    status, place, text = await browser.post(place, FORM)
    assert status == 200, text
    assert place.startswith(f"/hub/launch/{browser.name}"), place
    newest = list(hub.stand_in.launches)[-1]
    return hub.stand_in.launches[newest]


async def test_from_the_form_to_the_server(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    (request,) = hub.stand_in.ensures
    assert request.options == FORM | {"cores": 2}
    assert request.identity.name == "alice"
    assert request.identity.source == "dummy"
    assert request.base_url == "/user/alice/"
    environment = request.environment
    assert environment["JUPYTERHUB_API_URL"] == "http+unix://%2flandfall-hub-socket/hub/api"
    assert environment["JUPYTERHUB_SERVICE_URL"] == "http://127.0.0.1:8888/user/alice/"
    assert "PATH" not in environment
    assert request.api_token is not None
    assert request.api_token.get_secret_value() not in str(environment)
    assert request.token_id is not None
    assert request.token_id.startswith("a")

    hub.stand_in.queue(view.id)
    _, _, page = await alice.get("/hub/launch/alice")
    assert "Waiting for free cores" in page
    assert "Resources" in page
    hub.stand_in.make_ready(view.id)

    async def routed() -> bool:
        status, _, text = await alice.get("/user/alice/lab")
        return status == 200 and text == "the server of alice"

    await until(routed)
    _, place, _ = await alice.get("/hub/spawn-pending/alice")
    assert place == "/user/alice/"
    assert hub.stand_in.stops == []


async def test_a_double_click_starts_one_server(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    await alice.get("/hub/spawn/alice")
    clicks = await asyncio.gather(*(alice.post("/hub/spawn/alice", FORM) for _ in range(3)))
    assert [(status, place) for status, place, _ in clicks] == [(200, "/hub/launch/alice")] * 3
    assert len(hub.stand_in.launches) == 1


async def test_stop_and_who_asked(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    hub.stand_in.make_ready(view.id)
    await until(lambda: is_ready(alice))
    await alice.get("/hub/home")
    status, _ = await alice.api("DELETE", "/users/alice/server")
    assert status in (202, 204)
    await until(lambda: hub.stand_in.stops)
    assert hub.stand_in.stops == [(view.id, "alice")]
    # an admin, for another launch of the same server
    view = await start(hub, alice)
    hub.stand_in.make_ready(view.id)
    await until(lambda: is_ready(alice))
    carol = await hub.sign_in("carol")
    await carol.get("/hub/home")
    await carol.api("DELETE", "/users/alice/server")
    await until(lambda: len(hub.stand_in.stops) == 2)
    assert hub.stand_in.stops[1] == (view.id, "admin:carol")


@pytest.mark.parametrize("kill", [True, False])
async def test_hub_restarts_while_the_job_waits(hub: RunningHub, kill: bool) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    hub.stand_in.queue(view.id)
    await hub.close_hub(kill=kill)
    await hub.open_hub()
    assert hub.stand_in.stops == []
    _, _, page = await alice.get("/hub/launch/alice")
    assert "Waiting for free cores" in page
    hub.stand_in.make_ready(view.id)
    await until(lambda: is_ready(alice))
    assert len(hub.stand_in.launches) == 1
    await alice.get("/hub/launch/alice")
    _, place, _ = await alice.post("/hub/launch/alice", {"action": "cancel"})
    assert place == "/hub/launch/alice"
    assert hub.stand_in.stops == [(view.id, "alice")]


async def test_hub_stops_and_starts_beside_a_running_server(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    hub.stand_in.make_ready(view.id)
    await until(lambda: is_ready(alice))
    await hub.close_hub()
    status, _, text = await alice.get("/user/alice/lab")
    assert (status, text) == (200, "the server of alice")
    await hub.open_hub()
    await until(lambda: is_ready(alice))
    assert hub.stand_in.stops == []
    assert hub.stand_in.only().id == view.id
    # the token's row goes with the launch, though the hub no longer knows the token
    status, tokens = await alice.api("GET", "/users/alice/tokens")
    assert "Server at /user/alice/" in tokens
    hub.stand_in.end(view.id, EndReason.WALLTIME, words("The walltime is over."))

    async def revoked() -> bool:
        _, tokens = await alice.api("GET", "/users/alice/tokens")
        return "Server at /user/alice/" not in tokens

    await until(revoked, seconds=40)
    assert hub.stand_in.stops == []


async def test_hub_starts_while_the_connector_is_away(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    hub.stand_in.make_ready(view.id)
    await until(lambda: is_ready(alice))
    await hub.close_hub(kill=True)
    await hub.stand_in.close()
    await hub.open_hub()
    await asyncio.sleep(3)
    status, _, _page = await alice.get("/hub/launch/alice")
    assert status == 200
    await hub.stand_in.open()
    await until(lambda: is_ready(alice), seconds=30)
    assert hub.stand_in.stops == []
    assert len(hub.stand_in.launches) == 1


async def test_connector_restarts_while_the_job_waits(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    hub.stand_in.queue(view.id)
    await hub.stand_in.close()
    await asyncio.sleep(1)
    await hub.stand_in.open()
    hub.stand_in.make_ready(view.id)
    await until(lambda: is_ready(alice), seconds=30)
    assert hub.stand_in.stops == []


async def test_named_server_is_cancelled_while_it_waits(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    default = await start(hub, alice)
    hub.stand_in.queue(default.id)
    named = await start(hub, alice, "/hub/home?new=second")
    assert named.server_name == "second"
    hub.stand_in.queue(named.id)
    _, place, page = await alice.get("/hub/launch/alice/second")
    assert "Cancel this launch" in page
    status, place, page = await alice.post("/hub/launch/alice/second", {"action": "cancel"})
    assert (status, place) == (200, "/hub/launch/alice/second")
    assert "This server has ended" in page
    assert hub.stand_in.stops == [(named.id, "alice")]
    assert hub.stand_in.launches[default.id].state is LaunchState.QUEUED
    _, _, home = await alice.get("/hub/home")
    assert "second" in home
    assert "Waiting in the queue" in home


async def test_cancel_while_the_launch_is_being_made(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    hub.stand_in.ensure_delay = 3.0
    await alice.get("/hub/spawn")
    await alice.post("/hub/spawn/alice", FORM)
    assert hub.stand_in.launches == {}
    await alice.get("/hub/launch/alice")
    await alice.post("/hub/launch/alice", {"action": "cancel"})
    await until(lambda: hub.stand_in.stops)
    assert hub.stand_in.only().state is LaunchState.ENDED


async def test_api_stop_cancels_a_pending_start(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    hub.stand_in.queue(view.id)
    await alice.get("/hub/home")
    status, _ = await alice.api("DELETE", "/users/alice/server")
    assert status in (202, 204)
    await until(lambda: hub.stand_in.stops)
    assert hub.stand_in.stops == [(view.id, "alice")]


async def test_api_stop_ends_a_launch_that_the_hub_has_let_go_of(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    async with ConnectorClient(hub.stand_in.socket) as client:
        identity = IdentityModel(source="dummy", subject="alice", name="alice")
        made = await client.ensure(EnsureRequest(identity=identity, options=FORM))
    await alice.get("/hub/home")
    status, said = await alice.api("DELETE", "/users/alice/server")
    assert status == 204, said
    assert hub.stand_in.stops == [(made.launch.id, "alice")]


async def test_a_hub_that_starts_sweeps(hub: RunningHub) -> None:
    alice, bob = await hub.sign_in("alice"), await hub.sign_in("bob")
    view = await start(hub, alice)
    hub.stand_in.make_ready(view.id)
    await until(lambda: is_ready(alice))
    async with ConnectorClient(hub.stand_in.socket) as client:
        identity = IdentityModel(source="dummy", subject="bob", name="bob")
        lost = await client.ensure(EnsureRequest(identity=identity, options=FORM))
    for note in ("Server at /user/bob/", "Server at /user/bob/old/", "my own"):
        status, said = await bob.api("POST", "/users/bob/tokens", json={"note": note})
        assert status == 201, said
    await hub.close_hub()
    await hub.open_hub()

    async def swept() -> bool:
        _, tokens = await bob.api("GET", "/users/bob/tokens")
        return "Server at /user/bob/old/" not in tokens

    await until(swept, seconds=30)
    _, tokens = await bob.api("GET", "/users/bob/tokens")
    # That of the launch that lives stays, and so does what is no server's.
    assert '"Server at /user/bob/"' in tokens
    assert "my own" in tokens
    _, tokens = await alice.api("GET", "/users/alice/tokens")
    assert "Server at /user/alice/" in tokens
    log = hub.log
    assert f"gateway launches cancel {lost.launch.id}" in log
    assert f"gateway launches cancel {view.id}" not in log
    assert hub.stand_in.stops == []


async def test_stop_is_refused_while_the_connector_is_away(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    hub.stand_in.make_ready(view.id)
    await until(lambda: is_ready(alice))
    await alice.get("/hub/home")
    await hub.stand_in.close()
    status, said = await alice.api("DELETE", "/users/alice/server")
    assert status == 503, said
    await hub.stand_in.open()
    assert await is_ready(alice)


async def test_rejection_comes_back_on_the_form(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice", "fr")
    _, place, _ = await alice.get("/hub/spawn")
    typed = FORM | {"cores": "99", "start_directory": "/projet/ö"}
    status, place, page = await alice.post(place, typed)
    assert status == 400
    assert "Au plus 16 cœurs ici." in page
    assert 'aria-invalid="true"' in page
    assert 'value="99"' in page
    assert 'value="/projet/ö"' in page
    assert hub.stand_in.ensures == []


async def test_the_last_choice_is_remembered(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    await alice.get("/hub/spawn")
    await alice.post("/hub/spawn/alice", FORM | {"partition": "gpu", "walltime": "00:30:00"})
    view = hub.stand_in.only()
    hub.stand_in.end(view.id, EndReason.FAILED, words("It failed."), log_tail="<b>no module</b>")

    async def failed() -> bool:
        _, _, page = await alice.get("/hub/launch/alice")
        return "Change and try again" in page

    await until(failed)
    _, _, page = await alice.get("/hub/launch/alice")
    assert "It failed." in page
    assert "&lt;b&gt;no module&lt;/b&gt;" in page
    _, _, page = await alice.get("/hub/spawn/alice")
    assert 'value="00:30:00"' in page


async def test_a_link_fills_the_form_and_starts_nothing(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    status, place, page = await alice.get("/hub/spawn?cluster=rorqual&cores=7&partition=gpu")
    assert (status, place) == (200, "/hub/spawn")
    assert 'value="7"' in page
    assert hub.stand_in.ensures == []


async def test_our_pages_have_a_strict_policy(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    hub.stand_in.end(view.id)
    for path in ("/hub/home", "/hub/spawn/alice", "/hub/launch/alice", "/hub/user/alice/lab"):
        async with alice.http.get(path) as response:
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy, path
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            page = await response.text()
            assert page.count("<script") == page.count('<script type="module" src='), path
            assert " style=" not in page


async def test_json_with_a_newline_is_refused(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    await alice.get("/hub/home")
    options = FORM | {"partition": "short\n#SBATCH --uid=0"}
    status, said = await alice.api("POST", "/users/alice/server", json=options)
    assert status == 400
    assert "There is no such partition." in said
    assert hub.stand_in.launches == {}


async def test_there_is_no_call_back_route(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    await alice.get("/hub/home")
    status, _ = await alice.api("POST", "/batchspawner", json={"port": 1})
    assert status == 404


async def test_the_page_of_another_user_is_closed(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    await start(hub, alice)
    bob = await hub.sign_in("bob")
    await bob.get("/hub/home")
    for path in ("launch/alice", "launch-events/alice", "launch/nobody", "spawn-pending/alice"):
        status, _, page = await bob.get(f"/hub/{path}")
        assert status == 403, path
        assert "Submitting" not in page
    status, _, _ = await bob.post("/hub/launch/alice", {"action": "cancel"})
    assert status == 403
    assert hub.stand_in.stops == []
    carol = await hub.sign_in("carol")
    status, _, _ = await carol.get("/hub/launch/alice")
    assert status == 200


async def test_a_server_that_does_not_answer_leads_to_its_launch_page(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    await start(hub, alice)
    stranger = await hub.sign_in("bob")
    for url, link in (
        ("/user/alice/lab/tree/x", "/hub/launch/alice"),
        ("/user/alice", "/hub/launch/alice"),
    ):
        status, _, page = await stranger.get(f"/hub/error/503?url={url}")
        assert status == 200
        assert f'href="{link}' in page
        assert "does not answer" in page
        assert "ne répond pas" in page
    for url in ("/user/nobody/lab", "/hub/home", "https://user/alice"):
        _, _, page = await stranger.get(f"/hub/error/503?url={url}")
        assert "/hub/launch/" not in page


async def test_cancel_needs_the_xsrf_token(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    await start(hub, alice)
    async with alice.http.post("/hub/launch/alice", data={"action": "cancel"}) as response:
        assert response.status == 403
    assert hub.stand_in.stops == []


async def test_a_running_server_keeps_its_token(hub: RunningHub) -> None:
    alice = await hub.sign_in("alice")
    view = await start(hub, alice)
    first = hub.stand_in.ensures[0]
    assert first.api_token is not None
    hub.stand_in.make_ready(view.id)
    await until(lambda: is_ready(alice))
    # as when the hub's database was put back to a former state: the hub forgets, the job lives
    hub.stand_in.given_tokens[view.id] = (first.api_token.get_secret_value(), first.token_id or "")
    kept = hub.stand_in.launches.pop(view.id)
    await until(lambda: is_gone(alice), seconds=40)
    hub.stand_in.launches[view.id] = kept
    await alice.get("/hub/launch/alice")
    await alice.post("/hub/launch/alice", {"action": "reconnect"})
    await until(lambda: is_ready(alice))
    assert len(hub.stand_in.ensures) == 2
    second = hub.stand_in.ensures[1].api_token
    assert second is not None
    assert await try_token(hub, first.api_token.get_secret_value()) == 200
    assert await try_token(hub, second.get_secret_value()) == 403


async def try_token(hub: RunningHub, token: str) -> int:
    headers = {"Authorization": f"token {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{hub.url}/hub/api/user") as response,
    ):
        return response.status


async def is_ready(browser: Any) -> bool:
    status, _, text = await browser.get(f"/user/{browser.name}/lab")
    return bool(status == 200 and text == f"the server of {browser.name}")


async def is_gone(browser: Any) -> bool:
    status, _, _ = await browser.get(f"/user/{browser.name}/lab")
    return bool(status == 424)
