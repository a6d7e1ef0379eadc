"""Ensuring twice, replacing a token, and keeping the one that is in use."""

from __future__ import annotations

import asyncio

from gateway.launch.states import LaunchState
from gateway.tunnel.base import AgentPhase
from gateway.values.jobs import JobState
from tests.launch_bench import Bench, build_launch, build_start


async def test_two_tabs_make_one_launch(bench: Bench) -> None:
    answers = await asyncio.gather(
        *(bench.ensure(build_launch(), build_start(f"token-number-{n}")) for n in range(20))
    )
    assert len({answer.record.id for answer in answers}) == 1
    assert [answer.adopted for answer in answers].count(False) == 1
    await bench.reach(answers[0].record.id, LaunchState.READY)
    assert bench.world.submits == 1


async def test_token_is_replaced_while_the_job_waits(bench: Bench) -> None:
    bench.world.starts_at_once = False
    first = await bench.ensure(start=build_start("the-first-token", "t1"))
    await bench.reach(first.record.id, LaunchState.QUEUED)
    second = await bench.ensure(start=build_start("the-second-token", "t2"))
    assert second.adopted
    assert second.given is None
    assert second.record.token_id == "t2"
    (job,) = bench.world.jobs
    agent = bench.world.run_job(job)
    await bench.reach(first.record.id, LaunchState.READY)
    assert agent.start is not None
    assert agent.start.environment["JUPYTERHUB_API_TOKEN"] == "the-second-token"
    assert bench.world.hub_api.scopes[first.record.id].token == "the-second-token"


async def test_running_server_keeps_its_token(bench: Bench) -> None:
    record, _ = await bench.start_ready(build_start("the-running-token", "t1"))
    adopted = await bench.ensure(start=build_start("a-newer-token", "t2"))
    assert adopted.record.id == record.id
    assert adopted.given is not None
    assert adopted.given.api_token == "the-running-token"
    assert adopted.given.token_id == "t1"
    assert adopted.record.token_id == "t1"


async def test_token_offered_to_the_agent_stands(bench: Bench) -> None:
    bench.world.servers_listen = False
    first = await bench.ensure(start=build_start("the-first-token", "t1"))
    await bench.until(first.record.id, lambda s: s.record.offered_start_id is not None)
    second = await bench.ensure(start=build_start("the-second-token", "t2"))
    assert second.given is not None
    assert second.given.api_token == "the-first-token"


async def test_agent_that_runs_with_secrets_of_before_is_believed(bench: Bench) -> None:
    bench.world.starts_at_once = False
    first = build_start("the-first-token", "t1")
    ensured = await bench.ensure(start=first)
    await bench.reach(ensured.record.id, LaunchState.QUEUED)
    await bench.ensure(start=build_start("the-second-token", "t2"))
    (job,) = bench.world.jobs
    agent = bench.world.run_job(job)
    # A start that was sent, and whose sender died before writing the answer down.
    agent.set_phase(AgentPhase("listening", first.start_id))
    await bench.reach(ensured.record.id, LaunchState.READY)
    adopted = await bench.ensure(start=build_start("the-third-token", "t3"))
    assert adopted.given is not None
    assert adopted.given.api_token == "the-first-token"
    assert bench.world.hub_api.scopes[ensured.record.id].token == "the-first-token"


async def test_token_may_be_replaced_again_while_a_requeued_job_waits(bench: Bench) -> None:
    record, job = await bench.start_ready(build_start("the-first-token", "t1"))
    bench.world.set_status(job, JobState.PENDING, restarts=1)
    bench.world.run_job(job, restarts=1)
    await bench.until(record.id, lambda s: s.record.restarts == 1)
    await bench.reach(record.id, LaunchState.READY)
    agent = bench.agent(record)
    assert agent.start is not None
    assert agent.start.environment["JUPYTERHUB_API_TOKEN"] == "the-first-token"


async def test_watchers_see_every_step_and_the_end(bench: Bench) -> None:
    bench.world.starts_at_once = False
    ensured = await bench.ensure()
    seen: list[LaunchState] = []

    async def watch() -> None:
        watched = bench.registry.watch(ensured.record.id, repeat_after=0.02)
        async for snapshot in watched:
            seen.append(snapshot.record.state)  # noqa: PERF401 - looked at meanwhile

    watching = asyncio.create_task(watch())
    await bench.reach(ensured.record.id, LaunchState.QUEUED)
    await asyncio.sleep(0.1)
    assert seen.count(LaunchState.QUEUED) >= 2  # repeated though nothing changed
    bench.world.run_job(next(iter(bench.world.jobs)))
    await bench.reach(ensured.record.id, LaunchState.READY)
    await bench.registry.stop(ensured.record.id, by="alice")
    async with asyncio.timeout(5):
        await watching
    assert seen[-1] is LaunchState.ENDED
    order = list(dict.fromkeys(seen))
    assert order == sorted(order, key=list(LaunchState).index)
    again = [s async for s in bench.registry.watch(ensured.record.id, repeat_after=1)]
    assert [s.record.state for s in again] == [LaunchState.ENDED]
