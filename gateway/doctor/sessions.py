"""Sessions on a login node: the clock, and what shell start-up files do to each command."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import timedelta
from typing import Final

from gateway.doctor.findings import Finding, fail, ok, warn
from gateway.doctor.subject import Subject
from gateway.text import text
from gateway.transport.base import Actor
from gateway.transport.failures import ssh_failures

CLOCK_WARN: Final = 30.0
CLOCK_FAIL: Final = 60.0
SLOW_SECONDS: Final = 2.0
TIMEOUT_SECONDS: Final = 20.0
_SECONDS: Final = re.compile(r"[0-9]{9,11}", re.ASCII)


async def check_clock(subject: Subject) -> Finding:
    """Compare the login node's clock with ours; certificates live for minutes."""
    before = time.time()
    result = await subject.transport.run(
        subject.observer, ("date", "+%s"), timeout=timedelta(seconds=TIMEOUT_SECONDS)
    )
    after = time.time()
    said = result.text.strip()
    if not _SECONDS.fullmatch(said):
        return warn(text("the login node does not tell its time"), detail=result.error_text[-200:])
    # It told whole seconds, at some moment between our two looks.
    least, most = int(said) - after, int(said) + 1 - before
    difference = max(least, -most, 0.0)
    later = least > 0
    remedy = text(
        "Let both hosts take their time from the same servers (chrony, systemd-timesyncd); "
        "certificates that live for minutes are refused as not yet valid or expired."
    )
    seconds = round(difference)
    if later:
        words = text("its clock is {seconds} s ahead of this host's", seconds=seconds)
    else:
        words = text("its clock is {seconds} s behind this host's", seconds=seconds)
    if difference > CLOCK_FAIL:
        return fail(words, remedy)
    if difference > CLOCK_WARN:
        return warn(words, remedy)
    return ok(text("agrees with this host's within {seconds} s", seconds=max(1, round(difference))))


async def check_shell(subject: Subject, actor: Actor) -> Finding:
    """Run a command that prints nothing: what comes back is of the account's start-up files."""
    begun = time.monotonic()
    # Through the transport first, which explains accounts that cannot run commands.
    await subject.transport.run(actor, ("true",), timeout=timedelta(seconds=TIMEOUT_SECONDS))
    seconds = time.monotonic() - begun
    noise = await _fetch_noise(subject, actor)
    if noise:
        return warn(
            text(
                "the shell start-up files of {account} print {count} bytes in sessions without a "
                "terminal",
                account=actor.name,
                count=len(noise),
            ),
            text(
                "The gateway cuts it off, scp and rsync do not: print only when $- holds i "
                "(interactive) in .bashrc."
            ),
            detail=_printable(noise[:200]),
        )
    if seconds > SLOW_SECONDS:
        return warn(
            text(
                "an empty command of {account} took {seconds} s",
                account=actor.name,
                seconds=round(seconds, 1),
            ),
            text(
                "Look for slow lines in its shell start-up files (conda init, module load, slow "
                "file systems)."
            ),
        )
    return ok(text("start-up files of {account} are silent and quick", account=actor.name))


async def _fetch_noise(subject: Subject, actor: Actor) -> bytes:
    async with subject.pool.lease(actor) as lease:
        with ssh_failures(lease.where):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                done = await lease.connection.run("exit 0", encoding=None)
    parts = (done.stdout, done.stderr)
    return b"".join(part for part in parts if isinstance(part, bytes))


def _printable(data: bytes) -> str:
    words = data.decode("utf-8", errors="replace")
    return "".join(c if c.isprintable() else " " for c in words).strip()
