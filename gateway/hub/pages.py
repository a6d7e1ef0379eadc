"""What our pages have in common: policy, language, who may see them."""

from __future__ import annotations

from typing import Any, Final

from jupyterhub.utils import url_escape_path, url_path_join
from tornado.httputil import url_concat
from tornado.web import HTTPError

import gateway
from gateway.connector.client import ConnectorClient
from gateway.connector.models import LaunchView
from gateway.errors import GatewayError
from gateway.hub.language import parse_accept_language
from gateway.launch.states import LaunchState
from gateway.text import Language, Param, Text, Words

ASSETS: Final = "landfall"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class GatewayPage:
    """Mix-in for JupyterHub's handlers: a strict policy, our words, our assets."""

    request: Any
    settings: Any
    hub: Any
    users: Any
    current_user: Any

    @property
    def content_security_policy(self) -> str:
        """No inline script or style, nothing from elsewhere."""
        return f"{POLICY}; report-uri {self.csp_report_uri}"  # type: ignore[attr-defined]

    @property
    def language(self) -> Language:
        """The reader's language."""
        return parse_accept_language(self.request.headers.get("Accept-Language", ""))

    def say(self, template: str, /, **params: Param) -> str:
        """Return a sentence in the reader's language; templates know it as ``_``."""
        return Text(template, params).render(self.language)

    def render_words(self, words: Words) -> str:
        """Return ``words`` in the reader's language."""
        return words.render(self.language)

    def asset(self, name: str) -> str:
        """Return the address of one of our static files."""
        return f"{url_path_join(self.hub.base_url, ASSETS, name)}?v={gateway.__version__}"

    def launch_url(self, user: Any, server_name: str, *, events: bool = False) -> str:
        """Return the address of a server's launch page, or of its stream of events."""
        place = "launch-events" if events else "launch"
        return str(
            url_path_join(self.hub.base_url, place, user.escaped_name, url_escape_path(server_name))
        )

    def spawn_url(self, user: Any, server_name: str) -> str:
        """Return the address of the form for a server."""
        return str(
            url_path_join(
                self.hub.base_url, "spawn", user.escaped_name, url_escape_path(server_name)
            )
        )

    def get_owned_user(self, user_name: str, server_name: str) -> Any:
        """Return the user whose server this is.

        :raises tornado.web.HTTPError: 403 for whoever is neither its owner nor an admin, whether
            or not such a user exists; 404 for an admin when it does not.
        """
        if not self.has_scope(f"servers!server={user_name}/{server_name}"):  # type: ignore[attr-defined]
            raise HTTPError(403, "This page belongs to somebody else")
        user = self.find_user(user_name)  # type: ignore[attr-defined]
        if user is None or (server_name and server_name not in user.orm_user.orm_spawners):
            raise HTTPError(404, "No such server")
        return user

    async def find_place(self, user: Any, server_name: str) -> str:
        """Return where to send whoever wants this active server: to it, or to its launch page."""
        spawner = user.spawners[server_name]
        if spawner.ready:
            view, _error = await try_fetch_newest(spawner.client, user.name, server_name)
            if view is None or view.state is LaunchState.READY:
                default = user.server_url(server_name)
                return str(self.get_next_url(user, default=default))  # type: ignore[attr-defined]
        next_url = self.get_argument("next", "")  # type: ignore[attr-defined]
        url = self.launch_url(user, server_name)
        return str(url_concat(url, {"next": next_url})) if next_url else url

    def render_template(self, name: str, sync: bool = False, **ns: Any) -> Any:
        """Render with our words and assets at hand."""
        ns = {"_": self.say, "language": self.language, "asset": self.asset} | ns
        return super().render_template(name, sync, **ns)  # type: ignore[misc]


async def fetch_newest(client: ConnectorClient, user: str, server_name: str) -> LaunchView | None:
    """Return the newest launch of a server, if the connector knows one.

    :raises GatewayError: when it cannot be asked.
    """
    launches = await client.launches(user=user, server=server_name, limit=1)
    return launches[0] if launches else None


async def try_fetch_newest(
    client: ConnectorClient, user: str, server_name: str
) -> tuple[LaunchView | None, GatewayError | None]:
    """Like :func:`fetch_newest`; the error, if any, is returned to be shown."""
    try:
        return await fetch_newest(client, user, server_name), None
    except GatewayError as error:
        return None, error
