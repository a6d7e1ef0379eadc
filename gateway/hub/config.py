"""JupyterHub's configuration, from ``gateway.yml``: one function for each subject."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from importlib import resources
from typing import Any, Final
from urllib.parse import urlsplit

from jupyterhub.app import JupyterHub

from gateway.errors import ConfigurationError
from gateway.hub.connection import connector_client
from gateway.hub.proxy import parse_bind_url, proxy_token_file
from gateway.hub.routes import install_routes
from gateway.hub.secret_files import ensure_secret
from gateway.hub.spawner import GatewaySpawner
from gateway.hub.sweep import begin_sweep
from gateway.settings import DummySignIn, Settings
from gateway.text import text
from gateway.values.identity import HUB_NAME

CULLER: Final = "idle-culler"
ACTIVITY_INTERVAL: Final = 300
"""Seconds between two reports of a single-user server's last activity."""

LONGEST_WAIT: Final = 30 * 24 * 3600
"""Seconds; longer than any queue lets a job wait. The connector has the real limits."""


def configure(c: Any, settings: Settings) -> None:
    """Fill the traitlets configuration ``c``.

    :raises ConfigurationError: what an admin must change, in words.
    """
    configure_addresses(c, settings)
    configure_storage(c, settings)
    configure_proxy(c, settings)
    configure_spawner(c, settings)
    configure_restarts(c)
    configure_sign_in(c, settings)
    configure_culler(c, settings)
    configure_pages(c, settings)
    configure_logs(c, settings)
    configure_sweep(settings)


def configure_addresses(c: Any, settings: Settings) -> None:
    """What browsers open is the proxy; the hub itself listens on loopback only."""
    parse_bind_url(settings.hub.bind_url)
    c.JupyterHub.bind_url = settings.hub.bind_url
    c.JupyterHub.hub_ip = "127.0.0.1"
    c.JupyterHub.hub_port = settings.hub.api_port
    c.JupyterHub.hub_connect_ip = "127.0.0.1"


def configure_storage(c: Any, settings: Settings) -> None:
    """Database and cookie secret live in the state directory."""
    state = settings.state_directory
    c.JupyterHub.cookie_secret_file = str(state / "jupyterhub_cookie_secret")
    ensure_secret(state / "jupyterhub_cookie_secret")
    database = state / "jupyterhub.sqlite"
    # SQLite would make it readable for everybody; its journals take the mode of the file.
    database.touch(mode=0o600, exist_ok=True)
    c.JupyterHub.db_url = f"sqlite:///{database}"


def configure_proxy(c: Any, settings: Settings) -> None:
    """The proxy runs beside the hub (:mod:`gateway.hub.proxy`) and outlives its restarts."""
    c.JupyterHub.proxy_class = "configurable-http-proxy"
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{settings.hub.proxy_api_port}"
    c.ConfigurableHTTPProxy.auth_token = ensure_secret(proxy_token_file(settings))


def configure_spawner(c: Any, settings: Settings) -> None:
    """Servers are launches; waiting for days is no failure of the hub's."""
    c.JupyterHub.spawner_class = GatewaySpawner
    c.GatewaySpawner.connector_socket = str(settings.connector_socket)
    c.GatewaySpawner.identity_source = settings.sign_in.kind
    c.GatewaySpawner.start_timeout = LONGEST_WAIT
    # The edge answers the hub's probe at once, whatever the state of the tunnel; only a launch that
    # ended in this very moment, or a connector that is just restarting, lets it wait.
    c.GatewaySpawner.http_timeout = 60
    c.GatewaySpawner.poll_interval = 10
    c.GatewaySpawner.environment = {"JUPYTERHUB_ACTIVITY_INTERVAL": str(ACTIVITY_INTERVAL)}
    # A cluster that refuses jobs must not end the hub.
    c.GatewaySpawner.consecutive_failure_limit = 0
    # Jobs that wait in a queue count as pending: no limit here, the connector has its own.
    c.JupyterHub.concurrent_spawn_limit = 0
    # Long enough for the connector to refuse, so that the API answers 400 and not 202.
    c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 10, "slow_stop_timeout": 12}
    c.JupyterHub.allow_named_servers = settings.hub.named_servers > 0
    c.JupyterHub.named_server_limit_per_user = settings.hub.named_servers


