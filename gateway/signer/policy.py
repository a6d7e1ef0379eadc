"""Who may be signed for: the allow-list and the decision. Pure.

The allow-list is YAML, written by an admin::

    clusters:
      perun:
        users: [alice, bob]            # cluster users, by name
        user_pattern: "u[0-9]{6}"      # and those whose whole name matches
        observer: [gw-observer]        # accounts of the gateway
        tunnel: [gw-tunnel]
    deny: [oldadmin]                   # never, on any cluster
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.errors import ClusterRefused
from gateway.text import Text, text
from gateway.values.identity import CLUSTER_USER_NAME

# Accounts of the system, of schedulers and of their services; an allow-list cannot permit them.
ALWAYS_DENIED: Final = frozenset(
    {
        *("root", "toor", "daemon", "bin", "sys", "sync", "adm", "operator", "nobody", "admin"),
        *("wheel", "sudo", "mail", "www-data", "apache", "nginx", "ftp", "sshd", "messagebus"),
        *("systemd-network", "systemd-resolve", "systemd-timesync", "polkitd", "sssd", "nslcd"),
        *("munge", "slurm", "slurmadmin", "pbs", "pbsadmin", "pbsdata", "sge", "sgeadmin", "ldap"),
        *(
            "mysql",
            "postgres",
            "ganglia",
            "nfsnobody",
            "rpc",
            "rpcuser",
            "ntp",
            "chrony",
            "lsfadmin",
        ),
    }
)

Role = Literal["user", "observer", "tunnel"]
_Account = Annotated[str, Field(pattern=rf"^{CLUSTER_USER_NAME.pattern}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ClusterRules(_Model):
    """Who may be signed for on one cluster."""

    users: frozenset[_Account] = Field(default=frozenset(), description="cluster users by name")
    user_pattern: str | None = Field(
        default=None, max_length=200, description="regular expression for whole user names"
    )
    observer: frozenset[_Account] = Field(default=frozenset(), description="observer accounts")
    tunnel: frozenset[_Account] = Field(default=frozenset(), description="tunnel accounts")

    @field_validator("user_pattern")
    @classmethod
    def _check_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as exc:
                raise ValueError(f"not a regular expression: {exc}") from exc
        return value


class AllowList(_Model):
    """The whole allow-list."""

    clusters: dict[str, ClusterRules] = Field(default={}, description="rules per cluster")
    deny: frozenset[str] = Field(default=frozenset(), description="never signed for")


class SignRequest(_Model):
    """One request: ``public_key`` is an OpenSSH line, ``principal`` the account's POSIX name."""

    public_key: str = Field(min_length=1, max_length=500)
    cluster: str = Field(min_length=1, max_length=63)
    role: Role
    principal: str = Field(min_length=1, max_length=32)
    forwarding: bool = Field(strict=True)


def check_request(allowed: AllowList, request: SignRequest) -> None:
    """Return when the request may be signed.

    :raises ClusterRefused: reason ``signer_refused``, ``detail`` says which rule.
    """
    name = request.principal
    if not CLUSTER_USER_NAME.fullmatch(name):
        raise refuse("not an account name")
    if name in ALWAYS_DENIED or name in allowed.deny:
        raise refuse("this account is never signed for")
    rules = allowed.clusters.get(request.cluster)
    if rules is None:
        raise refuse("the allow-list has no such cluster")
    if request.role == "observer" and request.forwarding:
        raise refuse("an observer forwards nothing")
    if not _is_allowed(rules, request):
        raise refuse(f"not on the allow-list as {request.role}")


def _is_allowed(rules: ClusterRules, request: SignRequest) -> bool:
    name = request.principal
    if request.role == "observer":
        return name in rules.observer
    if request.role == "tunnel":
        return name in rules.tunnel
    if name in rules.users:
        return True
    # A pattern is for people: it does not make a service account a user.
    if rules.user_pattern is None or name in rules.observer | rules.tunnel:
        return False
    return re.fullmatch(rules.user_pattern, name) is not None


def refuse(detail: str, reason: str = "signer_refused") -> ClusterRefused:
    """Build the refusal; ``detail`` is for admins."""
    return ClusterRefused(_REFUSED, detail=detail, reason=reason)


_REFUSED: Final[Text] = text(
    "The gateway may not sign in to the cluster with this account. An admin must look at the "
    "signer's allow-list."
)
