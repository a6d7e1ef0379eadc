"""The hub's one client of the connector."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from gateway.connector.client import ConnectorClient
from gateway.connector.models import IdentityModel


@cache
def connector_client(socket: str) -> ConnectorClient:
    """Return the client for ``socket``, shared by all spawners and pages of this process."""
    return ConnectorClient(Path(socket))


def build_identity(source: str, user_name: str) -> IdentityModel:
    """Return who asks; the hub's user name is what the sign-in gave."""
    return IdentityModel(source=source, subject=user_name, name=user_name)
