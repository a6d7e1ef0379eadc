"""``/hub/api/users/NAME/server``: who asks for the end of a server, and may the culler have it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.orm import Service
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import utcnow
from tornado.web import HTTPError

from gateway.connector.models import LaunchView, TransitionView
from gateway.errors import GatewayError, RequestRejected
from gateway.hub.kernels import fetch_busy
from gateway.launch.states import LaunchState

CULLER: Final = "idle-culler"
REPORT_INTERVAL: Final = timedelta(minutes=5)
"""How often a server tells its last activity; an outage shorter than this hides nothing."""


class ServerApi(UserServerAPIHandler):
    """Notes on whose behalf a server is stopped, before it is."""

    @needs_scope("delete:servers")  # type: ignore[untyped-decorator]
    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Stop a server; 503 when the connector cannot be told.

        A culler that errs is answered 202 (it tries again later).
        """
        user = self.find_user(user_name)
        spawner = user.spawners.get(server_name) if user is not None else None
        by = describe_asker(self.current_user, user_name)
        if spawner is not None and spawner.active:
            view = await self._fetch_view(spawner)
            if by == "culler" and view is not None and (why := await self._spare(spawner, view)):
                self.log.info("Not culling %s: %s", spawner._log_name, why)
                spawner.orm_spawner.last_activity = utcnow(with_tz=False)
                self.db.commit()
                self.set_status(202)
                return
            spawner.asked_by = by
        elif user is not None:
            await self._end_forgotten(user, server_name, by)
        try:
            await super().delete(user_name, server_name)
        except BaseException:
            # Nothing is being stopped: the hub's own tidying must not count as the asker's.
            if spawner is not None and spawner.pending != "stop":
                spawner.asked_by = None
            raise

    async def _end_forgotten(self, user: Any, server_name: str, by: str) -> None:
        # The hub may have let go of a server whose launch goes on: it is what is to be stopped.
        client = user.spawner.client
        try:
            for view in await client.launches(user=user.name, server=server_name, live=True):
                await client.stop(view.id, by)
        except GatewayError as error:
            raise HTTPError(503, error.user_message.render()) from error

    async def _spare(self, spawner: Any, view: LaunchView) -> str:
        if not may_cull(view, timedelta(seconds=spawner.idle_timeout), utcnow()):
            return "it was out of reach"
        if view.state is not LaunchState.READY:
            return ""
        busy = await fetch_busy(spawner)
        if busy is None:
            return "it could not be asked whether it computes"
        return "a kernel computes" if busy else ""

    async def _fetch_view(self, spawner: Any) -> LaunchView | None:
        # JupyterHub forgets a server even when stop() fails; so nothing begins that cannot end.
        if not spawner.launch_id:
            return None
        try:
            view: LaunchView = await spawner.client.launch(spawner.launch_id)
            return view
        except RequestRejected:
            return None
        except GatewayError as error:
            raise HTTPError(503, error.user_message.render()) from error


def describe_asker(asker: Any, user_name: str) -> str:
    """Return who asks, for the launch's history: a user, ``culler`` or ``admin:NAME``."""
    if isinstance(asker, Service) or getattr(asker, "kind", "") == "service":
        return "culler" if asker.name == CULLER else f"admin:{asker.name}"[:80]
    name = str(asker.name)
    return name if name == user_name else f"admin:{name}"[:80]


def may_cull(view: LaunchView, idle: timedelta, now: datetime) -> bool:
    """Tell whether the culler's idea of idleness can be trusted for this launch.

    A server that waits, starts or is cut off reports nothing. After an outage it has reported by
    the second interval; and nobody could use it meanwhile, so the idle time begins anew.
    """
    if view.state is not LaunchState.READY:
        return view.state in (LaunchState.ENDING, LaunchState.ENDED)
    back = find_return(view.history)
    if back is None:
        return True
    at, outage = back
    if outage < REPORT_INTERVAL:
        return now - at >= min(2 * REPORT_INTERVAL, idle)
    return now - at >= idle


def find_return(history: Sequence[TransitionView]) -> tuple[datetime, timedelta] | None:
    """Return when the server came back last, and how long it had been out of reach."""
    left: datetime | None = None
    result = None
    usable = False
    for line in history:
        if line.state is LaunchState.READY:
            if left is not None:
                result = (line.at, line.at - left)
                left = None
            usable = True
        elif usable:
            left, usable = line.at, False
    return result
