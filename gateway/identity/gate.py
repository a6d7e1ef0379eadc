"""The gate that every mapped login passes: grammar, deny list, uid floor."""

from __future__ import annotations

from typing import Final

from gateway.errors import RequestRejected
from gateway.text import text
from gateway.values.identity import CLUSTER_USER_NAME, ClusterUser

DENIED: Final = frozenset(
    {"root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp"}
    | {"proxy", "www-data", "backup", "list", "irc", "gnats", "nobody", "messagebus", "sshd"}
    | {"slurm", "slurmrestd", "munge", "pbs", "pbsdata", "sgeadmin", "mysql", "postgres"}
    | {"systemd-network", "jupyterhub", "gateway", "landfall"}
)
LOWEST_UID: Final = 1000


def check_cluster_user(user: ClusterUser) -> ClusterUser:
    """Return ``user`` when it may be acted for.

    :raises RequestRejected: the mapping names an account that the gateway never acts for.
    """
    if not CLUSTER_USER_NAME.fullmatch(user.name) or user.name in DENIED:
        raise _refuse(user)
    if user.uid is not None and user.uid < LOWEST_UID:
        raise _refuse(user)
    return user


def _refuse(user: ClusterUser) -> RequestRejected:
    return RequestRejected(
        text(
            "Your sign-in leads to an account on {cluster} that may not be used here. "
            "Please write to the help address.",
            cluster=user.cluster,
        ),
        detail=f"refused account name {user.name!r} uid {user.uid}",
        reason="account_refused",
    )
