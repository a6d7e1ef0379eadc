"""What takes minutes, begun when the suite begins: carol's two servers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp

from tests.web import Kernel

from .visitor import Visitor

IDLE_SECONDS = 180.0
IDLE_SERVER = "idle"
MINUTE_SERVER = "minute"


@dataclass
class Patience:
    """A websocket on which nobody says anything, and a job that has one minute."""

    carol: Visitor
    kernel: Kernel
    silence: asyncio.Task[aiohttp.WSMessage]
    began: float

    @classmethod
    async def begin(cls, carol: Visitor) -> Patience:
        """Start both servers."""
        await carol.start(MINUTE_SERVER, walltime="1m", cores="1")
        await carol.start(IDLE_SERVER, cores="1")
        kernel = await carol.open_kernel(server=IDLE_SERVER)
        assert await kernel.run("word = 'kept'; word") == "'kept'"
        # A browser answers pings while nobody looks; so does this client only while it reads.
        silence = asyncio.create_task(_listen(kernel))
        return cls(carol, kernel, silence, time.monotonic())

    async def wait_idle(self) -> None:
        """Wait until the websocket has been idle for its time; fails when it has ended."""
        left = self.began + IDLE_SECONDS - time.monotonic()
        ended, _ = await asyncio.wait([self.silence], timeout=max(left, 0))
        assert not ended, f"the idle websocket ended: {self.silence.result()}"
        self.silence.cancel()
        await asyncio.wait([self.silence])

    async def end(self) -> None:
        """Stop both."""
        self.silence.cancel()
        await asyncio.wait([self.silence])
        await self.carol.stop_all()


async def _listen(kernel: Kernel) -> aiohttp.WSMessage:
    """Read until the websocket ends: its last frame."""
    while (frame := await kernel._socket.receive()).type is aiohttp.WSMsgType.TEXT:
        pass
    return frame
