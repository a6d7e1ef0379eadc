"""What a bed looks like: its hosts, addresses, people and paths. Pure; nothing is started here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

HUB = "hub"
LOGIN = "login"
COMPUTE = ("c1", "c2", "c3")
HOSTS = (HUB, LOGIN, *COMPUTE)
CLUSTER_HOSTS = (LOGIN, *COMPUTE)
CLUSTER_NAME = "testbed"

# Each host is a network namespace of its own, so two beds may use the same addresses.
HUB_SIDE = {HUB: "10.77.1.1", LOGIN: "10.77.1.2"}
CLUSTER_SIDE = {LOGIN: "10.77.2.2", "c1": "10.77.2.11", "c2": "10.77.2.12", "c3": "10.77.2.13"}
# The pairs that can talk, each once.
LINKS = ((HUB, LOGIN), *combinations(CLUSTER_HOSTS, 2))


@dataclass(frozen=True, slots=True)
class Person:
    """An account of the cluster: login and compute nodes know it, the hub host does not."""

    name: str
    uid: int
    shell: str = "/bin/bash"
    groups: tuple[str, ...] = ()


PEOPLE = (
    Person("alice", 6001),
    Person("bob", 6002, groups=("longrun",)),
    Person("carol", 6003),
    Person("observer", 6100),
    Person("tunnel", 6101, shell="/usr/sbin/nologin"),
)
# The group that alone may use the partition `long`.
GROUPS = {"longrun": 6200}
# Service accounts of the hub host, for the gateway's own processes.
SERVICES = (
    Person("landfall", 6901, shell="/usr/sbin/nologin"),
    Person("landfall-signer", 6902, shell="/usr/sbin/nologin"),
)
FIRST_EXTRA_UID = 6010


def root_directory() -> Path:
    """Where beds keep their state; short, since unix socket paths lie below it."""
    return Path(os.environ.get("LANDFALL_BED_ROOT", "/run"))


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one bed, by its run id (1 to 8 lower-case letters and digits)."""

    run_id: str
    root: Path

    @property
    def state(self) -> Path:
        return self.root / f"landfall-bed-{self.run_id}"

    @property
    def record(self) -> Path:
        return self.state / "bed.json"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def home(self) -> Path:
        return self.state / "home"

    @property
    def scratch(self) -> Path:
        """Seen under this same path by every host and by the machine itself."""
        return self.state / "scratch"

    @property
    def hub_files(self) -> Path:
        """Seen under this same path by the hub and by the machine, not by the cluster."""
        return self.state / "hub"

    @property
    def keys(self) -> Path:
        return self.state / "keys"

    @property
    def user_ca_key(self) -> Path:
        return self.keys / "user_ca"

    @property
    def host_ca_key(self) -> Path:
        return self.keys / "host_ca"

    @property
    def known_hosts(self) -> Path:
        return self.state / "known_hosts"

    @property
    def mariadb(self) -> Path:
        return self.state / "mariadb"

    def etc(self, host: str) -> Path:
        """The directory that stands for /etc; all cluster hosts share one, as with LDAP."""
        return self.state / ("etc-hub" if host == HUB else "etc-cluster")

    def ssh(self, host: str) -> Path:
        return self.state / "ssh" / host

    def host_key(self, host: str) -> Path:
        return self.ssh(host) / "host_key"

    def spool(self, daemon: str) -> Path:
        return self.state / "spool" / daemon

    def namespace(self, host: str) -> str:
        """The name under which `ip netns list` shows the host."""
        return f"lf-{self.run_id}-{host}"

    @property
    def first_job_id(self) -> int:
        """Job ids are part of cgroup names, which all beds of a machine share."""
        return 1000 + (int(self.run_id, 36) % 40_000) * 1000


def layout_of(run_id: str) -> Layout:
    """Raises ValueError when the run id would make unusable names."""
    ok = run_id.isascii() and run_id.isalnum() and run_id == run_id.lower()
    if not (ok and 1 <= len(run_id) <= 8):
        raise ValueError(f"a run id is 1 to 8 lower-case letters and digits, not {run_id!r}")
    return Layout(run_id, root_directory())


def build_hosts_file(host: str) -> str:
    """/etc/hosts: the hub knows the login node only."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    if host == HUB:
        lines += [f"{address} {name}" for name, address in HUB_SIDE.items()]
    else:
        lines += [f"{address} {name}" for name, address in CLUSTER_SIDE.items()]
    return "\n".join(lines) + "\n"


def address_between(source: str, target: str) -> str:
    """The address of `target` as `source` would dial it.

    Raises KeyError when there is no route: the hub and a compute node never see each other.
    """
    if HUB in (source, target):
        if {source, target} - set(HUB_SIDE):
            raise KeyError(f"no route between {source} and {target}")
        return HUB_SIDE[target]
    return CLUSTER_SIDE[target]
