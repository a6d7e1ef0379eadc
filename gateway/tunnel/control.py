"""Our end of the control stream, over any pair of byte streams.

Nothing that is secret leaves before the agent has named this launch and the announced nonce.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Final

from gateway.errors import ClusterRefused, ClusterUnavailable, GatewayError, NotAnnounced
from gateway.text import text
from gateway.tunnel.base import (
    PROTOCOL_VERSION,
    AgentPhase,
    ByteReader,
    ByteWriter,
    ServerStart,
)
from gateway.tunnel.messages import (
    LINE_LIMIT,
    AgentHello,
    Pong,
    build_hello,
    build_ping,
    build_start,
    build_stop,
    parse_agent_message,
)
from gateway.values.endpoints import Announcement

PING_INTERVAL: Final = 10.0
PONG_TIMEOUT: Final = 15.0
ANSWER_TIMEOUT: Final = 15.0


class ControlStream:
    """One control stream: :meth:`hear_hello`, :meth:`say_hello`, then :meth:`run` in a task.

    When it is lost, :attr:`lost` is set and every waiting call raises ``ClusterUnavailable``.
    """

    def __init__(
        self,
        reader: ByteReader,
        writer: ByteWriter,
        announcement: Announcement,
        *,
        ping_interval: float = PING_INTERVAL,
        pong_timeout: float = PONG_TIMEOUT,
    ) -> None:
        self.lost = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._announcement = announcement
        self._ping_interval = ping_interval
        self._pong_timeout = pong_timeout
        self._buffer = b""
        self._phase = AgentPhase("waiting")
        self._phases_heard = 0
        self._changed = asyncio.Event()  # another one after each change
        self._sending = asyncio.Lock()
        self._error: BaseException | None = None
        self._trusted = False

    @property
    def phase(self) -> AgentPhase:
        """The last phase heard."""
        return self._phase

    async def hear_hello(self) -> AgentPhase:
        """Hear the agent's hello and check it; return the agent's phase. Nothing was sent yet.

        :raises NotAnnounced: the socket is another run's agent.
        :raises ClusterRefused: it is another launch's, or speaks another protocol.
        :raises ClusterUnavailable: no hello within 15 s, or the stream ended.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                hello = parse_agent_message(await self._read_line())
        except TimeoutError as error:
            raise self._silent() from error
        self._phase = self._check_hello(hello)
        self._trusted = True
        return self._phase

    async def say_hello(self, hub_socket: str) -> None:
        """Say our hello; ``hub_socket`` is in place by now.

        :raises ClusterUnavailable: lost.
        """
        await self._send(build_hello(self._announcement.launch_id, hub_socket))

    async def run(self) -> None:
        """Hear the agent and ping it, until the stream is lost; returns then, or is cancelled."""
        listening = asyncio.ensure_future(self._listen())
        pinging = asyncio.ensure_future(self._keep_pinging())
        try:
            done, _ = await asyncio.wait({listening, pinging}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._error = task.exception()
        finally:
            # First and without awaiting, so that nobody is left waiting if we are cancelled here.
            self.lost.set()
            self._notify()
            listening.cancel()
            pinging.cancel()
            await asyncio.gather(listening, pinging, return_exceptions=True)
        if self._error is not None and not isinstance(self._error, GatewayError):
            raise self._error

    async def send_start(self, start: ServerStart) -> AgentPhase:
        """Send the secrets; return the phase with which the agent answers.

        :raises ClusterUnavailable: lost, or no answer within 15 s.
        :raises ConfigurationError: too large for one message.
        """
        data = build_start(start, self._announcement.directory)
        heard = self._phases_heard
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._send(data)
                # A "waiting" may have been under way already; any other phase answers.
                while not self.lost.is_set() and (
                    self._phases_heard == heard or self._phase.phase == "waiting"
                ):
                    await self._changed.wait()
        except TimeoutError as error:
            raise self._silent() from error
        if self.lost.is_set():
            raise self._gone()
        return self._phase

    async def send_stop(self) -> None:
        """Ask the agent to end the server and the job.

        :raises ClusterUnavailable: lost.
        """
        await self._send(build_stop())

    async def wait_phase_change(self, seen: AgentPhase) -> AgentPhase:
        """Return the phase once it differs from ``seen``.

        :raises ClusterUnavailable: lost meanwhile.
        """
        while self._phase == seen and not self.lost.is_set():
            await self._changed.wait()
        if self._phase != seen:
            return self._phase
        raise self._gone()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _check_hello(self, hello: object) -> AgentPhase:
        if not isinstance(hello, AgentHello):
            raise ClusterRefused(
                text("What the agent in the job said could not be understood."),
                detail="the first message is not a hello",
                reason="bad_agent_message",
            )
        if hello.protocol != PROTOCOL_VERSION or hello.launch_id != self._announcement.launch_id:
            raise ClusterRefused(
                text("The agent in the job is not the one of this launch; it was not trusted."),
                detail=f"protocol {hello.protocol}, launch id {hello.launch_id!r}",
                reason="other_launch",
            )
        if not hmac.compare_digest(hello.nonce.encode(), self._announcement.nonce.encode()):
            raise NotAnnounced(
                text("The agent in the job is not the one that was announced; looking again."),
                detail="nonce differs from the announced one",
                reason="other_nonce",
            )
        return hello.phase

    async def _listen(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._ping_interval + self._pong_timeout):
                    message = parse_agent_message(await self._read_line())
            except TimeoutError as error:
                raise self._silent() from error
            if isinstance(message, AgentHello | Pong) or message is None:
                continue
            self._phase = message
            self._phases_heard += 1
            self._notify()

    async def _keep_pinging(self) -> None:
        while True:
            await asyncio.sleep(self._ping_interval)
            await self._send(build_ping())

    async def _read_line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) >= LINE_LIMIT:
                raise ClusterRefused(
                    text("What the agent in the job said could not be understood."),
                    detail=f"a line of more than {LINE_LIMIT} bytes",
                    reason="bad_agent_message",
                )
            try:
                data = await self._reader.read(4096)
            except OSError as error:
                raise self._gone(str(error)) from error
            if not data:
                raise self._gone()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def _send(self, data: bytes) -> None:
        if self.lost.is_set():
            raise self._gone()
        if not self._trusted:
            raise RuntimeError("nothing may be sent before the agent's hello was checked")
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT), self._sending:
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError as error:
            raise self._silent() from error
        except OSError as error:
            raise self._gone(str(error)) from error

    def _gone(self, detail: str = "") -> ClusterUnavailable:
        if self._error is not None and not detail:
            detail = str(self._error)
        return ClusterUnavailable(
            text("The connection to the agent in the job was lost."),
            detail=detail,
            reason="agent_lost",
        )

    def _silent(self) -> ClusterUnavailable:
        return ClusterUnavailable(
            text("The agent in the job did not answer in time."), reason="agent_silent"
        )
