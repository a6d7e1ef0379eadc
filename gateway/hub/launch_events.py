"""The launch page's stream of events: the connector's, rendered for the reader."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from jupyterhub.handlers import BaseHandler
from tornado.iostream import StreamClosedError
from tornado.web import authenticated

from gateway.connector.models import LaunchView
from gateway.errors import GatewayError
from gateway.hub.launch_page import build_page_status
from gateway.hub.pages import GatewayPage, try_fetch_newest
from gateway.launch.states import LaunchState

_PAUSE: Final = 1.0
_PAUSE_AFTER_ERROR: Final = 3.0
Seen = tuple[LaunchView | None, GatewayError | None]


class LaunchEvents(GatewayPage, BaseHandler):
    """``/hub/launch-events/USER[/SERVER]``: server-sent events (HTML standard, 9.2).

    ``data`` is a JSON object: ``html``, the status section; ``headline``, for a screen reader;
    ``url``, the server's address once it can be used; ``final``, true for the last one.
    """

    def get_content_type(self) -> str:
        """Events."""
        return "text/event-stream"

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self, user_name: str, server_name: str = "") -> None:
        """Send an event for each change until the launch is usable or has ended."""
        user = self.get_owned_user(user_name, server_name)
        spawner = user.spawners[server_name]
        url = self.get_next_url(user, default=user.server_url(server_name))
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")
        told = None
        try:
            async with aclosing(self._watch(user, server_name)) as seen:
                async for view, error in seen:
                    status = build_page_status(
                        spawner, view, error, url=url, language=self.language
                    )
                    if status == told:
                        self.write(":\n\n")
                    else:
                        told = status
                        await self._send(status, final=False)
                    await self.flush()
            if told is not None:
                await self._send(told, final=True)
                await self.flush()
        except StreamClosedError:
            return

    async def _send(self, status: Any, *, final: bool) -> None:
        html = await self.render_template("launch_status.html", status=status)
        data = {"html": html, "headline": status.headline, "url": status.url, "final": final}
        self.write(f"data: {json.dumps(data)}\n\n")

    async def _watch(self, user: Any, server_name: str) -> AsyncGenerator[Seen, None]:
        spawner = user.spawners[server_name]
        while True:
            view, error = await try_fetch_newest(spawner.client, user.name, server_name)
            yield view, error
            if error is not None:
                await asyncio.sleep(_PAUSE_AFTER_ERROR)
            elif _is_settled(view, spawner):
                return
            elif view is None or view.state in (LaunchState.READY, LaunchState.ENDED):
                # The hub is about to take notice: to add the route, or to fail the start.
                await asyncio.sleep(_PAUSE)
            else:
                async for newer in self._follow(spawner.client, view.id):
                    yield newer, None

    async def _follow(self, client: Any, launch_id: str) -> AsyncGenerator[LaunchView, None]:
        try:
            async with aclosing(client.events(launch_id)) as views:
                async for view in views:
                    yield view
                    if view.state in (LaunchState.READY, LaunchState.ENDED):
                        return
        except GatewayError as error:
            self.log.info("launch %s: %s", launch_id, error)
        await asyncio.sleep(_PAUSE)


def _is_settled(view: LaunchView | None, spawner: Any) -> bool:
    if view is None or view.state is LaunchState.ENDED:
        return spawner.pending is None
    if view.state is LaunchState.READY:
        return bool(spawner.ready) or not spawner.active
    return False
