"""How the hub and the CLI talk to a connector: one typed method a route, over its unix socket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import TypeAdapter, ValidationError

from gateway.connector.models import (
    ClusterChoices,
    EnsureAnswer,
    EnsureRequest,
    Health,
    IdentityModel,
    LaunchView,
    Message,
    StopRequest,
)
from gateway.connector.problems import parse_problem
from gateway.errors import ClusterUnavailable, GatewayError, RequestRejected
from gateway.text import text

EVENT_SILENCE: Final = 45.0
"""Seconds without a line after which a stream of events counts as dead; one comes every 15."""

ANSWER_LIMIT: Final = 32 * 1024 * 1024
_LINE_LIMIT: Final = 1024 * 1024
_M = TypeVar("_M")


class ConnectorClient:
    """Speaks to the connector that listens at ``socket``.

    Every method raises :class:`~gateway.errors.GatewayError` only: the connector's own error,
    rebuilt, or ``ClusterUnavailable`` with reason ``connector_unavailable`` when the connector
    itself does not answer within ``timeout`` seconds. Nothing is retried here: ``ensure`` and
    ``stop`` may be repeated by the caller, they do nothing twice.
    """

    def __init__(self, socket: Path, *, timeout: float = 30.0) -> None:
        self._socket = socket
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=5.0)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; idempotent."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def health(self) -> Health:
        """``GET /health``."""
        return _parse(Health, await self._get("/health"))

    async def ensure(self, request: EnsureRequest) -> EnsureAnswer:
        """``POST /servers``: adopt the live launch of this server, or make one."""
        return _parse(EnsureAnswer, await self._post("/servers", request))

    async def launches(
        self,
        *,
        user: str | None = None,
        server: str | None = None,
        live: bool | None = None,
        limit: int | None = None,
    ) -> list[LaunchView]:
        """``GET /launches``, newest first; ``server=""`` is the default server."""
        query = {
            name: value
            for name, value in (
                ("user", user),
                ("server", server),
                ("live", None if live is None else str(live).lower()),
                ("limit", None if limit is None else str(limit)),
            )
            if value is not None
        }
        return _parse(list[LaunchView], await self._get("/launches", query))

    async def launch(self, launch_id: str) -> LaunchView:
        """``GET /launches/{id}``; an unknown one is ``RequestRejected``, reason ``not_found``."""
        return _parse(LaunchView, await self._get(f"/launches/{_word(launch_id)}"))

    async def events(self, launch_id: str) -> AsyncGenerator[LaunchView, None]:
        """``GET /launches/{id}/events``: a view at once, one a change, one at least every 15 s;
        ends after the view of an ended launch, or when the connector shuts down.

        Close the iterator (``contextlib.aclosing``) when leaving it early.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=EVENT_SILENCE)
        path = f"/launches/{_word(launch_id)}/events"
        async with self._request("GET", path, timeout=timeout) as response:
            async for line in response.content:
                if line.strip():
                    yield _parse(LaunchView, line)

    async def stop(self, launch_id: str, by: str) -> LaunchView:
        """``POST /launches/{id}/stop``: ask for the end; does not wait for it."""
        body = await self._post(f"/launches/{_word(launch_id)}/stop", StopRequest(by=by))
        return _parse(LaunchView, body)

    async def log(self, launch_id: str) -> str:
        """``GET /launches/{id}/log``: the tail of the job's log."""
        answer = _parse(dict[str, str], await self._get(f"/launches/{_word(launch_id)}/log"))
        return answer.get("log", "")

    async def choices(self, identity: IdentityModel) -> list[ClusterChoices]:
        """``POST /clusters/choices``: what this person may choose on each cluster."""
        return _parse(list[ClusterChoices], await self._post("/clusters/choices", identity))

    async def check(self, cluster: str, request: EnsureRequest) -> None:
        """``POST /clusters/{name}/check``: validation only.

        :raises RequestRejected: with ``fields``.
        """
        await self._post(f"/clusters/{_word(cluster)}/check", request)

    async def metrics(self) -> str:
        """``GET /metrics``: Prometheus text."""
        return (await self._get("/metrics")).decode()

    async def _get(self, path: str, query: dict[str, str] | None = None) -> bytes:
        async with self._request("GET", path, query=query) as response:
            return await _read(response)

    async def _post(self, path: str, body: Message) -> bytes:
        try:
            data = body.model_dump_json().encode()
        except ValueError as error:
            # JSON from the API may hold half a surrogate pair, which no UTF-8 can.
            raise RequestRejected(
                text("The request holds characters that are no text."), reason="malformed"
            ) from error
        async with self._request("POST", path, body=data) as response:
            return await _read(response)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # No limit: every launch that is waited for holds a connection for its events.
                connector=aiohttp.UnixConnector(path=str(self._socket), limit=0),
                read_bufsize=_LINE_LIMIT,
                trust_env=False,
            )
        try:
            async with self._session.request(
                method,
                f"http://connector{path}",
                params=query,
                data=body,
                headers={"Content-Type": "application/json"} if body is not None else None,
                timeout=timeout or self._timeout,
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise parse_problem(response.status, _parse_json(await _read(response)))
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unavailable(error) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_LIMIT:
            raise _not_understood("answer too large")
    return bytes(body)


def _parse(model: type[_M], body: bytes) -> _M:
    try:
        return TypeAdapter(model).validate_json(body)
    except ValidationError as error:
        # The input may hold a token; only its place is told.
        raise _not_understood(str(error.errors(include_input=False, include_url=False))) from None


def _parse_json(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _word(value: str) -> str:
    return quote(value, safe="")


def _unavailable(error: BaseException) -> GatewayError:
    return ClusterUnavailable(
        text("The gateway's connector does not answer at the moment; please try again soon."),
        detail=f"{type(error).__name__}: {error}",
        reason="connector_unavailable",
    )


def _not_understood(detail: str) -> GatewayError:
    return GatewayError(
        text("The gateway's connector answered in a way that was not understood."),
        detail=detail,
        reason="connector_fault",
    )
