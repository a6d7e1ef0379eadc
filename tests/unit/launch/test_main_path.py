"""The main path over a fake cluster: what happens when all goes well, and when it does not."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from gateway.errors import ClusterRefused, ClusterUnavailable, RequestRejected, SubmitAmbiguous
from gateway.launch.states import EndReason, LaunchState
from gateway.text import text
from gateway.tunnel.base import AgentPhase
from gateway.values.jobs import JobState, Outcome
from tests.fakes import UNAVAILABLE, build_profile
from tests.launch_bench import Bench, build_launch, build_start, list_states


async def test_request_becomes_ready_and_is_stopped(bench: Bench) -> None:
    record, job = await bench.start_ready()
    assert list_states(record) == [
        "requested",
        "submitting",
        "queued",
        "starting",
        "connecting",
        "ready",
    ]
    assert record.node == "n1"
    assert record.offered_start_id == record.running_start_id
    agent = bench.agent(record)
    assert agent.start is not None
    assert agent.start.environment["JUPYTERHUB_API_TOKEN"] == "token-of-the-server"
    assert tuple(agent.start.arguments) == ("--debug",)
    assert bench.edge(record).tunnel is not None
    assert bench.world.hub_api.scopes[record.id].token == "token-of-the-server"
    request = bench.world.requests[job]
    assert request.name == f"lf-{record.id}"
    assert request.log_path == f"{request.directory}/job.log"
    assert bench.world.submitted_after[job] == record.submit_attempted_at is not None

    await bench.registry.stop(record.id, by="alice")
    ended = (await bench.reach(record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.STOPPED
    assert agent.stopped
    assert bench.world.cancels == [job]
    assert ended.history[-2].by == "alice"
    await _eventually(lambda: bench.world.prunes == [request.directory])
    await _eventually(lambda: not bench.edge(record).is_open)
    assert record.id not in bench.world.hub_api.scopes


async def test_server_is_connected_only_when_it_listens(bench: Bench) -> None:
    bench.world.servers_listen = False
    ensured = await bench.ensure()
    snapshot = await bench.until(ensured.record.id, lambda s: s.record.running_start_id is not None)
    assert snapshot.record.state is LaunchState.CONNECTING
    edge = bench.edge(ensured.record)
    assert edge.is_open
    assert edge.tunnel is None
    agent = bench.agent(ensured.record)
    agent.set_phase(AgentPhase("listening", snapshot.record.running_start_id))
    await bench.reach(ensured.record.id, LaunchState.READY)
    assert edge.tunnel is not None


async def test_lost_tunnel_is_opened_again_without_touching_the_job(bench: Bench) -> None:
    record, _ = await bench.start_ready()
    bench.world.open_errors = [ClusterUnavailable(UNAVAILABLE)] * 3
    opens = bench.world.opens
    bench.world.lose_tunnels()
    lost = await bench.until(record.id, lambda s: not s.tunnel_up)
    assert lost.tunnel_down_since is not None
    assert bench.edge(record).tunnel is None
    back = await bench.until(record.id, lambda s: s.tunnel_up)
    assert back.tunnel_down_since is None
    await bench.reach(record.id, LaunchState.READY)
    assert bench.world.opens >= opens + 4
    assert bench.world.submits == 1
    assert bench.world.cancels == []
    assert bench.edge(record).tunnel is not None


async def test_silence_of_the_scheduler_changes_nothing(bench: Bench) -> None:
    record, job = await bench.start_ready()
    bench.world.set_status(job, JobState.UNKNOWN)
    await asyncio.sleep(0.05)
    snapshot = await bench.registry.fetch(record.id)
    assert snapshot is not None
    assert snapshot.record.state is LaunchState.READY
    # A restored controller says it of a job that runs; only a counted restart is a requeue.
    bench.world.set_status(job, JobState.PENDING)
    await asyncio.sleep(0.05)
    snapshot = await bench.registry.fetch(record.id)
    assert snapshot is not None
    assert snapshot.record.state is LaunchState.READY
    assert snapshot.tunnel_up


async def test_requeued_job_is_a_new_run(bench: Bench) -> None:
    record, job = await bench.start_ready()
    first = bench.agent(record)
    bench.world.set_status(job, JobState.PENDING, restarts=1, batch_node=None)
    queued = (await bench.reach(record.id, LaunchState.QUEUED)).record
    assert queued.restarts == 1
    assert bench.edge(record).tunnel is None
    second = bench.world.run_job(job, node="n2", restarts=1)
    again = (await bench.reach(record.id, LaunchState.READY)).record
    assert again.node == "n2"
    assert again.former_nonce == first.nonce
    assert again.reached_nonce == second.nonce
    assert second.start is not None
    assert first.start is not None
    assert second.start.environment == first.start.environment
    assert bench.world.submits == 1


async def test_requeue_that_was_never_seen_pending(bench: Bench) -> None:
    record, job = await bench.start_ready()
    first = bench.agent(record)
    second = bench.world.run_job(job, node="n1", restarts=1)
    await bench.until(record.id, lambda s: s.record.reached_nonce == second.nonce)
    ready = (await bench.reach(record.id, LaunchState.READY)).record
    assert ready.former_nonce == first.nonce
    assert list_states(ready)[-3:] == ["starting", "connecting", "ready"]


async def test_requeue_before_the_agent_was_reached(bench: Bench) -> None:
    bench.world.announces = False
    ensured = await bench.ensure()
    await bench.reach(ensured.record.id, LaunchState.STARTING)
    (job,) = bench.world.jobs
    second = bench.world.run_job(job, node="n2", restarts=1)
    again = await bench.until(ensured.record.id, lambda s: s.record.node == "n2")
    assert again.record.state is LaunchState.STARTING
    bench.world.announces = True
    ready = (await bench.reach(ensured.record.id, LaunchState.READY)).record
    assert ready.reached_nonce == second.nonce
    assert list_states(ready)[-4:] == ["starting", "starting", "connecting", "ready"]


async def test_announcement_of_the_former_run_is_not_believed(bench: Bench) -> None:
    record, job = await bench.start_ready()
    stale = bench.agent(record)
    bench.world.run_job(job, node="n2", restarts=1)
    bench.world.agents[record.id] = stale
    await bench.reach(record.id, LaunchState.STARTING)
    await asyncio.sleep(0.1)
    snapshot = await bench.registry.fetch(record.id)
    assert snapshot is not None
    assert snapshot.record.state is LaunchState.STARTING


async def test_refused_submit_ends_with_the_words_of_the_scheduler(bench: Bench) -> None:
    words = text("The scheduler refused: invalid account.")
    bench.world.submit_errors = [RequestRejected(words)]
    ensured = await bench.ensure()
    ended = (await bench.reach(ensured.record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.REJECTED
    assert ended.end_words is not None
    assert ended.end_words.render() == words.render()
    assert bench.world.jobs == {}
    # The agent in a launch directory marks it as one that lives: it must go.
    await _eventually(lambda: bench.world.prunes == [ended.directory])


async def test_unreachable_login_node_is_waited_for(bench: Bench) -> None:
    bench.world.run_errors = [ClusterUnavailable(UNAVAILABLE)] * 3
    bench.world.submit_errors = [ClusterUnavailable(UNAVAILABLE)] * 2
    await bench.start_ready()
    assert bench.world.submits == 3
    assert len(bench.world.jobs) == 1


async def test_changed_host_key_ends_the_launch(bench: Bench) -> None:
    bench.world.run_errors = [ClusterRefused(text("The host key has changed."))]
    ensured = await bench.ensure()
    ended = (await bench.reach(ensured.record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.FAILED


async def test_lost_answer_of_a_submit_makes_no_second_job(bench: Bench) -> None:
    bench.world.lost_submits = [SubmitAmbiguous(UNAVAILABLE)]
    bench.world.find_errors = [ClusterUnavailable(UNAVAILABLE)] * 2
    _, job = await bench.start_ready()
    assert bench.world.submits == 1
    assert list(bench.world.jobs) == [job]


async def test_submit_that_never_arrived_is_repeated_after_the_grace(bench: Bench) -> None:
    bench.world.submit_errors = [SubmitAmbiguous(UNAVAILABLE)]
    began = asyncio.get_running_loop().time()
    await bench.start_ready()
    assert bench.world.submits == 2
    assert len(bench.world.jobs) == 1
    grace = bench.patience.submit_grace + 0.05
    assert asyncio.get_running_loop().time() - began > grace


async def test_answer_of_a_submit_that_was_not_understood(bench: Bench) -> None:
    bench.world.lost_submits = [ClusterRefused(text("Not understood."))]
    await bench.start_ready()
    assert bench.world.submits == 1


async def test_job_that_ends_is_explained_with_its_log(bench: Bench) -> None:
    record, job = await bench.start_ready()
    bench.world.log = "Traceback\x1b[31m\nValueError: no\n"
    bench.world.end_job(job, Outcome.OUT_OF_MEMORY)
    ended = (await bench.reach(record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.OUT_OF_MEMORY
    assert "ValueError" in ended.log_tail
    assert "\x1b" not in ended.log_tail


async def test_log_of_a_failed_job_tells_what_to_do(bench: Bench) -> None:
    bench.world.announces = False
    ensured = await bench.ensure()
    await bench.reach(ensured.record.id, LaunchState.STARTING)
    bench.world.log = "landfall: error module_missing: python/9.9\n"
    (job,) = bench.world.jobs
    bench.world.end_job(job, Outcome.FAILED, exit_code=1)
    ended = (await bench.reach(ensured.record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.FAILED
    assert ended.end_words is not None
    assert "python/9.9" in ended.end_words.render()


async def test_job_that_completed_unreached_has_failed(bench: Bench) -> None:
    bench.world.announces = False
    ensured = await bench.ensure()
    await bench.reach(ensured.record.id, LaunchState.STARTING)
    (job,) = bench.world.jobs
    bench.world.end_job(job, Outcome.COMPLETED, exit_code=0)
    ended = (await bench.reach(ensured.record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.FAILED


async def test_server_shut_down_from_within(bench: Bench) -> None:
    record, job = await bench.start_ready()
    bench.agent(record).set_phase(AgentPhase("ended", record.running_start_id, 0))
    await bench.until(record.id, lambda _: bench.edge(record).tunnel is None)
    bench.world.end_job(job, Outcome.COMPLETED, exit_code=0)
    ended = (await bench.reach(record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.COMPLETED
    assert bench.world.cancels == []


async def test_after_a_shut_down_the_history_speaks_of_no_lost_connection(bench: Bench) -> None:
    record, job = await bench.start_ready()
    bench.agent(record).set_phase(AgentPhase("ended", record.running_start_id, 0))
    await bench.until(record.id, lambda _: bench.edge(record).tunnel is None)
    # The agent ends, and its tunnel with it, before the scheduler tells of the job's end.
    bench.world.lose_tunnels()
    left = await bench.reach(record.id, LaunchState.CONNECTING)
    assert str(left.record.history[-1].words) == (
        "The server has ended; waiting for the job to end."
    )
    bench.world.end_job(job, Outcome.COMPLETED, exit_code=0)
    ended = (await bench.reach(record.id, LaunchState.ENDED)).record
    assert not any("was lost" in str(line.words) for line in ended.history)


async def test_confirmed_missing_job_is_gone(bench: Bench) -> None:
    record, job = await bench.start_ready()
    bench.world.set_status(job, JobState.MISSING)
    ended = (await bench.reach(record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.GONE


async def test_start_deadline_ends_a_job_that_never_announces_itself(bench: Bench) -> None:
    bench.world.profile = build_profile(start_deadline=timedelta(seconds=0.2))
    await bench.restart()
    bench.world.announces = False
    bench.world.log = "landfall: error agent_python_missing: /opt/python\n"
    ensured = await bench.ensure()
    ended = (await bench.reach(ensured.record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.NEVER_REACHED
    assert len(bench.world.cancels) == 1
    assert "/opt/python" in ended.log_tail
    assert list_states(ended)[-2:] == ["ending", "ended"]


async def test_start_deadline_does_not_count_while_nobody_answers(bench: Bench) -> None:
    bench.world.profile = build_profile(start_deadline=timedelta(seconds=0.1))
    await bench.restart()
    bench.world.open_errors = [ClusterUnavailable(UNAVAILABLE)] * 10_000
    ensured = await bench.ensure()
    await bench.until(ensured.record.id, lambda _: bench.world.opens > 10)
    await asyncio.sleep(0.2)
    snapshot = await bench.registry.fetch(ensured.record.id)
    assert snapshot is not None
    assert snapshot.record.state is LaunchState.STARTING
    bench.world.open_errors.clear()
    await bench.reach(ensured.record.id, LaunchState.READY)


async def test_start_deadline_never_ends_a_launch_that_was_reached(bench: Bench) -> None:
    bench.world.profile = build_profile(start_deadline=timedelta(seconds=0.1))
    await bench.restart()
    record, _ = await bench.start_ready()
    bench.world.announces = False
    bench.world.lose_tunnels()
    opens = bench.world.opens
    await bench.until(record.id, lambda _: bench.world.opens > opens + 20)
    snapshot = await bench.registry.fetch(record.id)
    assert snapshot is not None
    assert snapshot.record.state is LaunchState.CONNECTING
    assert bench.world.cancels == []


async def test_cancel_is_repeated_until_the_job_is_over(bench: Bench) -> None:
    record, job = await bench.start_ready()
    bench.world.cancel_errors = [ClusterUnavailable(UNAVAILABLE)] * 2
    bench.world.cancel_works = False
    await bench.registry.stop(record.id, by="culler")
    await bench.until(record.id, lambda _: len(bench.world.cancels) >= 4)
    ending = await bench.registry.fetch(record.id)
    assert ending is not None
    assert ending.record.state is LaunchState.ENDING
    bench.world.cancel_works = True
    ended = (await bench.reach(record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.STOPPED
    assert set(bench.world.cancels) == {job}


async def test_stop_of_a_pending_job(bench: Bench) -> None:
    bench.world.starts_at_once = False
    ensured = await bench.ensure()
    await bench.reach(ensured.record.id, LaunchState.QUEUED)
    bench.world.set_status(
        next(iter(bench.world.jobs)),
        JobState.PENDING,
        native_reason="Priority",
        reason_words=text("Others are before you."),
    )
    waiting = await bench.until(ensured.record.id, lambda s: s.words is not None)
    assert str(waiting.words) == "Others are before you."
    await bench.registry.stop(ensured.record.id, by="alice")
    ended = (await bench.reach(ensured.record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.STOPPED


async def test_stop_while_the_submit_is_under_way_leaves_no_job(bench: Bench) -> None:
    bench.world.starts_at_once = False
    bench.world.submit_blocks = asyncio.Event()
    ensured = await bench.ensure()
    await bench.until(ensured.record.id, lambda _: bool(bench.world.jobs))
    await bench.registry.stop(ensured.record.id, by="alice")
    ended = (await bench.reach(ensured.record.id, LaunchState.ENDED)).record
    assert ended.end_reason is EndReason.STOPPED
    (job,) = bench.world.jobs
    assert job in bench.world.cancels


async def test_stop_before_anything_was_submitted(bench: Bench) -> None:
    bench.world.run_errors = [ClusterUnavailable(UNAVAILABLE)] * 10_000
    ensured = await bench.ensure()
    await bench.registry.stop(ensured.record.id, by="alice")
    bench.world.run_errors.clear()
    await bench.reach(ensured.record.id, LaunchState.ENDED)
    assert bench.world.submits == 0


async def test_job_that_only_its_owner_can_see_can_be_ended(bench: Bench) -> None:
    bench.world.starts_at_once = False
    bench.world.cancel_works = False
    ensured = await bench.ensure()
    await bench.reach(ensured.record.id, LaunchState.QUEUED)
    (job,) = bench.world.jobs
    bench.world.set_status(job, JobState.UNKNOWN)
    await bench.registry.stop(ensured.record.id, by="alice")
    await bench.until(ensured.record.id, lambda _: len(bench.world.cancels) >= 2)
    del bench.world.jobs[job]
    await bench.reach(ensured.record.id, LaunchState.ENDED)


async def test_fault_of_ours_is_survived_and_counted(bench: Bench) -> None:
    faults: list[Exception] = [KeyError("a fault"), ZeroDivisionError("another")]

    original = bench.world.submit

    async def submit(*args: object) -> object:
        if faults:
            raise faults.pop(0)
        return await original(*args)  # type: ignore[arg-type]

    bench.world.submit = submit  # type: ignore[method-assign,assignment]
    await bench.start_ready()
    count = bench.metrics.registry.get_sample_value(
        "landfall_launch_crashes_total", {"cluster": "fjord"}
    )
    assert count == 2


async def test_two_servers_of_one_person_stand_side_by_side(bench: Bench) -> None:
    first = await bench.ensure(build_launch())
    second = await bench.ensure(build_launch(server="gpu"), build_start("another-token"))
    assert first.record.edge != second.record.edge
    await bench.reach(first.record.id, LaunchState.READY)
    await bench.reach(second.record.id, LaunchState.READY)
    assert len(bench.world.jobs) == 2


async def test_successor_starts_while_the_former_launch_is_ending(bench: Bench) -> None:
    record, _ = await bench.start_ready()
    bench.world.cancel_works = False
    await bench.registry.stop(record.id, by="alice")
    await bench.reach(record.id, LaunchState.ENDING)
    successor = await bench.ensure()
    assert not successor.adopted
    assert successor.record.id != record.id
    await bench.reach(successor.record.id, LaunchState.READY)
    bench.world.cancel_works = True
    await bench.reach(record.id, LaunchState.ENDED)
    snapshot = await bench.registry.fetch(successor.record.id)
    assert snapshot is not None
    assert snapshot.record.state is LaunchState.READY


async def _eventually(holds: object, seconds: float = 2.0) -> None:
    assert callable(holds)
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)
