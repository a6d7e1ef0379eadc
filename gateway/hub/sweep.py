"""At the hub's start: tokens of servers that are over, and launches that the hub has let go of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from jupyterhub import orm
from jupyterhub.utils import url_escape_path, url_path_join, utcnow

from gateway.connector.client import ConnectorClient
from gateway.connector.models import LaunchView
from gateway.errors import GatewayError

log = logging.getLogger("gateway.hub")

_NOTE: Final = "Server at "
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0


_running: Final[set[asyncio.Task[None]]] = set()


def begin_sweep(app: Any, client: ConnectorClient) -> None:
    """Sweep as soon as the connector answers; ``app`` is the JupyterHub of the running loop."""
    sweep = _sweep(app, client, utcnow(with_tz=False))
    task = asyncio.get_running_loop().create_task(sweep)
    _running.add(task)
    task.add_done_callback(_note_end)


def _note_end(task: asyncio.Task[None]) -> None:
    _running.discard(task)
    if not task.cancelled() and (fault := task.exception()) is not None:
        log.error("the sweep at the hub's start failed", exc_info=fault)


async def _sweep(app: Any, client: ConnectorClient, started_at: datetime) -> None:
    pause = _FIRST_PAUSE
    while True:
        # The hub is not up yet at first: its configuration is just being read.
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
        if app.db is None or app.http_server is None:
            continue
        try:
            live = await client.launches(live=True)
        except GatewayError as error:
            log.info("the launches could not be swept yet: %s", error)
            continue
        break
    for view in find_forgotten(app.db, live):
        log.warning(
            "launch %s of %s (server %r, job %s) lives, and the hub has let go of it; its owner "
            "finds it again with Start; to end it: gateway launches cancel %s",
            view.id,
            view.user,
            view.server_name,
            view.job_id or "none yet",
            view.id,
        )
    count = revoke_stale(app.db, live, app.base_url, before=started_at)
    if count:
        log.info("%d tokens of servers that are over were revoked", count)


def find_forgotten(session: Any, live: Sequence[LaunchView]) -> list[LaunchView]:
    """Return the live launches that no server of the hub knows."""
    known = {(row.state or {}).get("launch_id") for row in session.query(orm.Spawner)}
    return [view for view in live if view.id not in known]


def revoke_stale(
    session: Any, live: Collection[LaunchView], base_url: str, *, before: datetime
) -> int:
    """Delete the rows of single-user servers' tokens from ``before`` (naive UTC) whose server is
    neither the hub's any more nor has a live launch; return how many."""
    kept = {_note(base_url, view.user, view.server_name) for view in live}
    for row in session.query(orm.Spawner):
        if row.server is not None or (row.state or {}).get("launch_id"):
            kept.add(_note(base_url, row.user.name, row.name))
    stale = [
        row
        for row in session.query(orm.APIToken)
        if (row.note or "").startswith(_NOTE)
        and row.user is not None
        and row.created is not None
        and row.created < before
        and row.note not in kept
    ]
    for row in stale:
        session.delete(row)
    session.commit()
    return len(stale)


def _note(base_url: str, user: str, server_name: str) -> str:
    # As JupyterHub writes it (6.1.1, user.py, User.spawn).
    base = url_path_join(base_url, "user", url_escape_path(user), "/")
    return f"{_NOTE}{url_path_join(base, url_escape_path(server_name), '/')}"
