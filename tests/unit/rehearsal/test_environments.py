"""The environments of its profile, run with the real template, scheduler adapter and agent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from gateway.profiles.models import ClusterProfile
from gateway.remote.bundle import build_agent
from gateway.rendering.job_log import parse_job_log
from gateway.rendering.renderer import Renderer
from gateway.schedulers.slurm.adapter import SlurmScheduler
from gateway.transport.base import Actor, Role
from gateway.transport.pool import SshPool
from gateway.transport.ssh import SshTransport
from gateway.tunnel.base import TunnelTarget
from gateway.tunnel.compute_ssh import ComputeSshOpener
from gateway.values.identity import ClusterUser
from gateway.values.jobs import JobId, JobRequest
from gateway.values.resources import MemorySize, ResourceRequest
from tests.unit.rehearsal.site import Site, open_pool
from tests.unit.rehearsal.test_slurm import ended


async def launch(
    site: Site, profile: ClusterProfile, pool: SshPool, environment: str
) -> tuple[JobId, Path]:
    """Submit the rendered job script of one environment as alice; id and launch directory."""
    partition = profile.partitions["interactive"]
    directory = site.cluster.hosts.home("alice") / profile.launch_directory / environment
    directory.mkdir(mode=0o700, parents=True)
    agent = directory / "agent.pyz"
    agent.write_bytes(build_agent())
    request = JobRequest(
        launch_id="0123456789abcdef",
        name="lf-0123456789abcdef",
        user=ClusterUser("rehearsal", "alice"),
        resources=ResourceRequest("interactive", partition.default_walltime, 1, MemorySize(1024)),
        environment=environment,
        directory=str(directory),
        log_path=str(directory / "job.log"),
        agent_path=str(agent),
    )
    scheduler = SlurmScheduler(SshTransport(pool), profile, Actor(Role.OBSERVER, "observer"))
    script = Renderer([]).render(profile, request)
    return await scheduler.submit(Actor(Role.USER, "alice"), request, script), directory


async def test_the_broken_environment_fails_as_it_says(site: Site, tmp_path: Path) -> None:
    profile, pool = open_pool(site, tmp_path)
    job, directory = await launch(site, profile, pool, "broken")
    assert await ended(site, int(job)) == "FAILED"
    failure = parse_job_log((directory / "job.log").read_text())
    assert failure is not None
    assert failure.reason == "module_missing"
    await pool.close()


async def test_the_agent_announces_itself_and_is_reached_over_the_node(
    site: Site, tmp_path: Path
) -> None:
    profile, pool = open_pool(site, tmp_path)
    job, directory = await launch(site, profile, pool, "jupyter")
    announcement = directory / "announcement.json"
    async with asyncio.timeout(20):
        while not announcement.exists():
            assert site.cluster.state.jobs[int(job)].live, (directory / "job.log").read_text()
            await asyncio.sleep(0.1)
    said = json.loads(announcement.read_text())
    assert said["directory"].startswith(profile.tunnel.socket_directory)
    opener = ComputeSshOpener(pool, profile)
    target = TunnelTarget(
        launch_id=said["launch_id"],
        user=ClusterUser("rehearsal", "alice"),
        node="r1",
        launch_directory=str(directory),
        hub_api_socket=tmp_path / "hub.sock",
    )
    tunnel = await opener.open(target, timeout=15)
    assert (tunnel.announcement.nonce, tunnel.phase.phase) == (said["nonce"], "waiting")
    await tunnel.send_stop()
    assert await ended(site, int(job)) in ("COMPLETED", "FAILED")
    async with asyncio.timeout(10):
        await tunnel.wait_closed()
    await opener.close()
    await pool.close()
