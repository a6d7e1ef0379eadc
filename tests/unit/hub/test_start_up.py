"""The shipped culler as the hub runs it, and what keeps a hub from starting."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp

import gateway
from gateway.connector.models import TransitionView
from gateway.launch.states import LaunchState
from tests.unit.hub.running_hub import CONFIG, build_settings, open_hub, until
from tests.unit.hub.stand_in import words
from tests.unit.hub.test_hub import is_ready, start, try_token


async def test_the_culler_stops_an_idle_server(tmp_path: Path) -> None:
    async with open_hub(tmp_path, idle_timeout=timedelta(seconds=4)) as hub:
        alice = await hub.sign_in("alice")
        view = await start(hub, alice)
        hub.stand_in.make_ready(view.id)
        await until(lambda: hub.stand_in.stops, seconds=30)
        assert hub.stand_in.stops == [(view.id, "culler")]


async def test_the_culler_spares_a_server_that_was_out_of_reach(tmp_path: Path) -> None:
    async with open_hub(tmp_path, idle_timeout=timedelta(seconds=4)) as hub:
        alice = await hub.sign_in("alice")
        view = await start(hub, alice)
        hub.stand_in.make_ready(view.id)
        await until(lambda: is_ready(alice))
        hub.stand_in.change(view.id, state=LaunchState.CONNECTING, words=words("Cut off."))
        await until(lambda: "Not culling alice" in hub.log, seconds=30)
        assert hub.stand_in.stops == []
        # back after a long outage: the idle time begins anew
        history = list(hub.stand_in.launches[view.id].history)
        left = history[-1].model_copy(update={"at": history[-1].at - timedelta(hours=1)})
        back = TransitionView(
            at=history[-1].at + timedelta(seconds=6), state=LaunchState.READY, words=words("")
        )
        hub.stand_in.change(view.id, state=LaunchState.READY)
        hub.stand_in.change(view.id, history=[*history[:-1], left, back])
        await until(lambda: hub.stand_in.stops, seconds=30)
        assert hub.stand_in.stops == [(view.id, "culler")]


async def test_the_culler_spares_a_server_that_computes(tmp_path: Path) -> None:
    async with open_hub(tmp_path, idle_timeout=timedelta(seconds=4)) as hub:
        seen: list[dict[str, Any]] = []

        async def ask_hub(token: str) -> None:
            # as a single-user server does to find out who asks
            headers = {"Authorization": f"token {token}"}
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.get(f"{hub.url}/hub/api/user") as response,
            ):
                seen.append(await response.json())

        hub.stand_in.on_kernels = ask_hub
        hub.stand_in.kernel_state = "busy"
        alice = await hub.sign_in("alice")
        view = await start(hub, alice)
        hub.stand_in.make_ready(view.id)
        await until(lambda: "Not culling alice: a kernel computes" in hub.log, seconds=30)
        assert hub.stand_in.stops == []
        assert seen[0]["name"] == "alice"
        assert "access:servers!server=alice/" in seen[0]["scopes"]
        assert not any(scope.startswith(("servers", "users")) for scope in seen[0]["scopes"])
        assert await try_token(hub, hub.stand_in.kernel_tokens[0]) == 403  # it is gone by now
        hub.stand_in.kernel_state = "idle"
        await until(lambda: hub.stand_in.stops, seconds=30)
        assert hub.stand_in.stops == [(view.id, "culler")]


async def test_a_launch_ends_while_hub_and_connector_are_away(tmp_path: Path) -> None:
    extra = "c.GatewaySpawner.http_timeout = 3"
    async with open_hub(tmp_path, extra_config=extra) as hub:
        alice = await hub.sign_in("alice")
        view = await start(hub, alice)
        hub.stand_in.make_ready(view.id)
        await until(lambda: is_ready(alice))
        await hub.close_hub(kill=True)
        await hub.stand_in.close()
        await hub.open_hub()
        hub.stand_in.end(view.id)
        await hub.stand_in.open()

        async def can_start() -> bool:
            _, place, page = await alice.get("/hub/spawn/alice")
            return place == "/hub/spawn/alice" and "spawn_form" in page

        await until(can_start, seconds=40)
        assert hub.stand_in.stops == []
        assert (await start(hub, alice)).id != view.id


async def test_a_replaced_setting_keeps_the_hub_from_starting(tmp_path: Path) -> None:
    config = tmp_path / "jupyterhub_config.py"
    config.write_text(CONFIG.format(extra="c.BatchSpawnerBase.req_partition = 'short'"))
    settings = tmp_path / "settings.json"
    settings.write_text(build_settings(tmp_path).model_dump_json())
    output = await fail_to_start(tmp_path, "TEST_SETTINGS", settings, "-f", str(config))
    assert "BatchSpawnerBase.req_partition -> partitions (cluster profile)" in output


async def test_so_does_one_on_the_command_line_of_the_shipped_configuration(tmp_path: Path) -> None:
    settings = tmp_path / "gateway.yml"
    settings.write_text(
        "state_directory: state\n"
        "runtime_directory: run\n"
        "profiles_directory: .\n"
        "sign_in: {kind: dummy, users: [alice], password: correct horse}\n"
    )
    (tmp_path / "state").mkdir(mode=0o700)
    shipped = Path(gateway.__file__).parent / "hub" / "jupyterhub_config.py"
    output = await fail_to_start(
        tmp_path,
        "GATEWAY_SETTINGS",
        settings,
        "-f",
        str(shipped),
        "--GatewaySpawner.req_account=physics",
    )
    assert "GatewaySpawner.req_account -> the account that the user chooses" in output


async def fail_to_start(directory: Path, name: str, settings: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyterhub", *arguments),
        cwd=directory,
        env=os.environ | {name: str(settings), "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode != 0
    return output.decode()
