"""Opening, closing, and what is left when it was killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from gateway.profiles.loading import load_profile
from gateway.profiles.models import ClusterProfile
from gateway.rehearsal.processes import find_processes
from gateway.rehearsal.profile import build_rehearsal_profile, shipped_profile
from gateway.yaml_files import load_model
from tests.unit.rehearsal.site import Site, open_site


async def test_close_ends_jobs_sessions_and_sockets(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        await site.submit("alice", "", "env -i setsid sleep 1000")
        connection = await site.connect("bob")
        await connection.create_process("sleep 1000")
        node_tmp = Path(site.cluster.socket_directory)
        async with asyncio.timeout(10):
            while len(find_processes(f"{tmp_path}/")) < 3:
                await asyncio.sleep(0.05)
        address = (site.cluster.login_address, site.cluster.port)
    assert find_processes(f"{tmp_path}/") == frozenset()
    assert not node_tmp.exists()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    connection.close()


async def test_ids_and_records_go_on_after_a_restart(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        first = await site.submit("alice", "")
    async with open_site(tmp_path) as site:
        _, out, _ = await site.run("alice", f"sacct -XnP -j {first} -o State")
        assert out == "NODE_FAIL\n"
        assert await site.submit("alice", "") == first + 1


async def test_two_at_once_but_not_in_one_directory(tmp_path: Path, site: Site) -> None:
    async with open_site(tmp_path / "other") as other:
        assert (await other.run("alice", "sinfo -h -o %P"))[0] == 0
        assert (await site.run("alice", "sinfo -h -o %P"))[0] == 0
    with pytest.raises(RuntimeError, match="another rehearsal cluster"):
        async with open_site(site.cluster.directory):
            pass


async def start_program(directory: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.rehearsal", str(directory), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while b"Ctrl-C" not in await process.stdout.readline():
            assert process.returncode is None
    return process


async def submit_with_files(directory: Path) -> None:
    """Submit as alice through the program's own look-alike, as a session would."""
    process = await asyncio.create_subprocess_exec(
        str(directory / "bin" / "alice" / "sbatch"),
        "--wrap=setsid sleep 1000",
        cwd=directory,
        stdin=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    async with asyncio.timeout(10):
        while not find_processes(f"{directory}/#1"):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_program_stops_cleanly_when_asked(tmp_path: Path, number: signal.Signals) -> None:
    process = await start_program(tmp_path)
    await submit_with_files(tmp_path)
    process.send_signal(number)
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    assert find_processes(f"{tmp_path}/") == frozenset()


async def test_next_start_ends_what_a_killed_one_left(tmp_path: Path) -> None:
    process = await start_program(tmp_path)
    await submit_with_files(tmp_path)
    node_tmp = Path((tmp_path / "node_tmp").read_text())
    process.kill()
    await process.wait()
    assert find_processes(f"{tmp_path}/")
    async with open_site(tmp_path) as site:
        assert find_processes(f"{tmp_path}/") == frozenset()
        assert not node_tmp.exists()
        assert (await site.run("alice", "sacct -XnP -j 1 -o State"))[1] == "NODE_FAIL\n"


async def test_profile_is_the_shipped_example_with_this_runs_addresses(
    tmp_path: Path, site: Site
) -> None:
    profile = load_profile(build_rehearsal_profile(site.cluster, tmp_path))
    example = load_model(shipped_profile(), ClusterProfile)
    assert profile.login.hosts[0].host == site.cluster.login_address
    assert profile.login.hosts[0].port == profile.tunnel.compute_port == site.cluster.port
    assert profile.login.known_hosts == site.cluster.known_hosts
    assert profile.partitions == example.partitions
    assert set(profile.partitions) == {p.name for p in site.cluster.state.layout.partitions}
    assert profile.environments["jupyter"].agent_python == sys.executable
    assert os.access(profile.environments["jupyter"].command[0], os.X_OK)
    assert Path(profile.tunnel.socket_directory).is_dir()
