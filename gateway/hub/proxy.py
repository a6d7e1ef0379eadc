"""The proxy process: how it is started, and the token it shares with the hub.

It runs beside the hub, not under it, so that a hub restart drops no websocket.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.errors import ConfigurationError
from gateway.hub.secret_files import ensure_secret
from gateway.settings import Settings
from gateway.text import text

# read by configurable-http-proxy 4 and 5
TOKEN_VARIABLE: Final = "CONFIGPROXY_AUTH_TOKEN"  # noqa: S105 - its name only


def proxy_token_file(settings: Settings) -> Path:
    """Where the token of the proxy's API is kept."""
    return settings.state_directory / "proxy_token"


def build_proxy_command(settings: Settings) -> list[str]:
    """Return the argv of the proxy; it holds no secret.

    :raises ConfigurationError: when ``hub.bind_url`` is not ``http://host:port``.
    """
    host, port = parse_bind_url(settings.hub.bind_url)
    hub = f"http://127.0.0.1:{settings.hub.api_port}"
    prefix = urlsplit(settings.hub.bind_url).path.rstrip("/")
    return [
        *settings.hub.proxy_command,
        *("--ip", host, "--port", str(port)),
        *("--api-ip", "127.0.0.1", "--api-port", str(settings.hub.proxy_api_port)),
        *("--error-target", f"{hub}{prefix}/hub/error"),
        *("--log-level", settings.log_level.lower().replace("warning", "warn")),
    ]


def build_proxy_environment(settings: Settings) -> dict[str, str]:
    """Return what to add to the proxy's environment: the token, made at first use.

    :raises ConfigurationError: when the file of the token cannot be used.
    """
    return {TOKEN_VARIABLE: ensure_secret(proxy_token_file(settings))}


def parse_bind_url(url: str) -> tuple[str, int]:
    """Return host and port of ``http://host:port/…``.

    :raises ConfigurationError: when it is something else.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or port is None:
        raise ConfigurationError(
            text(
                "hub.bind_url must be like http://127.0.0.1:8000, not {url}; "
                "a web server in front of it speaks https.",
                url=url[:200],
            ),
            reason="bind_url",
        )
    return parts.hostname, port
