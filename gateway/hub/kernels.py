"""Whether a server computes although nobody touches it.

A single-user server reports a kernel's last message, so a cell that computes for hours without
printing looks idle. The culler does not ask; we do, before it has its way.
"""

from __future__ import annotations

import json
from typing import Any, Final

import aiohttp
from jupyterhub import orm

from gateway.hub.tokens import session_of

TIMEOUT: Final = 10.0
_LARGEST: Final = 4 * 1024 * 1024
_LIFETIME: Final = 60


async def fetch_busy(spawner: Any) -> bool | None:
    """Tell whether a kernel of the server is busy; ``None`` when the server cannot be asked.

    A server without kernels (another interface than Jupyter's) is never busy by this measure. It is
    asked through its edge, with a token of a minute for this one server.
    """
    session = session_of(spawner)
    user = spawner.user
    token = user.new_api_token(
        note="idle check",
        expires_in=_LIFETIME,
        scopes=[f"access:servers!server={user.name}/{spawner.name}"],
    )
    try:
        return await _ask(f"{spawner.server.url}api/kernels", token)
    finally:
        row = orm.APIToken.find(session, token)
        if row is not None:
            session.delete(row)
            session.commit()


async def _ask(url: str, token: str) -> bool | None:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as http,
            http.get(
                url, headers={"Authorization": f"token {token}"}, allow_redirects=False
            ) as response,
        ):
            if response.status == 404:
                return False
            if response.status != 200:
                return None
            body = await response.content.read(_LARGEST)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
    return parse_busy(body)


def parse_busy(body: bytes) -> bool:
    """Read ``GET /api/kernels`` of jupyter_server 2; what is no list of kernels is not busy."""
    try:
        kernels = json.loads(body)
    except ValueError:
        return False
    if not isinstance(kernels, list):
        return False
    return any(
        isinstance(kernel, dict) and kernel.get("execution_state") == "busy" for kernel in kernels
    )
