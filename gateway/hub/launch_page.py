"""The launch page: the one place that shows a launch, waiting, running, failed or ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jupyterhub.handlers.pages import SpawnHandler, SpawnPendingHandler
from jupyterhub.utils import url_path_join
from tornado.httputil import url_concat
from tornado.web import HTTPError, authenticated

from gateway.connector.models import LaunchView
from gateway.errors import GatewayError
from gateway.hub.launch_status import StatusView, build_status
from gateway.hub.pages import GatewayPage, try_fetch_newest
from gateway.hub.server_api import describe_asker
from gateway.hub.stopping import stop_server
from gateway.text import Language


def find_failure(spawner: Any) -> str:
    """Return why the hub's last start of this server failed, in its own words; or nothing."""
    if not spawner._failed:
        return ""
    return str(getattr(spawner._spawn_future.exception(), "jupyterhub_message", ""))


def build_page_status(
    spawner: Any,
    view: LaunchView | None,
    error: GatewayError | None,
    *,
    url: str,
    language: Language,
) -> StatusView:
    """Return what the page shows for a server of the hub."""
    return build_status(
        view,
        language,
        url=url,
        hub_active=spawner.active,
        hub_ready=spawner.ready,
        problem=error.user_message.render(language) if error else find_failure(spawner),
        now=datetime.now(UTC),
        away=error is not None and view is None,
    )


class LaunchPage(GatewayPage, SpawnHandler):
    """``/hub/launch/USER[/SERVER]``: its owner's and admins' only."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self, user_name: str, server_name: str = "") -> None:
        """Show the newest launch of the server."""
        user = self.get_owned_user(user_name, server_name)
        await self._show(user, server_name)

    @authenticated  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str = "") -> None:
        """``action=cancel`` ends the launch, ``action=reconnect`` lets the hub adopt it again."""
        user = self.get_owned_user(user_name, server_name)
        spawner = user.spawners[server_name]
        action = self.get_body_argument("action", "")
        here = self.launch_url(user, server_name)
        try:
            if action == "cancel":
                by = describe_asker(self.current_user, user_name)
                await stop_server(self, user, server_name, by)
            elif action == "reconnect":
                live = await spawner.client.launches(user=user_name, server=server_name, live=True)
                if live and not spawner.active:
                    await self._wrap_spawn_single_user(
                        user, server_name, server_name, spawner, here, live[0].options
                    )
                    return
            else:
                raise HTTPError(400, "No such action")
        except GatewayError as error:
            self.set_status(503)
            await self._show(user, server_name, error)
            return
        self.redirect(here, status=303)

    async def _show(self, user: Any, server_name: str, error: GatewayError | None = None) -> None:
        spawner = user.spawners[server_name]
        view, away = await try_fetch_newest(spawner.client, user.name, server_name)
        url = self.get_next_url(user, default=user.server_url(server_name))
        status = build_page_status(spawner, view, error or away, url=url, language=self.language)
        html = await self.render_template(
            "launch.html",
            status=status,
            for_user=user,
            server_name=server_name,
            display_name=spawner.display_name,
            events_url=self._build_events_url(user, server_name),
            action=url_concat(
                self.launch_url(user, server_name), {"_xsrf": self.xsrf_token.decode("ascii")}
            ),
            spawn_url=self.spawn_url(user, server_name),
            home_url=url_path_join(self.hub.base_url, "home"),
        )
        self.finish(html)

    def _build_events_url(self, user: Any, server_name: str) -> str:
        query = {"_xsrf": self.xsrf_token.decode("ascii")}
        if next_url := self.get_argument("next", ""):
            query["next"] = next_url
        return str(url_concat(self.launch_url(user, server_name, events=True), query))


class PendingPage(GatewayPage, SpawnPendingHandler):
    """``/hub/spawn-pending/…``: JupyterHub sends people here; the launch page is where they go."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self, user_name: str, server_name: str = "") -> None:
        """Redirect to the launch page, or to the server when it can be used."""
        user = self.get_owned_user(user_name, server_name)
        self.redirect(await self.find_place(user, server_name))
