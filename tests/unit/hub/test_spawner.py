"""The spawner alone: what it answers when it cannot ask, and what it does when it is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.objects import Hub, Server
from traitlets.config import Config

from gateway.connector.client import ConnectorClient
from gateway.errors import ConfigurationError, LaunchFailed
from gateway.hub.refusals import LaunchEnded, LaunchRefused
from gateway.hub.spawner import GatewaySpawner
from gateway.hub.tokens import session_of
from gateway.launch.states import EndReason, LaunchState
from gateway.text import Fixed
from tests.unit.hub.running_hub import FORM, until
from tests.unit.hub.stand_in import StandIn, open_stand_in, words


@pytest.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[StandIn]:
    async with open_stand_in(tmp_path / "connector.sock") as running:
        yield running


@pytest.fixture
async def spawner(stand_in: StandIn) -> AsyncIterator[Any]:
    client = ConnectorClient(stand_in.socket, timeout=5)
    session = orm.new_session_factory("sqlite://")()
    user = orm.User(name="alice")
    session.add(user)
    row = orm.Spawner(user=user, name="")
    server = orm.Server(base_url="/user/alice/")
    session.add_all([row, server])
    row.server = server
    session.add(orm.OAuthClient(identifier="jupyterhub"))
    session.commit()
    token = user.new_api_token(note="Server at /user/alice/")
    owner = SimpleNamespace(
        name="alice",
        orm_user=user,
        url="/user/alice/",
        base_url="/user/alice/",
        escaped_name="alice",
        settings={},
        server=None,
    )
    made = GatewaySpawner(
        user=owner,
        orm_spawner=row,
        hub=Hub(ip="127.0.0.1", port=8081, base_url="/hub/"),
        authenticator=SimpleNamespace(blocked_users=set()),
        connector_socket=str(stand_in.socket),
        connector=lambda _socket: client,
        user_options=FORM | {"cores": 2},
        oauth_client_id="jupyterhub-user-alice",
        public_url="",
        public_hub_url="",
    )
    made.api_token = token
    made.server = Server(orm_server=server)
    yield made
    await client.close()
    session.close()
    session.get_bind().dispose()


async def test_start_waits_and_stores_early(spawner: Any, stand_in: StandIn) -> None:
    starting = asyncio.create_task(spawner.start())
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    await until(lambda: spawner.orm_spawner.state)
    assert spawner.orm_spawner.state["launch_id"] == view.id
    assert spawner.orm_spawner.server.ip == view.edge.ip
    assert spawner.orm_spawner.server.port == view.edge.port
    assert await spawner.get_url() == f"http://{view.edge.ip}:{view.edge.port}/user/alice/"
    assert not starting.done()
    stand_in.make_ready(view.id)
    assert await starting == f"http://{view.edge.ip}:{view.edge.port}"


async def test_progress_speaks_the_language_of_the_start(spawner: Any, stand_in: StandIn) -> None:
    headers = {"Accept-Language": "fr-CA"}
    spawner.handler = SimpleNamespace(request=SimpleNamespace(headers=headers))
    starting = asyncio.create_task(spawner.start())
    messages: list[str] = []

    async def listen() -> None:
        async for event in spawner.progress():
            messages.append(event["message"])  # noqa: PERF401 - read while it grows

    listening = asyncio.create_task(listen())
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    stand_in.queue(view.id)
    await until(lambda: any("En attente" in each for each in messages))
    stand_in.make_ready(view.id)
    await starting
    await asyncio.wait_for(listening, 5)
    assert messages[-1] == "Le serveur est utilisable."


async def test_a_cancelled_start_cancels_nothing(spawner: Any, stand_in: StandIn) -> None:
    starting = asyncio.create_task(spawner.start())
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    await until(lambda: spawner.launch_id)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await spawner.poll() is None
    # JupyterHub's own tidying: nobody asked
    await spawner.stop()
    assert stand_in.stops == []
    assert stand_in.launches[view.id].state is not LaunchState.ENDED


async def test_cut_off_while_asking_then_stopped(spawner: Any, stand_in: StandIn) -> None:
    stand_in.ensure_delay = 0.5
    starting = asyncio.create_task(spawner.start())
    await asyncio.sleep(0.1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await spawner.poll() is None
    spawner.asked_by = "alice"
    await spawner.stop()
    assert stand_in.stops == [(stand_in.only().id, "alice")]


async def test_poll_when_the_connector_is_away(spawner: Any, stand_in: StandIn) -> None:
    spawner.load_state({"launch_id": "00000000000000ff", "edge_ip": "127.0.0.9", "edge_port": 1})
    await stand_in.close()
    assert await spawner.poll() is None
    await stand_in.open()
    assert await spawner.poll() == 1  # it answers, and knows no such launch


async def test_poll_of_a_connector_that_hangs(
    spawner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.hub.spawner.POLL_TIMEOUT", 0.1)
    spawner.load_state({"launch_id": "00000000000000ff"})

    async def hang(_launch_id: str) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(spawner.client, "launch", hang)
    assert await spawner.poll() is None


async def test_a_verdict_stands_and_the_token_goes(spawner: Any, stand_in: StandIn) -> None:
    starting = asyncio.create_task(spawner.start())
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    stand_in.make_ready(view.id)
    await starting
    session = session_of(spawner)
    assert session.query(orm.APIToken).count() == 1
    stand_in.end(view.id, EndReason.COMPLETED)
    assert await spawner.poll() == 0
    assert session.query(orm.APIToken).count() == 0
    await stand_in.close()
    assert await spawner.poll() == 0
    spawner.clear_state()
    assert await spawner.poll() == 0


async def test_the_token_of_a_launch_that_nobody_knows_goes(
    spawner: Any, stand_in: StandIn
) -> None:
    starting = asyncio.create_task(spawner.start())
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    stand_in.make_ready(view.id)
    await starting
    stand_in.launches.clear()
    assert await spawner.poll() == 1
    assert session_of(spawner).query(orm.APIToken).count() == 0


async def test_a_launch_that_fails(spawner: Any, stand_in: StandIn) -> None:
    starting = asyncio.create_task(spawner.start())
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    stand_in.end(view.id, EndReason.FAILED, words("No such module.", "Module inconnu."))
    with pytest.raises(LaunchEnded) as caught:
        await starting
    assert caught.value.status_code == 502
    assert caught.value.jupyterhub_message == "No such module."
    assert await spawner.poll() == 1


async def test_a_refusal_leaves_nothing_to_stop(spawner: Any, stand_in: StandIn) -> None:
    spawner.user_options = FORM | {"partition": "short\nx"}
    with pytest.raises(LaunchRefused) as caught:
        await spawner.start()
    assert caught.value.status_code == 400
    assert "partition: There is no such partition." in caught.value.jupyterhub_message
    assert await spawner.poll() == 0
    assert stand_in.launches == {}


async def test_a_fault_is_not_the_users(spawner: Any, stand_in: StandIn) -> None:
    stand_in.refusal = LaunchFailed(Fixed("The scheduler is closed.", "…"))
    with pytest.raises(LaunchRefused) as caught:
        await spawner.start()
    assert caught.value.status_code == 502


async def test_a_connector_that_comes_late(spawner: Any, stand_in: StandIn) -> None:
    await stand_in.close()
    starting = asyncio.create_task(spawner.start())
    await asyncio.sleep(0.7)
    assert await spawner.poll() is None
    await stand_in.open()
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    stand_in.make_ready(view.id)
    await asyncio.wait_for(starting, 15)


async def test_a_connector_that_stays_away(
    spawner: Any, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.hub.spawner.ENSURE_PATIENCE", 0.1)
    await stand_in.close()
    with pytest.raises(LaunchRefused) as caught:
        await spawner.start()
    assert caught.value.status_code == 503


async def test_adopting_a_started_server_keeps_its_token(spawner: Any, stand_in: StandIn) -> None:
    starting = asyncio.create_task(spawner.start())
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    stand_in.make_ready(view.id)
    await starting
    old, old_id = spawner.api_token, spawner.token_id
    stand_in.given_tokens[view.id] = (old, old_id)
    fresh = spawner.user.orm_user.new_api_token(note="Server at /user/alice/")
    spawner.clear_state()
    spawner.api_token = fresh
    await spawner.start()
    assert spawner.api_token == old
    assert spawner.token_id == old_id
    session = session_of(spawner)
    assert orm.APIToken.find(session, fresh) is None
    assert orm.APIToken.find(session, old) is not None


async def test_a_token_that_got_another_row_is_revoked_too(spawner: Any, stand_in: StandIn) -> None:
    starting = asyncio.create_task(spawner.start())
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    stand_in.make_ready(view.id)
    await starting
    session, token = session_of(spawner), spawner.api_token
    session.delete(orm.APIToken.find(session, token))
    user = spawner.user.orm_user
    user.new_api_token(note="another, whose row has the number of the old one")
    user.new_api_token(token, generated=False, note="retrieved from spawner ")
    state = spawner.get_state()
    spawner.api_token = ""
    spawner.clear_state()
    spawner.load_state(state)
    stand_in.end(view.id, EndReason.WALLTIME)
    assert await spawner.poll() == 1
    assert orm.APIToken.find(session, token) is None
    assert session.query(orm.APIToken).count() == 1


async def test_stop_returns_while_the_launch_is_ending(
    spawner: Any, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.hub.spawner.END_PATIENCE", 0.2)
    stand_in.stop_ends = False
    starting = asyncio.create_task(spawner.start())
    view = (await until(lambda: list(stand_in.launches.values())))[0]
    stand_in.make_ready(view.id)
    await starting
    spawner.asked_by = "culler"
    await asyncio.wait_for(spawner.stop(), 5)
    assert stand_in.launches[view.id].state is LaunchState.ENDING
    assert stand_in.stops == [(view.id, "culler")]


async def test_state_survives_a_restart(spawner: Any) -> None:
    spawner.launch_id, spawner.edge_ip, spawner.edge_port = "ab", "127.0.0.7", 77
    spawner.token_id, spawner.language = "a1", "fr"
    state = spawner.get_state()
    spawner.clear_state()
    assert "launch_id" not in spawner.get_state()
    spawner.load_state(state)
    assert spawner.get_state() == state


async def test_a_replaced_trait_stops_the_spawner() -> None:
    config = Config()
    config.GatewaySpawner.req_partition = "short"
    with pytest.raises(ConfigurationError, match="req_partition"):
        GatewaySpawner(config=config)


def test_at_most_ten_traits_are_ours() -> None:
    theirs = set(GatewaySpawner.__mro__[1].class_traits(config=True))
    ours = set(GatewaySpawner.class_traits(config=True)) - theirs
    assert len(ours) <= 10
