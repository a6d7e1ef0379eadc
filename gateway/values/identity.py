"""Who somebody is: at the identity provider, and on one cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

# POSIX portable user names, as shadow's useradd(8) accepts them by default.
CLUSTER_USER_NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
# The hub's names are slugs of our own making.
HUB_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Identity:
    """A person as signed in; ``name`` is the hub's opaque slug, never a POSIX name by itself.

    ``claims`` are those of the identity provider that a mapper was configured to use.
    """

    source: str
    subject: str
    name: str
    claims: Mapping[str, str | tuple[str, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )


@dataclass(frozen=True, slots=True)
class ClusterUser:
    """A POSIX login on one cluster; ``uid`` is pinned when known, and checked there."""

    cluster: str
    name: str
    uid: int | None = None
