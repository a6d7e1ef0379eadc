"""A connector that is killed in any state takes up every launch where its record says."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import ClusterUnavailable, SubmitAmbiguous
from gateway.launch.states import EndReason, LaunchState
from gateway.values.jobs import Outcome
from tests.fakes import UNAVAILABLE
from tests.launch_bench import Bench, build_start


async def _halt_in(bench: Bench, state: LaunchState) -> str:
    """Bring a launch into ``state`` so that it stays there, and return its id."""
    world = bench.world
    if state is LaunchState.REQUESTED:
        world.run_errors = [ClusterUnavailable(UNAVAILABLE)] * 100_000
    elif state is LaunchState.SUBMITTING:
        world.submit_blocks = asyncio.Event()
    elif state is LaunchState.QUEUED:
        world.starts_at_once = False
    elif state is LaunchState.STARTING:
        world.announces = False
    elif state is LaunchState.CONNECTING:
        world.servers_listen = False
    ensured = await bench.ensure(start=build_start("the-first-token", "t1"))
    launch_id = ensured.record.id
    if state is LaunchState.ENDING:
        await bench.reach(launch_id, LaunchState.READY)
        world.cancel_works = False
        await bench.registry.stop(launch_id, by="alice")
    await bench.reach(launch_id, state)
    if state is LaunchState.SUBMITTING:
        await bench.until(launch_id, lambda _: bool(world.jobs))
    if state is LaunchState.CONNECTING:
        await bench.until(launch_id, lambda s: s.record.running_start_id is not None)
    return launch_id


def _go_on(bench: Bench) -> None:
    world = bench.world
    world.run_errors.clear()
    world.submit_blocks = None
    world.announces = world.servers_listen = world.cancel_works = True
    for agent in world.agents.values():
        if agent.start is not None and agent.phase.phase == "starting":
            agent.set_phase(type(agent.phase)("listening", agent.start.start_id))
    for job in [job for job in world.jobs if job not in world.cancels]:
        if not world.starts_at_once:
            world.run_job(job)
    world.starts_at_once = True


@pytest.mark.parametrize(
    "state",
    [
        LaunchState.REQUESTED,
        LaunchState.SUBMITTING,
        LaunchState.QUEUED,
        LaunchState.STARTING,
        LaunchState.CONNECTING,
        LaunchState.READY,
    ],
)
async def test_killed_in(bench: Bench, state: LaunchState) -> None:
    launch_id = await _halt_in(bench, state)
    await bench.close()
    if state is LaunchState.SUBMITTING:
        # The submit went through after all; its sender never heard of it.
        (job,) = bench.world.jobs
        bench.world.run_job(job)
    _go_on(bench)
    assert await bench.open() == 1
    ready = (await bench.reach(launch_id, LaunchState.READY)).record
    assert len(bench.world.jobs) == 1
    assert bench.world.cancels == []
    agent = bench.agent(ready)
    assert agent.start is not None
    assert agent.start.environment["JUPYTERHUB_API_TOKEN"] == "the-first-token"
    assert ready.running_start_id == agent.start.start_id
    adopted = await bench.ensure(start=build_start("a-newer-token", "t2"))
    assert adopted.given is not None
    assert adopted.given.api_token == "the-first-token"


async def test_killed_while_submitting_and_nothing_was_submitted(bench: Bench) -> None:
    bench.world.submit_errors = [SubmitAmbiguous(UNAVAILABLE)]
    bench.world.find_errors = [ClusterUnavailable(UNAVAILABLE)] * 100_000
    ensured = await bench.ensure()
    await bench.until(ensured.record.id, lambda _: bench.world.submits == 1)
    await bench.close()
    bench.world.find_errors.clear()
    await bench.open()
    await bench.reach(ensured.record.id, LaunchState.READY)
    assert bench.world.submits == 2
    assert len(bench.world.jobs) == 1


async def test_killed_while_ending(bench: Bench) -> None:
    launch_id = await _halt_in(bench, LaunchState.ENDING)
    await bench.close()
    _go_on(bench)
    await bench.open()
    ended = (await bench.reach(launch_id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.STOPPED


async def test_job_that_ended_meanwhile(bench: Bench) -> None:
    record, job = await bench.start_ready()
    await bench.close()
    bench.world.end_job(job, Outcome.WALLTIME)
    await bench.open()
    ended = (await bench.reach(record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.WALLTIME


async def test_job_that_was_requeued_meanwhile(bench: Bench) -> None:
    record, job = await bench.start_ready()
    first = bench.agent(record)
    await bench.close()
    bench.world.run_job(job, node="n3", restarts=1)
    await bench.open()
    again = (await bench.until(record.id, lambda s: s.record.node == "n3")).record
    again = (await bench.reach(record.id, LaunchState.READY)).record
    assert again.former_nonce == first.nonce


async def test_second_restart_in_a_row(bench: Bench) -> None:
    record, _ = await bench.start_ready()
    for _ in range(3):
        await bench.restart()
        await bench.until(record.id, lambda s: s.tunnel_up)
    assert bench.world.submits == 1


async def test_closing_leaves_job_and_record(bench: Bench) -> None:
    record, job = await bench.start_ready()
    edge = bench.edge(record)
    await bench.registry.close()
    assert bench.world.cancels == []
    assert not edge.is_open
    stored = await bench.store.fetch(record.id)
    assert stored is not None
    assert stored.state is LaunchState.READY
    assert stored.job_id == job


async def test_launch_of_a_cluster_without_profile_is_left_alone(bench: Bench) -> None:
    from gateway.launch.registry import LaunchRegistry

    record, _ = await bench.start_ready()
    await bench.registry.close()
    bare = LaunchRegistry({}, bench.store, bench.metrics)
    assert await bare.resume() == 1
    await asyncio.sleep(0.1)
    snapshot = await bare.fetch(record.id)
    assert snapshot is not None
    assert snapshot.record.state is LaunchState.READY
    await bare.close()
