"""Client and app over a real unix socket: every route, every kind of error."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import aiohttp
import pytest

from gateway.connector import app as app_module
from gateway.connector.app import BODY_LIMIT
from gateway.connector.client import ConnectorClient
from gateway.connector.models import EnsureRequest, IdentityModel
from gateway.errors import (
    ClusterRefused,
    ClusterUnavailable,
    ConfigurationError,
    GatewayError,
    LaunchFailed,
    NotAnnounced,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.launch.states import EndReason, LaunchState
from gateway.text import text
from gateway.values.jobs import JobState
from tests.fakes import UNAVAILABLE
from tests.unit.connector.conftest import Door

OPTIONS = {
    "cluster": "fjord",
    "partition": "short",
    "environment": "lab",
    "walltime": "1h",
    "cores": 1,
    "memory": "2G",
}
ALICE = IdentityModel(source="test", subject="alice", name="alice")


def build_request(**changes: object) -> EnsureRequest:
    values: dict[str, object] = {
        "identity": ALICE,
        "options": OPTIONS,
        "environment": {"JUPYTERHUB_USER": "alice"},
        "arguments": ["--debug"],
        "base_url": "/user/alice/",
        "api_token": "token-of-the-server",
        "token_id": "a1",
    }
    return EnsureRequest.model_validate(values | changes)


async def test_health(door: Door) -> None:
    health = await door.client.health()
    assert [(c.name, c.state, c.launches) for c in health.clusters] == [("fjord", "up", 0)]
    await door.client.ensure(build_request())
    assert (await door.client.health()).clusters[0].launches == 1


async def test_ensure_follow_stop(door: Door) -> None:
    answer = await door.client.ensure(build_request())
    assert not answer.adopted
    assert answer.api_token is None
    assert answer.launch.user == "alice"
    assert answer.launch.options["walltime"] == "01:00:00"
    assert answer.launch.options["account"] == "physics"
    assert answer.launch.cluster_title.fr == "Fjord"
    launch_id = answer.launch.id
    states: list[LaunchState] = []
    async with aclosing(door.client.events(launch_id)) as views:
        async for view in views:
            states.append(view.state)
            if view.state is LaunchState.READY and view.tunnel_up:
                await door.client.stop(launch_id, "alice")
    assert LaunchState.READY in states
    assert states[-1] is LaunchState.ENDED

    ended = await door.client.launch(launch_id)
    assert ended.end is not None
    assert ended.end.reason is EndReason.STOPPED
    assert [line.state for line in ended.history][-2:] == [LaunchState.ENDING, LaunchState.ENDED]
    assert ended.history[-2].by == "alice"
    again = await door.client.stop(launch_id, "alice")
    assert again.state is LaunchState.ENDED


async def test_adoption_returns_the_running_token(door: Door) -> None:
    first = await door.client.ensure(build_request())
    await door.bench.reach(first.launch.id, LaunchState.READY)
    second = await door.client.ensure(
        build_request(api_token="another-token", token_id="a2", options={"nonsense": True})
    )
    assert second.adopted
    assert second.launch.id == first.launch.id
    assert second.api_token is not None
    assert second.api_token.get_secret_value() == "token-of-the-server"
    assert second.token_id == "a1"
    assert "token-of-the-server" not in repr(second)


async def test_launches(door: Door) -> None:
    first = await door.client.ensure(build_request())
    named = await door.client.ensure(build_request(server_name="gpu"))
    bob = IdentityModel(source="test", subject="bob", name="bob")
    await door.client.ensure(build_request(identity=bob))
    assert len(await door.client.launches()) == 3
    assert [v.id for v in await door.client.launches(user="alice", server="")] == [first.launch.id]
    assert [v.id for v in await door.client.launches(server="gpu")] == [named.launch.id]
    assert await door.client.launches(user="alice", live=False) == []
    assert len(await door.client.launches(user="alice", live=True)) == 2
    newest = (await door.client.launches())[0]
    assert [v.id for v in await door.client.launches(limit=1)] == [newest.id]


async def test_view_tells_why_a_job_waits(door: Door) -> None:
    door.world.starts_at_once = False
    answer = await door.client.ensure(build_request())
    await door.bench.reach(answer.launch.id, LaunchState.QUEUED)
    (job,) = door.world.jobs
    words = text("Others are before you.")
    door.world.set_status(job, JobState.PENDING, native_reason="Priority", reason_words=words)
    await door.bench.until(answer.launch.id, lambda s: s.words is not None)
    view = await door.client.launch(answer.launch.id)
    assert view.words.en == words.render()
    assert view.native_reason == "Priority"


async def test_log(door: Door) -> None:
    answer = await door.client.ensure(build_request())
    await door.bench.reach(answer.launch.id, LaunchState.READY)
    door.world.log = "first line\n"
    assert await door.client.log(answer.launch.id) == "first line\n"


async def test_choices(door: Door) -> None:
    (choices,) = await door.client.choices(ALICE)
    assert choices.cluster_user == "alice"
    assert choices.problem is None
    (partition,) = choices.partitions
    assert partition.max_walltime == "04:00:00"  # the scheduler's, below the profile's
    assert partition.free_cores == 3
    assert [gpu.kind for gpu in partition.gpus] == ["a100"]
    assert [account.name for account in choices.accounts] == ["physics"]
    assert choices.fetched_at is not None


async def test_choices_without_the_scheduler_are_those_of_the_profile(door: Door) -> None:
    door.world.run_errors = [ClusterUnavailable(UNAVAILABLE)] * 5
    (choices,) = await door.client.choices(ALICE)
    assert choices.fetched_at is None
    assert choices.partitions[0].max_walltime == "08:00:00"
    assert choices.partitions[0].free_cores is None


async def test_choices_never_wait_long_for_the_scheduler(door: Door) -> None:
    async def fetch_partitions() -> tuple[()]:
        await asyncio.sleep(60)
        return ()

    door.world.fetch_partitions = fetch_partitions  # type: ignore[method-assign]
    door.service._sites["fjord"].inventory._partitions._fetch = fetch_partitions
    async with asyncio.timeout(2):
        (choices,) = await door.client.choices(ALICE)
    assert choices.fetched_at is None


async def test_choices_of_somebody_without_account(door: Door) -> None:
    (choices,) = await door.client.choices(
        IdentityModel(source="test", subject="carol", name="carol")
    )
    assert choices.cluster_user is None
    assert choices.problem is not None
    assert "no account" in choices.problem.en
    with pytest.raises(RequestRejected) as refusal:
        await door.client.ensure(
            build_request(identity=IdentityModel(source="test", subject="carol", name="carol"))
        )
    assert refusal.value.reason == "not_mapped"


async def test_check(door: Door) -> None:
    await door.client.check("fjord", build_request())
    with pytest.raises(RequestRejected) as refusal:
        await door.client.check(
            "fjord",
            build_request(options=OPTIONS | {"partition": "x\n#SBATCH --uid=0", "cores": 99}),
        )
    assert set(refusal.value.fields) == {"partition"}
    assert "\n" not in refusal.value.fields["partition"].render()
    with pytest.raises(RequestRejected) as unknown:
        await door.client.check("nowhere", build_request())
    assert unknown.value.reason == "not_found"
    assert door.world.submits == 0
    assert await door.client.launches() == []


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (OPTIONS | {"walltime": "9h"}, "walltime"),
        (OPTIONS | {"cluster": "elsewhere"}, "cluster"),
        (OPTIONS | {"cluster": ["fjord"]}, "cluster"),
        ({}, "cluster"),
        (OPTIONS | {"surprise": 1}, "surprise"),
        (OPTIONS | {"memory": "4 bananas"}, "memory"),
    ],
)
async def test_bad_options_are_refused_whole(
    door: Door, options: dict[str, object], field: str
) -> None:
    with pytest.raises(RequestRejected) as refusal:
        await door.client.ensure(build_request(options=options))
    assert field in refusal.value.fields
    assert refusal.value.fields[field].render("fr")
    assert await door.client.launches() == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"identity": {"source": "t", "subject": "alice", "name": "../alice"}}, "identity"),
        ({"server_name": "a\nb"}, "server_name"),
        ({"base_url": "http://elsewhere/"}, "base_url"),
        ({"environment": {"A=B": "x"}}, "environment"),
        ({"environment": {"A": "\x00"}}, "environment"),
        ({"arguments": ["\x00"]}, "arguments"),
    ],
)
async def test_what_no_hub_sends(door: Door, changes: dict[str, object], field: str) -> None:
    with pytest.raises(RequestRejected) as refusal:
        await door.client.ensure(build_request(**changes))
    assert field in refusal.value.fields


async def test_metrics(door: Door) -> None:
    answer = await door.client.ensure(build_request())
    await door.bench.reach(answer.launch.id, LaunchState.READY)
    door.bench.world.edges[answer.launch.id].bytes_down = 4096
    metrics = await door.client.metrics()
    assert 'landfall_launches{cluster="fjord",state="ready"} 1.0' in metrics
    assert 'landfall_launches{cluster="fjord",state="queued"} 0.0' in metrics
    assert 'landfall_tunnels{cluster="fjord"} 1.0' in metrics
    assert 'landfall_tunnel_bytes_total{cluster="fjord",direction="down"} 4096.0' in metrics
    assert 'landfall_launches_ended_total{cluster="fjord",reason="failed"} 0.0' in metrics
    assert 'landfall_launch_phase_seconds_count{cluster="fjord",state="queued"} 1.0' in metrics


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigurationError(text("An admin must look."), detail="why", reason="r"), 500),
        (RequestRejected(text("No."), fields={"cores": text("too many")}), 400),
        (ClusterUnavailable(text("Wait."), reason="down"), 503),
        (SubmitAmbiguous(text("Perhaps.")), 503),
        (NotAnnounced(text("Not yet.")), 503),
        (ClusterRefused(text("Look.")), 502),
        (LaunchFailed(text("Ended."), log_tail="the end"), 502),
        (GatewayError(text("Something.")), 500),
    ],
)
async def test_errors_arrive_as_they_were(door: Door, error: GatewayError, status: int) -> None:
    door.fail_with(error)
    with pytest.raises(GatewayError) as caught:
        await door.client.ensure(build_request())
    assert type(caught.value) is type(error)
    assert caught.value.user_message.as_dict() == error.user_message.as_dict()
    assert caught.value.detail == error.detail
    assert caught.value.reason == error.reason
    if isinstance(error, RequestRejected):
        assert isinstance(caught.value, RequestRejected)
        assert caught.value.fields["cores"].render() == "too many"
    if isinstance(error, LaunchFailed):
        assert isinstance(caught.value, LaunchFailed)
        assert caught.value.log_tail == "the end"
    found, _ = await _raw(door, "POST", "/servers", build_request().model_dump_json())
    assert found == status


async def test_fault_of_ours_tells_nothing_and_is_logged(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.fail_with(ZeroDivisionError("inner secret"))
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(GatewayError, match="internal error") as caught,
    ):
        await door.client.ensure(build_request())
    assert "inner secret" not in str(caught.value)
    assert any(record.exc_info for record in caplog.records)


async def _drain_events(client: ConnectorClient) -> None:
    async with aclosing(client.events("none")) as views:
        async for _ in views:
            pass


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.launch("../health"),
        _drain_events,
        lambda client: client.stop("none", "alice"),
        lambda client: client.log("none"),
    ],
    ids=["launch", "events", "stop", "log"],
)
async def test_unknown_launch(
    door: Door, call: Callable[[ConnectorClient], Awaitable[object]]
) -> None:
    with pytest.raises(RequestRejected) as refusal:
        await call(door.client)
    assert refusal.value.reason == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("DELETE", "/servers", None, 405),
        ("POST", "/servers", "{", 400),
        ("POST", "/servers", '{"identity": {"secret": "token-in-a-bad-body"}}', 400),
        ("POST", "/servers", " " * (BODY_LIMIT + 1), 413),
        ("GET", "/launches?live=perhaps", None, 400),
        ("GET", "/launches?users=alice", None, 400),
        ("GET", "/launches?limit=0", None, 400),
        ("GET", "/launches?limit=501", None, 400),
        ("GET", "/launches/none", None, 404),
    ],
)
async def test_bad_requests_have_the_same_shape(
    door: Door, method: str, path: str, body: str | None, status: int
) -> None:
    found, answer = await _raw(door, method, path, body)
    assert found == status
    assert set(answer["error"]) == {"kind", "reason", "message", "detail", "fields", "log_tail"}
    assert "token-in-a-bad-body" not in json.dumps(answer)


async def test_other_accounts_are_refused(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(door.socket.stat().st_mode) == 0o600
    monkeypatch.setattr(app_module, "_PEER", _Peer(4242))
    with pytest.raises(RequestRejected) as refusal:
        await door.client.health()
    assert refusal.value.reason == "forbidden"
    monkeypatch.setattr(app_module, "_PEER", _Peer(0))
    await door.client.health()


class _Peer:
    """Stands for the kernel's word on who connected."""

    size = 12

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def unpack(self, _: bytes) -> tuple[int, int, int]:
        return 1, self._uid, 1


