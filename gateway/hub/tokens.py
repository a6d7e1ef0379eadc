"""Rows of the hub's table of tokens that belong to one server."""

from __future__ import annotations

from typing import Any

from jupyterhub import orm
from jupyterhub.utils import url_escape_path, url_path_join
from sqlalchemy import inspect


def session_of(spawner: Any) -> Any:
    """Return the database session in which the spawner's row lives."""
    return inspect(spawner.orm_spawner).session


def find_token_id(spawner: Any) -> str:
    """Return the public id (``a12``) of the row of the spawner's token; empty without one."""
    token = spawner.api_token  # empty after a restart of the hub
    row = orm.APIToken.find(session_of(spawner), token) if token else None
    return str(row.api_id) if row is not None else ""


def forget_token(spawner: Any, token: str) -> None:
    """Delete the row of a token known by value; the caller commits."""
    session = session_of(spawner)
    row = orm.APIToken.find(session, token)
    if row is not None:
        session.delete(row)


def revoke_by_id(spawner: Any, token_id: str) -> None:
    """Delete the row ``token_id`` when it is this server's.

    After a restart the hub no longer knows the token itself. Row numbers may be used again, so the
    row must name its owner and this server.
    """
    if not token_id.startswith("a") or not token_id[1:].isdecimal():
        return
    session = session_of(spawner)
    row = session.get(orm.APIToken, int(token_id[1:]))
    if row is None or row.user is not spawner.user.orm_user:
        return
    base_url = url_path_join(spawner.user.base_url, url_escape_path(spawner.name), "/")
    if row.note in (f"Server at {base_url}", f"retrieved from spawner {spawner.name}"):
        session.delete(row)
        session.commit()