def configure_restarts(c: Any) -> None:
    """A hub that stops leaves servers alone; one that starts finds them again."""
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    c.JupyterHub.init_spawners_timeout = 5
    c.JupyterHub.shutdown_on_logout = False


def configure_sign_in(c: Any, settings: Settings) -> None:
    """Who may sign in, and who is an admin.

    :raises ConfigurationError: for the demo's sign-in on an address that others can reach.
    """
    sign_in = settings.sign_in
    c.Authenticator.admin_users = set(settings.hub.admin_users)
    c.Authenticator.username_pattern = f"^{HUB_NAME.pattern}$"
    if isinstance(sign_in, DummySignIn):
        if not is_loopback(settings.hub.bind_url):
            raise ConfigurationError(
                text(
                    "sign_in: dummy lets anybody in with one password; it is for a demo on this "
                    "machine. Set hub.bind_url to http://127.0.0.1:8000 or choose another sign_in."
                ),
                detail=f"hub.bind_url is {settings.hub.bind_url}",
                reason="dummy_sign_in",
            )
        c.JupyterHub.authenticator_class = "dummy"
        c.DummyAuthenticator.password = sign_in.password
        c.Authenticator.allowed_users = set(sign_in.users)
    else:
        c.JupyterHub.authenticator_class = "pam"
        c.PAMAuthenticator.open_sessions = False
        # An account of this host is the permission; the identity table decides about clusters.
        c.Authenticator.allow_all = True


def configure_culler(c: Any, settings: Settings) -> None:
    """Stop servers that nobody uses.

    A single-user server reports the last message of its kernels and terminals, and the pages that
    are open. Two things look idle and are not: a cell that computes without printing, and a server
    whose tunnel is down and which therefore cannot report. :mod:`gateway.hub.server_api` asks for
    both before the culler has its way.
    """
    services: list[dict[str, Any]] = []
    roles: list[dict[str, Any]] = []
    idle = settings.hub.idle_timeout
    if idle is not None:
        seconds = max(int(idle.total_seconds()), 1)
        c.GatewaySpawner.idle_timeout = seconds
        services.append(
            {
                "name": CULLER,
                # setpriv (util-linux): JupyterHub gives it a session of its own, so it would
                # outlive a hub that was killed, with a token that is good for nothing.
                "command": [
                    *("setpriv", "--pdeathsig", "TERM", "--"),
                    sys.executable,
                    "-m",
                    "jupyterhub_idle_culler",
                    f"--timeout={seconds}",
                    f"--cull-every={max(min(seconds // 4, 300), 1)}",
                ],
            }
        )
        roles.append(
            {
                "name": CULLER,
                "description": "Stops servers that nobody uses",
                "scopes": [
                    "list:users",
                    "read:users:activity",
                    "read:servers",
                    "delete:servers",
                ],
                "services": [CULLER],
            }
        )
    c.JupyterHub.services = services
    c.JupyterHub.load_roles = roles


def configure_pages(c: Any, settings: Settings) -> None:
    """Our templates and routes, and headers for every answer of the hub.

    Our pages (home, form, launch, not running) allow no inline script and nothing from elsewhere.
    JupyterHub's own pages (sign in, sign out, admin, tokens, sharing, authorize, errors, stop
    pending) carry inline scripts and keep JupyterHub's policy, which is ``frame-ancestors 'none'``.
    """
    c.JupyterHub.template_paths = [str(resources.files("gateway.hub") / "templates")]
    c.JupyterHub.tornado_settings["headers"] = {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    install_routes()


def configure_logs(c: Any, settings: Settings) -> None:
    """One line an event on standard error; the service manager keeps them."""
    c.JupyterHub.log_level = settings.log_level
    c.Application.log_level = settings.log_level


def configure_sweep(settings: Settings) -> None:
    """A hub that starts looks for what it has let go of; nothing when only the file is read."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if JupyterHub.initialized():
        begin_sweep(JupyterHub.instance(), connector_client(str(settings.connector_socket)))


def is_loopback(url: str) -> bool:
    """Tell whether only this machine can reach ``url``; any name but localhost counts as no."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