async def test_absent_connector(tmp_path: Path) -> None:
    async with ConnectorClient(tmp_path / "none.sock") as client:
        with pytest.raises(ClusterUnavailable) as caught:
            await client.health()
    assert caught.value.reason == "connector_unavailable"


async def test_many_streams_of_events_leave_room_for_questions(door: Door) -> None:
    answer = await door.client.ensure(build_request())

    async def follow() -> None:
        async for _ in door.client.events(answer.launch.id):
            pass

    followers = [asyncio.create_task(follow()) for _ in range(110)]
    try:
        await asyncio.sleep(0.3)
        assert (await door.client.health()).clusters
    finally:
        for follower in followers:
            follower.cancel()
        await asyncio.wait(followers)


async def test_half_a_surrogate_pair_is_refused(door: Door) -> None:
    with pytest.raises(RequestRejected):
        await door.client.ensure(build_request(options=OPTIONS | {"partition": "\ud800"}))
    assert door.bench.world.submits == 0


async def test_silent_connector(tmp_path: Path) -> None:
    path = Path(f"/tmp/lf-silent-{id(tmp_path)}.sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    try:
        async with ConnectorClient(path, timeout=0.2) as client:
            with pytest.raises(ClusterUnavailable) as caught:
                await client.health()
        assert caught.value.reason == "connector_unavailable"
    finally:
        listening.close()
        path.unlink()


async def _raw(
    door: Door, method: str, path: str, body: str | None
) -> tuple[int, dict[str, dict[str, object]]]:
    connector = aiohttp.UnixConnector(path=str(door.socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://x{path}", data=body) as response,
    ):
        return response.status, await response.json()
