"""Logins from a table that admins write.

::

    people:
      - source: pam
        subject: ada
        clusters:
          rorqual: {user: adal, uid: 20417}
          fir: {user: ada}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import ConfigurationError
from gateway.identity.gate import check_cluster_user
from gateway.text import text
from gateway.values.identity import CLUSTER_USER_NAME, ClusterUser, Identity
from gateway.yaml_files import load_model


class Login(BaseModel):
    """A login on one cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: Annotated[str, Field(pattern=f"^{CLUSTER_USER_NAME.pattern}$")]
    uid: int | None = Field(default=None, ge=1000, description="pinned when given")


class Person(BaseModel):
    """One person at one source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1, description="how the person signs in")
    subject: str = Field(min_length=1, description="the stable identifier there")
    clusters: dict[str, Login]


class Table(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    people: tuple[Person, ...]


class TableMapper:
    """An :class:`~gateway.identity.base.IdentityMapper` over one file.

    The file is read again whenever it has changed; a broken file keeps nobody's old login alive: it
    is an error for everybody, so that a withdrawal can never be missed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._logins: dict[tuple[str, str, str], Login] = {}

    async def find_cluster_user(self, identity: Identity, cluster: str) -> ClusterUser | None:
        """Return the login of ``identity`` on ``cluster``; see the protocol."""
        self._refresh()
        login = self._logins.get((identity.source, identity.subject, cluster))
        if login is None:
            return None
        return check_cluster_user(ClusterUser(cluster, login.user, login.uid))

    def _refresh(self) -> None:
        # A small local file: reading it is quicker than handing it to a thread.
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigurationError(
                text("The table of logins cannot be read. An admin has been told."),
                detail=f"{self._path}: {error.strerror}",
            ) from error
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp == self._stamp:
            return
        table = load_model(self._path, Table)
        logins: dict[tuple[str, str, str], Login] = {}
        for person in table.people:
            for cluster, login in person.clusters.items():
                key = (person.source, person.subject, cluster)
                if key in logins:
                    raise ConfigurationError(
                        text("The table of logins cannot be used. An admin has been told."),
                        detail=f"{self._path}: {person.source}/{person.subject} is listed twice",
                    )
                logins[key] = login
        self._logins, self._stamp = logins, stamp
