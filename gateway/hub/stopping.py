"""Ending a server from one of our pages, whatever JupyterHub thinks its state is."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from gateway.launch.states import LIVE_STATES

_CANCEL_PATIENCE: Final = 5.0


async def stop_server(handler: Any, user: Any, server_name: str, by: str) -> None:
    """End the newest launch of a server.

    ``handler`` is a JupyterHub handler. Returns when the end has been asked for and the hub has let
    go of the server, or is about to.

    :raises GatewayError: when the connector cannot be told; then nothing was changed.
    """
    spawner = user.spawners[server_name]
    client = spawner.client
    launches = await client.launches(user=user.name, server=server_name, live=True)
    if spawner.pending == "spawn":
        spawner.asked_by = by
        future = spawner._spawn_future
        if future is not None:
            future.cancel()
            await asyncio.wait([future], timeout=_CANCEL_PATIENCE)
    if spawner.ready or (spawner.server is not None and not spawner.pending):
        spawner.asked_by = by
        try:
            await handler.stop_single_user(user, server_name)
        except BaseException:
            if spawner.pending != "stop":
                spawner.asked_by = None
            raise
        return
    for launch in launches:
        if launch.state in LIVE_STATES:
            await client.stop(launch.id, by)


async def remove_server(handler: Any, user: Any, server_name: str) -> bool:
    """Forget a named server that is not active; tell whether that was done.

    :raises GatewayError: when the connector cannot be asked whether a launch of it lives.
    """
    spawner = user.spawners[server_name]
    if not server_name or spawner.active:
        return False
    if await spawner.client.launches(user=user.name, server=server_name, live=True):
        return False
    handler.db.delete(spawner.orm_spawner)
    user.spawners.pop(server_name, None)
    handler.db.commit()
    return True
