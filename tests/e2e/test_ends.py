"""Launches that wait, are refused, fail or end by themselves: what the person is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from .cluster import Cluster, until
from .patience import MINUTE_SERVER, Patience
from .visitor import Event, Visitor, read

Visit = Callable[[str], Awaitable[Visitor]]


def ended(event: Event) -> bool:
    return event.state == "ended"


async def test_a_pending_job_says_why_and_is_cancelled(visit: Visit, cluster: Cluster) -> None:
    alice = await visit("alice")
    occupier = cluster.occupy("small")
    await until("the occupier", lambda: cluster.ended_as(occupier) == "RUNNING")
    await alice.ask(partition="small")
    event = await alice.wait_event(
        lambda event: (
            (event.state == "queued" and "(Resources)" in event.words) or "Resources" in event.words
        )
    )
    assert event.headline == "Waiting in the queue"
    job = cluster.job_of("alice")
    assert job.state == "PENDING"
    await alice.press("cancel")
    await until("an empty queue", lambda: not cluster.jobs("alice"))
    assert cluster.ended_as(job.id) == "CANCELLED"
    event = await alice.wait_event(ended)
    assert "You can start it again" in event.words
    assert await alice.servers() == {}


async def test_a_refusal_shows_the_words_of_the_scheduler(visit: Visit, cluster: Cluster) -> None:
    alice = await visit("alice")
    cluster.bed.sacctmgr("modify user alice set MaxSubmitJobs=0")
    try:
        status, page, _ = await alice.submit_form(partition="interactive", environment="jupyter")
    finally:
        cluster.bed.sacctmgr("modify user alice set MaxSubmitJobs=-1")
    assert status < 500
    words = read(page)
    if "AssocMaxSubmitJobLimit" not in words:
        words = (await alice.wait_event(ended)).words
    assert "AssocMaxSubmitJobLimit" in words
    assert cluster.jobs("alice") == []
    assert await alice.servers() == {}


async def test_a_job_that_dies_shows_the_end_of_its_log(visit: Visit, cluster: Cluster) -> None:
    alice = await visit("alice")
    await alice.ask(environment="dies")
    event = await alice.wait_event(ended, bound=30)
    assert "the licence server is away" in event.words
    await until("no server", lambda: not cluster.jobs("alice"))
    # Trying again is not held up by the failure.
    assert await alice.start() < 30


async def test_a_missing_module_is_told_in_its_own_words(visit: Visit) -> None:
    alice = await visit("alice")
    await alice.ask(environment="broken")
    event = await alice.wait_event(ended, bound=30)
    assert "anaconda/2019.10" in event.words
    assert "The following module(s) are unknown" in event.words


@pytest.mark.late(1)
@pytest.mark.timeout(150)
async def test_the_end_of_the_walltime_is_explained(patience: Patience) -> None:
    carol = patience.carol
    page = await carol.launch_page(MINUTE_SERVER)
    async with asyncio.timeout(120):
        while 'data-state="ended"' not in page:
            await asyncio.sleep(1)
            page = await carol.launch_page(MINUTE_SERVER)
    assert "The job reached its time limit of 1 min." in read(page)
    assert "Ask for a longer walltime" in read(page)
    page = ""
    # Whoever opens the server itself is led there, once the hub has looked.
    end = time.monotonic() + 30
    while "What happened" not in read(page):
        assert time.monotonic() < end, read(page)
        await asyncio.sleep(1)
        _, page = await carol.get(f"{carol.prefix(MINUTE_SERVER)}lab")
