"""The first of several tasks: what fails, and what becomes of the others."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gateway.launch.waiting import run_until_first


async def _fail(words: str) -> None:
    await asyncio.sleep(0)
    raise ValueError(words)


async def test_of_two_failures_the_first_is_raised_and_none_is_left_unseen() -> None:
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    with pytest.raises(ValueError, match="one"):
        await run_until_first(_fail("one"), _fail("two"))
    gc.collect()
    await asyncio.sleep(0)
    assert unseen == []


async def test_the_others_are_cancelled_and_awaited() -> None:
    ended = asyncio.Event()

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await run_until_first(asyncio.sleep(0), wait_for_ever())
    assert ended.is_set()
