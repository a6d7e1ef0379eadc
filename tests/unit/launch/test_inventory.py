"""What a cluster offers is remembered, refreshed behind the scenes, and never waited for long."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.errors import ClusterUnavailable
from gateway.launch import inventory as module
from gateway.launch.inventory import Inventory
from gateway.schedulers.base import Partition
from tests.fakes import UNAVAILABLE, FakeWorld


class Counting(FakeWorld):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.slow = 0.0

    async def fetch_partitions(self) -> tuple[Partition, ...]:
        self.asked += 1
        await asyncio.sleep(self.slow)
        return await super().fetch_partitions()


async def test_answers_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Counting()
    inventory = Inventory(world.profile, world)
    offered = await asyncio.gather(*(inventory.fetch(f"user{n}") for n in range(20)))
    assert world.asked == 1
    assert all(each.choices.live for each in offered)
    await inventory.close()


async def test_old_answer_is_shown_while_a_new_one_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PARTITIONS_SECONDS", 0.05)
    world = Counting()
    inventory = Inventory(world.profile, world)
    await inventory.fetch("alice")
    await asyncio.sleep(0.1)
    world.slow = 0.2
    began = asyncio.get_running_loop().time()
    offered = await inventory.fetch("alice")
    assert asyncio.get_running_loop().time() - began < 0.15
    assert offered.choices.live
    assert world.asked == 2
    await inventory.close()


async def test_silent_scheduler_leaves_the_profile() -> None:
    world = Counting()
    world.slow = 60
    inventory = Inventory(world.profile, world, wait=0.05)
    offered = await inventory.fetch("alice")
    assert offered.fetched_at is None
    assert not offered.choices.live
    assert "short" in offered.choices.partitions
    await inventory.close()


async def test_failing_scheduler_is_not_asked_by_every_page(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = Counting()
    world.run_errors = [ClusterUnavailable(UNAVAILABLE)]
    inventory = Inventory(world.profile, world, wait=0.05)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            assert (await inventory.fetch("alice")).fetched_at is None
    assert world.asked == 1
    assert any("did not say" in record.getMessage() for record in caplog.records)
    await inventory.close()
