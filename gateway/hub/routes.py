"""Our handlers in JupyterHub's table of routes, and one route that must not be there."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from batchspawner.api import BatchSpawnerAPIHandler
from jupyterhub import apihandlers, handlers
from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.handlers.base import UserUrlHandler
from jupyterhub.handlers.pages import (
    HomeHandler,
    ProxyErrorHandler,
    SpawnHandler,
    SpawnPendingHandler,
)
from jupyterhub.handlers.static import CacheControlStaticFilesHandler

from gateway.hub.home_page import HomePage
from gateway.hub.launch_events import LaunchEvents
from gateway.hub.launch_page import LaunchPage, PendingPage
from gateway.hub.not_running_page import NotRunningPage
from gateway.hub.pages import ASSETS
from gateway.hub.proxy_error_page import ProxyErrorPage
from gateway.hub.server_api import ServerApi
from gateway.hub.spawn_page import SpawnPage

REPLACED: Final[dict[Any, Any]] = {
    HomeHandler: HomePage,
    SpawnHandler: SpawnPage,
    SpawnPendingHandler: PendingPage,
    ProxyErrorHandler: ProxyErrorPage,
    UserUrlHandler: NotRunningPage,
    UserServerAPIHandler: ServerApi,
}


def install_routes() -> None:
    """Change JupyterHub's default routes in place; doing it twice changes nothing.

    The hub has no route by which a job could call back into its spawner: importing batchspawner
    adds one, which is taken out by identity.
    """
    statics = str(resources.files("gateway.hub") / "static")
    ours = [
        (r"/launch/([^/]+)/?", LaunchPage),
        (r"/launch/([^/]+)/([^/]+)", LaunchPage),
        (r"/launch-events/([^/]+)/?", LaunchEvents),
        (r"/launch-events/([^/]+)/([^/]+)", LaunchEvents),
        (rf"/{ASSETS}/(.*)", CacheControlStaticFilesHandler, {"path": statics}),
    ]
    for table in (handlers.default_handlers, apihandlers.default_handlers):
        table[:] = [
            (route[0], REPLACED.get(route[1], route[1]), *route[2:])
            for route in table
            if route[1] is not BatchSpawnerAPIHandler
        ]
    if not any(route[1] is LaunchPage for route in handlers.default_handlers):
        handlers.default_handlers.extend(ours)
