"""What the hub says at the address of a server that does not run."""

from __future__ import annotations

from jupyterhub.handlers.base import UserUrlHandler

from gateway.hub.pages import GatewayPage


class NotRunningPage(GatewayPage, UserUrlHandler):
    """``/hub/user/…``: JupyterHub's logic, our page and policy."""
