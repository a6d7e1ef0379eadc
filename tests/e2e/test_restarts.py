"""The gateway's own processes end and come back; jobs and notebooks do not notice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

from .cluster import Cluster, until
from .gateway import Gateway
from .patience import IDLE_SECONDS, IDLE_SERVER, Patience
from .visitor import Visitor

Visit = Callable[[str], Awaitable[Visitor]]
COUNT = "import time\nfor n in range(24):\n    print(n, end=' ', flush=True); time.sleep(0.5)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
async def test_hub_restart_under_a_running_notebook(
    visit: Visit, gateway: Gateway, cluster: Cluster, number: int
) -> None:
    alice = await visit("alice")
    await alice.start()
    job = cluster.job_of("alice")
    kernel = await alice.open_kernel()
    counting = asyncio.create_task(kernel.run(COUNT))
    await asyncio.sleep(1)
    await gateway.restart("hub", number)
    assert (await counting).split() == [str(n) for n in range(24)]
    assert await kernel.run("6*7") == "42"
    await kernel.close()
    assert cluster.job_of("alice") == job
    # The hub knows its server again, and what it was.
    assert (await alice.servers())[""]["ready"]
    await alice.wait_ready(bound=20)
    await alice.stop()
    await until("an empty queue", lambda: not cluster.jobs("alice"))


async def test_hub_restart_while_a_job_waits(
    visit: Visit, gateway: Gateway, cluster: Cluster
) -> None:
    alice = await visit("alice")
    occupier = cluster.occupy("small")
    await until("the occupier", lambda: cluster.ended_as(occupier) == "RUNNING")
    await alice.ask(partition="small")
    await alice.wait_state("queued")
    job = cluster.job_of("alice")
    await gateway.restart("hub")
    event = await alice.wait_state("queued")
    assert job.id in event.words
    assert [one.id for one in cluster.jobs("alice")] == [job.id]
    page = await alice.launch_page()
    if 'value="reconnect"' in page:
        await alice.press("reconnect")
    cluster.cancel(occupier)
    await alice.wait_ready(bound=60)
    assert cluster.job_of("alice").id == job.id
    kernel = await alice.open_kernel()
    assert await kernel.run("6*7") == "42"
    await kernel.close()


@pytest.mark.late(1)
@pytest.mark.timeout(IDLE_SECONDS + 60)
async def test_an_idle_websocket_answers_after_three_minutes(patience: Patience) -> None:
    await patience.wait_idle()
    assert await patience.kernel.run("word") == "'kept'"
    await patience.kernel.close()
    await patience.carol.stop(IDLE_SERVER)


@pytest.mark.late(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
async def test_connector_restart_keeps_job_and_kernel(
    visit: Visit, gateway: Gateway, cluster: Cluster, number: int
) -> None:
    alice = await visit("alice")
    await alice.start()
    job = cluster.job_of("alice")
    kernel = await alice.open_kernel()
    await kernel.run("word = 'kept'")
    await kernel.close()
    await gateway.restart("connector", number)
    async with asyncio.timeout(30):
        while (await alice.server_api("GET", "api/status"))[0] != 200:
            await asyncio.sleep(0.2)
    again = await alice.connect_kernel(kernel.id)
    assert await again.run("word") == "'kept'"
    await again.close()
    assert cluster.job_of("alice") == job
    await alice.wait_ready(bound=20)
