"""The home page: a person's servers, with what the connector says of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from jupyterhub.handlers.pages import HomeHandler
from jupyterhub.slugs import is_valid_safe_slug
from jupyterhub.utils import url_path_join
from tornado.httputil import url_concat
from tornado.web import authenticated

from gateway.connector.models import LaunchView
from gateway.errors import GatewayError
from gateway.hub.launch_status import STATES
from gateway.hub.pages import GatewayPage
from gateway.hub.stopping import remove_server
from gateway.launch.states import LaunchState

# Of somebody who has started hundreds of servers only the newest are asked for.
_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One server; ``url`` is empty until it can be used."""

    name: str
    title: str
    state: str
    words: str
    live: bool
    removable: bool
    url: str
    launch_url: str
    spawn_url: str


class HomePage(GatewayPage, HomeHandler):
    """``/hub/home``."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        """Show the servers; ``?new=NAME`` leads to the form of a new named server."""
        user = self.current_user
        wanted = self.get_argument("new", None)
        if wanted is not None:
            if self.allow_named_servers and is_valid_safe_slug(wanted):
                self.redirect(self.spawn_url(user, wanted))
                return
            self.set_status(400)
            await self._show(
                wanted,
                self.say(
                    "A server's name has small letters, digits and dashes, and begins and ends "
                    "with a letter or a digit."
                ),
            )
            return
        await self._show("", "")

    @authenticated  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        """``remove=NAME`` forgets a named server that does not run."""
        user = self.current_user
        name = self.get_body_argument("remove", "")
        try:
            if name in user.orm_user.orm_spawners:
                await remove_server(self, user, name)
        except GatewayError as error:
            self.set_status(503)
            await self._show("", self.render_words(error.user_message))
            return
        self.redirect(url_path_join(self.hub.base_url, "home"), status=303)

    async def _show(self, wanted: str, message: str) -> None:
        user = self.current_user
        newest: dict[str, LaunchView] = {}
        try:
            for view in await user.spawner.client.launches(user=user.name, limit=_SHOWN):
                newest.setdefault(view.server_name, view)
        except GatewayError as error:
            message = message or self.render_words(error.user_message)
        names = sorted(user.orm_user.orm_spawners)
        html = await self.render_template(
            "home.html",
            rows=[self._build_row(user, name, newest.get(name)) for name in names],
            limit=await self.get_current_user_named_server_limit()
            if self.allow_named_servers
            else 0,
            allow_named_servers=self.allow_named_servers,
            wanted=wanted,
            message=message,
            action=url_concat(self.request.path, {"_xsrf": self.xsrf_token.decode("ascii")}),
            xsrf_query=url_concat("", {"_xsrf": self.xsrf_token.decode("ascii")}),
        )
        self.finish(html)

    def _build_row(self, user: Any, name: str, view: LaunchView | None) -> ServerRow:
        spawner = user.spawners[name]
        live = view is not None and view.state is not LaunchState.ENDED
        ready = spawner.ready and view is not None and view.state is LaunchState.READY
        state = STATES[view.state].render(self.language) if view else self.say("Not started yet")
        words = ""
        if view is not None:
            sent = view.end.words if view.end else view.words
            words = sent.fr if self.language == "fr" else sent.en
        return ServerRow(
            name=name,
            title=spawner.display_name or name or self.say("Default server"),
            state=state,
            words=words,
            live=live,
            removable=bool(name) and not live and not spawner.active,
            url=user.server_url(name) if ready else "",
            launch_url=self.launch_url(user, name) if view else "",
            spawn_url=self.spawn_url(user, name),
        )
