"""What every :class:`~gateway.transport.base.Transport` promises, as tests.

A module that wants them imports them and gives a fixture ``far`` that yields a :class:`Far`::

    from tests.contract.transport import *  # noqa: F403
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta

import pytest

from gateway.errors import ClusterRefused, ClusterUnavailable, RequestRejected
from gateway.transport.base import Actor, Transport

__all__ = [
    "Far",
    "test_account_and_directory_are_the_actors",
    "test_cancelled_call_leaves_connection_usable",
    "test_close_twice",
    "test_concurrent_calls_beyond_the_limit_are_queued",
    "test_death_by_signal_is_128_and_its_number",
    "test_exit_status_is_returned",
    "test_large_output_is_whole",
    "test_large_stdin_is_whole",
    "test_nul_is_refused",
    "test_output_beyond_the_limit_is_refused",
    "test_stdin_nobody_reads",
    "test_streams_are_apart",
    "test_timeout_is_unavailable",
    "test_unknown_program_is_127",
    "test_words_reach_the_program",
]

LIMIT = timedelta(seconds=20)


@dataclass(frozen=True)
class Far:
    """A far side: ``transport`` and an actor that may sign in there.

    ``channels`` is how many commands run at once; ``home`` the actor's home as ``pwd`` prints it
    (``None``: not told).
    """

    transport: Transport
    actor: Actor
    channels: int
    home: str | None = None


WORDS = [
    "plain",
    "",
    "two words",
    "it's",
    '"double"',
    "$HOME `id` $(id)",
    "a!b !! !$",
    "new\nline\n",
    "\n",
    "tab\tand\rreturn\x07",
    "back\\slash \\n \\0101 \\",
    "%s %d 100%",
    "*?[a-z]{a,b}~",
    "#comment ; & | > < ( )",
    "-n",
    "é ü 漢字 \U0001f600",
    os.fsdecode(b"\x81\x88\xff\xfe"),
]


async def test_words_reach_the_program(far: Far) -> None:
    result = await far.transport.run(far.actor, ["/usr/bin/printf", "%s\\0", *WORDS], timeout=LIMIT)
    assert result.exit_status == 0
    assert result.stdout == b"".join(os.fsencode(word) + b"\0" for word in WORDS)
    assert result.argv[2:] == tuple(WORDS)
    assert result.seconds > 0


async def test_streams_are_apart(far: Far) -> None:
    result = await far.transport.run(
        far.actor, ["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in", timeout=LIMIT
    )
    assert (result.stdout, result.stderr, result.exit_status) == (b"in", b"err\n", 3)


@pytest.mark.parametrize("status", [0, 1, 2, 126, 255])
async def test_exit_status_is_returned(far: Far, status: int) -> None:
    result = await far.transport.run(far.actor, ["sh", "-c", f"exit {status}"], timeout=LIMIT)
    assert result.exit_status == status


async def test_unknown_program_is_127(far: Far) -> None:
    result = await far.transport.run(far.actor, ["no-such-program-here"], timeout=LIMIT)
    assert result.exit_status == 127
    assert result.stdout == b""


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9), ("SEGV", 11)])
async def test_death_by_signal_is_128_and_its_number(far: Far, name: str, number: int) -> None:
    result = await far.transport.run(
        far.actor, ["sh", "-c", f"ulimit -c 0; kill -{name} $$; sleep 5"], timeout=LIMIT
    )
    assert result.exit_status == 128 + number


async def test_account_and_directory_are_the_actors(far: Far) -> None:
    result = await far.transport.run(far.actor, ["sh", "-c", "id -un; pwd"], timeout=LIMIT)
    name, directory = result.text.split()
    assert name == far.actor.name
    assert far.home is None or directory == far.home


async def test_large_stdin_is_whole(far: Far) -> None:
    stdin = os.urandom(3 * 1024 * 1024)
    result = await far.transport.run(far.actor, ["cat"], stdin=stdin, timeout=LIMIT)
    assert result.stdout == stdin


async def test_stdin_nobody_reads(far: Far) -> None:
    result = await far.transport.run(
        far.actor, ["sh", "-c", "exit 4"], stdin=bytes(2 * 1024 * 1024), timeout=LIMIT
    )
    assert result.exit_status == 4


async def test_large_output_is_whole(far: Far) -> None:
    result = await far.transport.run(
        far.actor, ["head", "-c", str(1024 * 1024), "/dev/zero"], timeout=LIMIT
    )
    assert result.stdout == bytes(1024 * 1024)


async def test_output_beyond_the_limit_is_refused(far: Far) -> None:
    for stream in ("", ">&2"):
        with pytest.raises(ClusterRefused) as caught:
            await far.transport.run(
                far.actor,
                ["sh", "-c", f"exec cat /dev/zero {stream}"],
                timeout=LIMIT,
                output_limit=100_000,
            )
        assert caught.value.reason == "output_limit"
    exact = await far.transport.run(
        far.actor, ["head", "-c", "1000", "/dev/zero"], timeout=LIMIT, output_limit=1000
    )
    assert len(exact.stdout) == 1000


async def test_timeout_is_unavailable(far: Far) -> None:
    with pytest.raises(ClusterUnavailable) as caught:
        await far.transport.run(far.actor, ["sleep", "60"], timeout=timedelta(seconds=1))
    assert caught.value.reason == "timeout"
    again = await far.transport.run(far.actor, ["echo", "still"], timeout=LIMIT)
    assert again.text == "still\n"


async def test_cancelled_call_leaves_connection_usable(far: Far) -> None:
    # More of them than there are channels: none may be lost for good.
    for _ in range(far.channels + 2):
        call = asyncio.ensure_future(far.transport.run(far.actor, ["sleep", "60"], timeout=LIMIT))
        await asyncio.sleep(0.15)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    result = await far.transport.run(far.actor, ["echo", "here"], timeout=LIMIT)
    assert result.text == "here\n"


async def test_concurrent_calls_beyond_the_limit_are_queued(far: Far) -> None:
    results = await asyncio.gather(
        *(
            far.transport.run(far.actor, ["sh", "-c", f"sleep 0.1; echo {n}"], timeout=LIMIT)
            for n in range(far.channels * 3)
        )
    )
    assert [r.text for r in results] == [f"{n}\n" for n in range(far.channels * 3)]


@pytest.mark.parametrize("argv", [["echo", "a\0b"], [], ["", "x"]])
async def test_nul_is_refused(far: Far, argv: list[str]) -> None:
    with pytest.raises(RequestRejected):
        await far.transport.run(far.actor, argv, timeout=LIMIT)


async def test_close_twice(far: Far) -> None:
    await far.transport.run(far.actor, ["true"], timeout=LIMIT)
    await far.transport.close()
    await far.transport.close()
    with pytest.raises(ClusterUnavailable):
        await far.transport.run(far.actor, ["true"], timeout=LIMIT)
