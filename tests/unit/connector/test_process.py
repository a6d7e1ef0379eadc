"""The connector as a process: readiness, refusals, one at a time, a clean end."""

from __future__ import annotations

import asyncio
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest
from ruamel.yaml import YAML

from gateway.connector.client import ConnectorClient
from gateway.connector.start_up import lock_state_directory, prepare_directories
from gateway.connector.wiring import build_launch_page
from gateway.errors import ConfigurationError, GatewayError
from gateway.launch.states import LaunchState
from gateway.settings import Settings, load_settings
from gateway.text import text
from tests.fakes import build_profile
from tests.launch_bench import build_launch, build_start, open_store

REPOSITORY = Path(__file__).parents[3]
PROGRAM = (
    "import sys; from pathlib import Path; from gateway.connector.app import run; "
    "from gateway.settings import load_settings; from gateway.errors import GatewayError\n"
    "try: run(load_settings(Path(sys.argv[1])))\n"
    "except GatewayError as error: sys.exit(str(error))"
)


@pytest.fixture
async def settings_path() -> AsyncIterator[Path]:
    # Short, for unix sockets.
    directory = Path(tempfile.mkdtemp(prefix="lf-"))
    (directory / "profiles").mkdir()
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh").decode()
    (directory / "profiles" / "known_hosts").write_text(f"login {key}")
    profile = build_profile().model_dump(mode="json")
    profile["login"]["known_hosts"] = "known_hosts"
    # Nobody listens there: the cluster is away for as long as the test lasts.
    profile["login"]["hosts"] = [{"host": "127.0.0.1", "port": 1}]
    profile["scheduler"]["command_timeout"] = "5s"
    _write(directory / "profiles" / "fjord.yml", profile)
    _write(directory / "people.yml", {"people": []})
    _write(
        directory / "gateway.yml",
        {
            "state_directory": "state",
            "runtime_directory": "run",
            "profiles_directory": "profiles",
            "sign_in": {"kind": "dummy", "users": ["alice"], "password": "x"},
            "identity": {"table": "people.yml"},
        },
    )
    yield directory / "gateway.yml"
    shutil.rmtree(directory)


def _write(path: Path, value: object) -> None:
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(value, stream)


async def _start(path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(path),
        cwd=REPOSITORY,
        stderr=asyncio.subprocess.PIPE,
    )


async def _end(process: asyncio.subprocess.Process) -> str:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    return await _wait_ended(process)


async def _wait_ended(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(30):
        _, stderr = await process.communicate()
    return stderr.decode()


async def _wait_ready(settings: Settings, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        while process.returncode is None:
            try:
                async with ConnectorClient(settings.connector_socket) as client:
                    await client.health()
                return
            except GatewayError:
                await asyncio.sleep(0.05)
    raise AssertionError(await _end(process))


async def test_start_serve_stop(settings_path: Path) -> None:
    settings = load_settings(settings_path)
    (settings_path.parent / "state").mkdir(mode=0o700)
    store = await open_store(settings.state_directory)
    made = await store.ensure(build_launch(), build_start(), text("Made."))
    await store.close()

    process = await _start(settings_path)
    try:
        await _wait_ready(settings, process)
        assert stat.S_IMODE(settings.connector_socket.stat().st_mode) == 0o600
        for directory in (settings.state_directory, settings.runtime_directory):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        async with ConnectorClient(settings.connector_socket) as client:
            (view,) = await client.launches()
            assert view.id == made.record.id
            assert view.state is LaunchState.REQUESTED
            assert (await client.health()).clusters[0].launches == 1
            # Its edge answers, although the cluster is away.
            reader, writer = await asyncio.open_connection(view.edge.ip, view.edge.port)
            writer.write(b"GET /user/alice/api HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()

        second = await _start(settings_path)
        said = await _wait_ended(second)
        assert second.returncode == 1
        assert "Another connector runs" in said
        assert "Traceback" not in said
        async with ConnectorClient(settings.connector_socket) as client:
            await client.health()
    finally:
        said = await _end(process)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "token-of-the-server" not in said
    assert not settings.connector_socket.exists()


async def test_socket_of_a_killed_predecessor_is_replaced(settings_path: Path) -> None:
    settings = load_settings(settings_path)
    for _ in range(2):
        process = await _start(settings_path)
        try:
            await _wait_ready(settings, process)
        finally:
            process.kill()
            await process.communicate()
        assert settings.connector_socket.exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("open_state", "mode 0700"),
        ("open_key", "read by others"),
        ("no_table", "table of logins"),
        ("no_profiles", "profile"),
    ],
)
async def test_refusals(settings_path: Path, fault: str, words: str) -> None:
    directory = settings_path.parent
    state = directory / "state"
    state.mkdir(mode=0o700)
    match fault:
        case "open_state":
            state.chmod(0o755)
        case "open_key":
            (state / "connector.key").write_bytes(bytes(32))
            (state / "connector.key").chmod(0o644)
        case "no_table":
            lines = settings_path.read_text().splitlines()
            kept = [line for line in lines if "identity" not in line and "people" not in line]
            settings_path.write_text("\n".join(kept) + "\n")
        case _:
            shutil.rmtree(directory / "profiles")
    process = await _start(settings_path)
    said = await _wait_ended(process)
    assert process.returncode == 1
    assert words in said
    assert "Traceback" not in said


def test_long_runtime_directory_is_refused(settings_path: Path) -> None:
    settings = load_settings(settings_path)
    long = settings.model_copy(update={"runtime_directory": settings_path.parent / ("x" * 100)})
    with pytest.raises(ConfigurationError, match="too long"):
        prepare_directories(long)


def test_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            lock_state_directory(tmp_path),
            pytest.raises(ConfigurationError, match="Another connector"),
            lock_state_directory(tmp_path),
        ):
            pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["connector.lock"]


async def test_launch_page_is_on_the_hub_of_the_server(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    plain = (await store.ensure(build_launch(), build_start(), text("Made."))).record
    named = (await store.ensure(build_launch(server="a b"), build_start(), text("Made."))).record
    await store.close()
    assert build_launch_page(plain) == "/hub/launch/alice"
    assert build_launch_page(named) == "/hub/launch/alice/a%20b"
