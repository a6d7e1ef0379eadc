"""The far end of the hub-API socket: one filter per launch, in front of the hub.

A job can use only its own slice of the hub API, with its own token. What passes is in
``hub_api_rules.py``; this file moves the bytes: bounded bodies, bounded rate, a unix socket
(0600, in a 0700 directory) for each launch. While the hub restarts, requests are held.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from gateway.errors import ConfigurationError
from gateway.text import text
from gateway.tunnel.hub_api_rules import (
    BODY_LIMIT,
    Forward,
    HubApiScope,
    Refusal,
    check_request,
    match_route,
)

__all__ = ["HubApiFilter", "HubApiScope"]

ANSWER_LIMIT: Final = 1024 * 1024
_SOCKET_PATH_LIMIT: Final = 107  # sun_path less its NUL, unix(7)
_LAUNCH_ID: Final = re.compile(r"[a-z0-9_-]{1,40}", re.ASCII)
# What an answer of the hub may tell the job; above all no Set-Cookie and no Location.
_ANSWER_HEADERS: Final = ("Content-Type", "X-JupyterHub-Version", "Retry-After", "Cache-Control")


@dataclass(slots=True)
class _Bucket:
    """Token bucket: ``burst`` requests at once, ``rate`` a second in the long run."""

    rate: float
    burst: float
    level: float = field(default=0.0)
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.level = self.burst

    def take(self) -> bool:
        now = time.monotonic()
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass(slots=True)
class _Slice:
    """What one launch has: its scope, its listener, its bounds."""

    scope: HubApiScope
    path: Path
    bucket: _Bucket
    requests: asyncio.Semaphore
    server: web.Server | None = None
    listener: asyncio.AbstractServer | None = None


class HubApiFilter:
    """Filters of all launches of one connector.

    :param hub_api_url: such as ``http://127.0.0.1:8081/hub/api``.
    :param directory: holds the sockets; made 0700. Short: a socket path has 107 bytes at most.
    :param hold: seconds for which a request waits for a hub that does not listen.
    """

    def __init__(
        self,
        hub_api_url: str,
        directory: Path,
        *,
        hold: float = 30.0,
        rate: float = 20.0,
        burst: float = 200.0,
    ) -> None:
        url = urlsplit(hub_api_url.rstrip("/"))
        self._origin = f"{url.scheme}://{url.netloc}"
        self._prefix = url.path
        self._directory = directory
        self._hold = hold
        self._rate = rate
        self._burst = burst
        self._slices: dict[str, _Slice] = {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the directory and the client of the hub.

        :raises ConfigurationError: the directory cannot be made private, or its path is too long.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
        except OSError as error:
            raise ConfigurationError(
                text(
                    "The directory {path} for unix sockets cannot be used.",
                    path=str(self._directory),
                ),
                detail=str(error),
            ) from error
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=30, connect=5),
            connector=aiohttp.TCPConnector(limit=64),
        )

    async def close(self) -> None:
        """Close every launch's socket and the client; idempotent."""
        for launch_id in list(self._slices):
            await self.remove(launch_id)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def add(self, launch_id: str, scope: HubApiScope) -> Path:
        """Listen for ``launch_id`` and return the unix socket; a second call replaces the scope.

        :raises ConfigurationError: the socket cannot be made.
        """
        if (known := self._slices.get(launch_id)) is not None:
            known.scope = scope
            return known.path
        path = self._directory / f"{launch_id}.sock"
        if not _LAUNCH_ID.fullmatch(launch_id) or len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
            raise ConfigurationError(
                text("The path {path} is too long for a unix socket.", path=str(path)),
                detail=f"at most {_SOCKET_PATH_LIMIT} bytes",
            )
        piece = _Slice(
            scope, path, _Bucket(self._rate, self._burst), requests=asyncio.Semaphore(16)
        )
        self._slices[launch_id] = piece

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(piece, request)

        piece.server = web.Server(handle, access_log=None, tcp_keepalive=False)
        try:
            _unlink_socket(path)
            piece.listener = await asyncio.get_running_loop().create_unix_server(
                piece.server, str(path), backlog=32
            )
            path.chmod(0o600)
        except OSError as error:
            await self.remove(launch_id)
            raise ConfigurationError(
                text("The unix socket {path} cannot be made.", path=str(path)), detail=str(error)
            ) from error
        except BaseException:
            await self.remove(launch_id)
            raise
        return path

    def replace_scope(self, launch_id: str, scope: HubApiScope) -> None:
        """From the next request on, ``scope`` counts; unknown launches are ignored."""
        if (piece := self._slices.get(launch_id)) is not None:
            piece.scope = scope

    async def remove(self, launch_id: str) -> None:
        """Stop listening for ``launch_id`` and end its requests; idempotent."""
        piece = self._slices.pop(launch_id, None)
        if piece is None:
            return
        if piece.listener is not None:
            piece.listener.close()
        if piece.server is not None:
            await piece.server.shutdown(timeout=0.5)
        _unlink_socket(piece.path)

    async def _handle(self, piece: _Slice, request: web.BaseRequest) -> web.StreamResponse:
        if not piece.bucket.take() or piece.requests.locked():
            return _answer(Refusal(429, "Too many requests; try again in a moment."))
        async with piece.requests:
            route = match_route(request.method, request.raw_path, self._prefix, piece.scope)
            if isinstance(route, Refusal):
                return _answer(route)
            body = await _read_body(request)
            if isinstance(body, Refusal):
                return _answer(body)
            forward = check_request(
                route,
                headers=[(name, value) for name, value in request.headers.items()],
                body=body,
                scope=piece.scope,
            )
            if isinstance(forward, Refusal):
                return _answer(forward)
            return await self._forward(forward)

    async def _forward(self, forward: Forward) -> web.StreamResponse:
        deadline = time.monotonic() + self._hold
        while True:
            try:
                return await self._ask(forward)
            except aiohttp.ClientConnectorError:
                # Nothing was sent, so that even a POST may be tried again.
                if time.monotonic() >= deadline:
                    break
                await asyncio.sleep(min(0.25, self._hold))
            except (aiohttp.ClientError, TimeoutError):
                break
        return _answer(Refusal(503, "The hub is not reachable at the moment; try again shortly."))

    async def _ask(self, forward: Forward) -> web.StreamResponse:
        session = self._session
        if session is None:
            return _answer(Refusal(503, "The hub is not reachable at the moment."))
        async with session.request(
            forward.method,
            self._origin + forward.path,
            headers=forward.headers,
            data=forward.body or None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent",),
        ) as answer:
            body = b""
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > ANSWER_LIMIT:
                    return _answer(Refusal(502, "The hub's answer is too large."))
            headers = {
                name: answer.headers[name] for name in _ANSWER_HEADERS if name in answer.headers
            }
            return web.Response(status=answer.status, body=body, headers=headers)


async def _read_body(request: web.BaseRequest) -> bytes | Refusal:
    if (request.content_length or 0) > BODY_LIMIT:
        return Refusal(413, "The request is too large.")
    body = b""
    try:
        async with asyncio.timeout(10):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_LIMIT:
                    return Refusal(413, "The request is too large.")
    except TimeoutError:
        return Refusal(408, "The request did not arrive in time.")
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, ValueError):
        return Refusal(400, "The request could not be read.")
    return body


def _answer(refusal: Refusal) -> web.Response:
    headers: Mapping[str, str] = {"Retry-After": "5"} if refusal.status in (429, 503) else {}
    answer = web.json_response(
        {"status": refusal.status, "message": refusal.message},
        status=refusal.status,
        headers=headers,
    )
    if refusal.status in (400, 408, 413):
        answer.force_close()  # the rest of the body was not read
    return answer


def _unlink_socket(path: Path) -> None:
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    except FileNotFoundError:
        return
