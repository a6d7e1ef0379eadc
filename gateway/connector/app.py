"""The connector process: HTTP/JSON on a unix socket that only its own account can reach."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, TypeVar

import uvloop
from aiohttp import web
from pydantic import BaseModel, ValidationError

from gateway.connector.models import EnsureRequest, IdentityModel, StopRequest
from gateway.connector.problems import FORBIDDEN, build_problem
from gateway.connector.service import ConnectorService
from gateway.connector.start_up import lock_state_directory, prepare_directories
from gateway.connector.wiring import open_service
from gateway.errors import GatewayError, RequestRejected
from gateway.observability.logs import log_event, setup_logging
from gateway.settings import Settings
from gateway.text import text

logger = logging.getLogger("gateway.connector")

BODY_LIMIT: Final = 256 * 1024
SHUTDOWN_SECONDS: Final = 2.0
LAUNCHES_LIMIT: Final = 500
"""Launches in one answer at most; each may hold the end of its job's log."""

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
_PEER: Final = struct.Struct("3i")
_SERVICE: Final = web.AppKey("service", ConnectorService)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_M = TypeVar("_M", bound=BaseModel)


def run(settings: Settings) -> None:
    """Run the connector until SIGTERM or SIGINT, on uvloop.

    :raises ConfigurationError: it cannot start; the sentence says what to do.
    """
    setup_logging(settings.log_level)
    uvloop.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or cancellation. Jobs go on; tunnels are closed.

    The socket appears once the database is up to date and all live launches are being resumed.

    :raises ConfigurationError: it cannot start; the sentence says what to do.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        prepare_directories(settings)
        with lock_state_directory(settings.state_directory):
            async with open_service(settings) as service:
                await _serve_until(service, settings, stopping)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _serve_until(
    service: ConnectorService, settings: Settings, stopping: asyncio.Event
) -> None:
    runner = web.AppRunner(
        build_app(service),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    path = settings.connector_socket
    try:
        listening = bind_private_socket(path)
        await web.SockSite(runner, listening).start()
        if settings.connector.metrics_port is not None:
            await _serve_metrics(service, settings.connector.metrics_port, runner)
        log_event(logger, logging.INFO, "connector listens", socket=path)
        await stopping.wait()
        log_event(logger, logging.INFO, "connector stops; jobs go on")
    finally:
        path.unlink(missing_ok=True)
        await runner.cleanup()


async def _serve_metrics(service: ConnectorService, port: int, beside: web.AppRunner) -> None:
    app = web.Application()
    app[_SERVICE] = service
    app.router.add_get("/metrics", _metrics)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()

    async def clean_up(_: web.Application) -> None:
        await runner.cleanup()

    beside.app.on_cleanup.append(clean_up)


def bind_private_socket(path: Path) -> socket.socket:
    """Return a listening unix socket at ``path`` (0600), which appears complete.

    A former one is replaced: the lock of the state directory tells that nobody listens there.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(draft))
        draft.chmod(0o600)
        listening.listen(128)
        listening.setblocking(False)
        draft.rename(path)
    except BaseException:
        listening.close()
        draft.unlink(missing_ok=True)
        raise
    return listening


def build_app(service: ConnectorService) -> web.Application:
    """Return the application with all routes; see ``models.py`` for what they carry."""
    app = web.Application(
        client_max_size=BODY_LIMIT, middlewares=[_tell_problems, _check_peer], logger=logger
    )
    app[_SERVICE] = service
    app.add_routes(
        [
            web.get("/health", _health),
            web.post("/servers", _ensure),
            web.get("/launches", _find),
            web.get("/launches/{id}", _fetch),
            web.get("/launches/{id}/events", _events),
            web.post("/launches/{id}/stop", _stop),
            web.get("/launches/{id}/log", _log),
            web.post("/clusters/choices", _choices),
            web.post("/clusters/{name}/check", _check),
            web.get("/metrics", _metrics),
        ]
    )
    return app


@web.middleware
async def _tell_problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GatewayError as error:
        return _answer_problem(error)
    except ValidationError as error:
        # The input may hold a token; only the places of the faults are told.
        places = error.errors(include_input=False, include_url=False, include_context=False)
        return _answer_problem(
            RequestRejected(
                text("The request is not understood."), detail=str(places), reason="malformed"
            )
        )
    except web.HTTPException as error:
        problem = RequestRejected(
            text("The request is not understood."), detail=error.reason, reason="malformed"
        )
        return web.json_response(build_problem(problem)[1], status=error.status)
    except Exception:  # the outermost place: a fault of ours ends the request, not the process
        log_event(
            logger,
            logging.ERROR,
            "fault while answering",
            error=True,
            method=request.method,
            route=request.match_info.route.resource and request.match_info.route.resource.canonical,
        )
        return _answer_problem(
            GatewayError(text("The gateway has an internal error."), reason="internal")
        )


def _answer_problem(error: GatewayError) -> web.Response:
    status, body = build_problem(error)
    if status >= 500:
        log_event(
            logger, logging.INFO, "request not fulfilled", reason=error.reason, problem=str(error)
        )
    return web.json_response(body, status=status)


@web.middleware
async def _check_peer(request: web.Request, handler: _Handler) -> web.StreamResponse:
    peer = request.transport.get_extra_info("socket") if request.transport else None
    uid = -1
    if peer is not None:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        uid = _PEER.unpack(credentials)[1]
    if uid not in (0, os.geteuid()):
        raise RequestRejected(
            text("This account may not speak to the connector."), reason=FORBIDDEN
        )
    return await handler(request)


async def _health(request: web.Request) -> web.Response:
    return _answer(request.app[_SERVICE].health())


async def _ensure(request: web.Request) -> web.Response:
    return _answer(await request.app[_SERVICE].ensure(await _read(request, EnsureRequest)))


async def _find(request: web.Request) -> web.Response:
    query = request.query
    if unknown := query.keys() - {"user", "server", "live", "limit"}:
        raise web.HTTPBadRequest(reason=f"unknown query {sorted(unknown)[0][:40]!r}")
    live = {None: None, "true": True, "false": False}.get(query.get("live"), ...)
    if live is ...:
        raise web.HTTPBadRequest(reason="live must be true or false")
    limit = query.get("limit", str(LAUNCHES_LIMIT))
    if not _NUMBER.fullmatch(limit) or int(limit) > LAUNCHES_LIMIT:
        raise web.HTTPBadRequest(reason=f"limit must be a number from 1 to {LAUNCHES_LIMIT}")
    views = await request.app[_SERVICE].find(
        user=query.get("user"), server=query.get("server"), live=live, limit=int(limit)
    )
    return _answer_list(views)


async def _fetch(request: web.Request) -> web.Response:
    return _answer(await request.app[_SERVICE].fetch(request.match_info["id"]))


async def _events(request: web.Request) -> web.StreamResponse:
    service, launch_id = request.app[_SERVICE], request.match_info["id"]
    await service.fetch(launch_id)  # an unknown one is told before the stream begins
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    try:
        async with aclosing(service.events(launch_id)) as views:
            async for view in views:
                await response.write(view.model_dump_json().encode() + b"\n")
    except ConnectionError:
        return response  # the reader left
    await response.write_eof()
    return response


async def _stop(request: web.Request) -> web.Response:
    body = await _read(request, StopRequest)
    return _answer(await request.app[_SERVICE].stop(request.match_info["id"], body.by))


async def _log(request: web.Request) -> web.Response:
    return web.json_response(
        {"log": await request.app[_SERVICE].fetch_log(request.match_info["id"])}
    )


async def _choices(request: web.Request) -> web.Response:
    return _answer_list(await request.app[_SERVICE].choices(await _read(request, IdentityModel)))


async def _check(request: web.Request) -> web.Response:
    body = await _read(request, EnsureRequest)
    await request.app[_SERVICE].check(request.match_info["name"], body)
    return web.json_response({})


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(
        body=request.app[_SERVICE].render_metrics(),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
    )


async def _read(request: web.Request, model: type[_M]) -> _M:
    return model.model_validate_json(await request.read())


def _answer(body: BaseModel) -> web.Response:
    return web.Response(body=body.model_dump_json().encode(), content_type="application/json")


def _answer_list(bodies: Sequence[BaseModel]) -> web.Response:
    text_of_all = ",".join(body.model_dump_json() for body in bodies)
    return web.Response(body=f"[{text_of_all}]".encode(), content_type="application/json")
