"""``gateway up``: signer, connector, hub and proxy in the foreground, for one machine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import aiohttp
import click

import gateway
from gateway.cli.demo import Demo
from gateway.cli.options import config_option
from gateway.cli.processes import Service, Supervisor
from gateway.connector.client import ConnectorClient
from gateway.errors import ConfigurationError, GatewayError
from gateway.hub.proxy import build_proxy_command, build_proxy_environment
from gateway.settings import Settings, load_settings
from gateway.text import text

# Not imported: it is JupyterHub's to run.
HUB_CONFIG: Final = Path(gateway.__file__).parent / "hub" / "jupyterhub_config.py"


@click.command()
@config_option
@click.option("--rehearsal", is_flag=True, help="Run with an embedded cluster and demo users.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8000,
    show_default=True,
    help="Port for browsers (with --rehearsal).",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=None,
    help="Where the rehearsal keeps its files while it runs; by default a new one.",
)
def up(config: Path, *, rehearsal: bool, port: int, directory: Path | None) -> None:
    """Run everything on this machine, in the foreground, until Ctrl-C."""
    if not rehearsal and os.geteuid() == 0:
        raise click.ClickException(
            "gateway up does not run as root: start it as the gateway's own user "
            "(--rehearsal may be started as root; it drops to another user by itself)"
        )
    if rehearsal:
        Demo.drop_root()
    raise SystemExit(asyncio.run(_up(config, port if rehearsal else None, directory)))


async def _up(config: Path, rehearsal_port: int | None, directory: Path | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        supervisor = Supervisor(_say)
        demo: Demo | None = None
        if rehearsal_port is not None:
            check_port_free(rehearsal_port)
            demo = await stack.enter_async_context(Demo(directory, rehearsal_port, _say))
            config = demo.settings_path
        stack.push_async_callback(supervisor.stop)
        starting = asyncio.create_task(_start(supervisor, config))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if not starting.cancelled() and (error := starting.exception()):
            stopped.cancel()
            raise error
        if not stop.is_set():
            _say(demo.invitation() if demo else "Landfall is up. Ctrl-C stops it.")
            await stopped
        _say("stopping ...")
    _say("stopped; nothing is left running")
    return 0


async def _start(supervisor: Supervisor, config: Path) -> None:
    settings = load_settings(config)
    for service in build_services(settings, config):
        await supervisor.start(service)


def build_services(settings: Settings, config: Path) -> list[Service]:
    """The processes in the order in which they start; the hub follows its connector, and the
    proxy is nobody's child, so that a restart of the hub drops no websocket."""
    logs = settings.state_directory / "logs"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = dict(os.environ) | {"GATEWAY_SETTINGS": str(config), "PYTHONUNBUFFERED": "1"}
    # The proxy's node and the culler are looked up beside this interpreter first.
    environment["PATH"] = (
        f"{Path(sys.executable).parent}:{environment.get('PATH', '/usr/bin:/bin')}"
    )
    python = [sys.executable, "-m"]
    services = [
        Service(
            "signer",
            [*python, "gateway", "signer", "--config", str(config)],
            environment,
            logs / "signer.log",
            _exists(settings.signer_socket),
        ),
        Service(
            "connector",
            [*python, "gateway", "connector", "--config", str(config)],
            environment,
            logs / "connector.log",
            _connector_answers(settings),
        ),
        Service(
            "proxy",
            build_proxy_command(settings),
            environment | build_proxy_environment(settings),
            logs / "proxy.log",
            _listens(settings.hub.proxy_api_port),
        ),
        Service(
            "hub",
            [*python, "jupyterhub", "-f", str(HUB_CONFIG)],
            environment,
            logs / "hub.log",
            _hub_answers(settings),
        ),
    ]
    return services if settings.signer.ca_key else services[1:]


def check_port_free(port: int) -> None:
    """:raises ConfigurationError: something listens on 127.0.0.1 at ``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                text(
                    "Port {port} of this machine is busy; choose another with --port "
                    "(make demo PORT={other}).",
                    port=port,
                    other=port + 1 if port < 65535 else 8000,
                ),
                detail=str(error.strerror),
                reason="port",
            ) from error


def _listens(port: int) -> Callable[[], asyncio.Future[bool]]:
    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return lambda: asyncio.ensure_future(ready())


def _exists(path: Path) -> Callable[[], asyncio.Future[bool]]:
    async def ready() -> bool:
        return path.is_socket()  # noqa: ASYNC240 - one look at a local file

    return lambda: asyncio.ensure_future(ready())


def _connector_answers(settings: Settings) -> Callable[[], asyncio.Future[bool]]:
    async def ready() -> bool:
        if not settings.connector_socket.is_socket():
            return False
        async with ConnectorClient(settings.connector_socket) as client:
            try:
                await client.health()
            except GatewayError:
                return False
        return True

    return lambda: asyncio.ensure_future(ready())


def _hub_answers(settings: Settings) -> Callable[[], asyncio.Future[bool]]:
    url = settings.hub.bind_url.rstrip("/") + "/hub/health"

    async def ready() -> bool:
        timeout = aiohttp.ClientTimeout(total=2)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url) as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    return lambda: asyncio.ensure_future(ready())


def _say(line: str) -> None:
    click.echo(line)
