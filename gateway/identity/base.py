"""The seam from a signed-in person to a login on one cluster."""

from __future__ import annotations

from typing import Protocol

from gateway.values.identity import ClusterUser, Identity


class IdentityMapper(Protocol):
    """Finds the login of a person on a cluster.

    ``None`` means "not mapped here"; the caller explains how to get an account. A result has
    passed the gate (POSIX grammar, deny list). Raises only
    :class:`~gateway.errors.GatewayError`.
    """

    async def find_cluster_user(self, identity: Identity, cluster: str) -> ClusterUser | None:
        """Return the login of ``identity`` on ``cluster``."""
        ...
