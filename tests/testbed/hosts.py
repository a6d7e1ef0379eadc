"""Hosts as namespaces: network, mounts and hostname of their own, held by one sleeping process.

A mount namespace of its own gives a host its /tmp, /run, /etc, /home and /dev/shm. All else is
the machine's. `ip netns exec` is not used: it remounts /sys, and slurmd then finds no cgroups.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .layout import CLUSTER_SIDE, COMPUTE, HOSTS, HUB, HUB_SIDE, LOGIN, Layout, address_between
from .processes import Process, inode_of, is_alive, start_daemon
from .state import Host

# $1 state $2 host $3 etc $4 home ('' for none) $5 ready-file; then paths to keep in sight.
HOLDER = """\
set -eu
state=$1 host=$2 etc=$3 home=$4 ready=$5
shift 5
hostname "$host"
mount --bind "$state" /mnt
mount --bind "$etc" /etc
n=0
for path in "$@"; do
    n=$((n + 1))
    mkdir -p "/mnt/keep/$n"
    mount --bind "$path" "/mnt/keep/$n"
done
mount -t tmpfs -o mode=1777,size=2g tmpfs /tmp
mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm
if [ -n "$home" ]; then mount --bind "/mnt/home" /home
else mount -t tmpfs -o mode=755,size=1m tmpfs /home; fi
mount -t tmpfs -o mode=755,size=256m tmpfs /run
mkdir -p "$state"
n=0
for path in "$@"; do
    n=$((n + 1))
    mkdir -p "$path"
    mount --move "/mnt/keep/$n" "$path"
done
mount --move /mnt "$state"
# The hub has nothing of the cluster, the cluster nothing of the hub.
if [ -n "$home" ]; then hidden='hub keys'
else hidden='home etc-cluster ssh spool'; fi
for name in $hidden; do mount -t tmpfs -o ro,mode=755,size=4k tmpfs "$state/$name"; done
mkdir -p /run/sshd /run/lock
install -d -o munge -g munge /run/munge
install -d -o mysql -g mysql /run/mysqld
echo 0 >/proc/sys/net/ipv4/ip_forward
: >"$ready"
exec sleep infinity
"""

TABLE = """\
table inet bed {
  set cut { type ipv4_addr; }
  chain incoming { type filter hook input priority -10; ip saddr @cut drop; }
}
"""


class HostError(Exception):
    """A host could not be made or changed; the message names it and says what was run."""


def command(argv: list[str], *, stdin: str = "", timeout: float = 30) -> str:
    """Output of a command that must succeed. Raises HostError."""
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode != 0:
        raise HostError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def enter(holder: Process) -> list[str]:
    """The argv prefix that runs a command on the host."""
    return ["nsenter", "--target", str(holder.pid), "--net", "--mount", "--uts", "--"]


def paths_to_keep() -> list[str]:
    """Where Python and this checkout lie, when that is below a directory that hosts replace."""
    wanted = {sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[2])}
    hidden = ("/home/", "/run/", "/tmp/")
    return sorted(path for path in wanted if path.startswith(hidden))


def start_hosts(layout: Layout) -> dict[str, Host]:
    """All hosts, with loopback and no link yet. Raises HostError."""
    holders: dict[str, Process] = {}
    for host in HOSTS:
        home = "" if host == HUB else "yes"
        ready = layout.state / f"{host}.ready"
        arguments = [str(layout.state), host, str(layout.etc(host)), home, str(ready)]
        unshare = ["unshare", "--net", "--mount", "--uts", "--propagation", "private"]
        holders[host] = start_daemon(
            [*unshare, "--", "sh", "-c", HOLDER, "holder", *arguments, *paths_to_keep()],
            layout.logs / f"{host}.host",
        )
    hosts: dict[str, Host] = {}
    for host, holder in holders.items():
        _wait_ready(layout, host, holder)
        network, mounts = (inode_of(f"/proc/{holder.pid}/ns/{kind}") for kind in ("net", "mnt"))
        if network is None or mounts is None:
            raise HostError(f"{host}: its namespaces vanished")
        command(["ip", "netns", "attach", layout.namespace(host), str(holder.pid)])
        hosts[host] = Host(holder, network, mounts)
    return hosts


def _wait_ready(layout: Layout, host: str, holder: Process) -> None:
    end = time.monotonic() + 10
    while not (layout.state / f"{host}.ready").exists():
        if not is_alive(holder) or time.monotonic() > end:
            log = (layout.logs / f"{host}.host").read_text()
            raise HostError(f"{host}: no namespaces: {log}")
        time.sleep(0.01)


def link_hosts(hosts: dict[str, Host]) -> None:
    """hub -- login by one cable, login and compute nodes on one bridge that stands in login."""

    def batch(host: str, lines: list[str]) -> None:
        prefix = enter(hosts[host].holder)
        command([*prefix, "ip", "-batch", "-"], stdin="\n".join(lines) + "\n")
        command([*prefix, "nft", "-f", "-"], stdin=TABLE)

    lines = ["link set lo up", "link add br0 type bridge"]
    for name in (HUB, *COMPUTE):
        lines.append(f"link add to-{name} type veth peer name eth0 netns {hosts[name].holder.pid}")
        if name != HUB:
            lines.append(f"link set to-{name} master br0")
        lines.append(f"link set to-{name} up")
    lines += [
        f"addr add {HUB_SIDE[LOGIN]}/24 dev to-{HUB}",
        f"addr add {CLUSTER_SIDE[LOGIN]}/24 dev br0",
        "link set br0 up",
    ]
    batch(LOGIN, lines)
    for name, address in ((HUB, HUB_SIDE[HUB]), *((c, CLUSTER_SIDE[c]) for c in COMPUTE)):
        batch(name, ["link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"])


def set_cut(hosts: dict[str, Host], one: str, other: str, *, cut: bool) -> None:
    """Packets between the two are dropped on arrival, both ways: silence, as on a dead link."""
    for here, there in ((one, other), (other, one)):
        element = f"element inet bed cut {{ {address_between(here, there)} }}"
        # Adding first makes the removal succeed when there is nothing to remove.
        lines = f"add {element}\n" + ("" if cut else f"delete {element}\n")
        command([*enter(hosts[here].holder), "nft", "-f", "-"], stdin=lines)


_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def _set_network(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(handle, _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise HostError(f"setns {path}: {os.strerror(error)}")
    finally:
        os.close(handle)


@contextmanager
def network_of(holder: Process) -> Iterator[None]:
    """Sockets that this thread opens inside, and processes it starts, use the host's network.

    A socket keeps its network when the block ends. Names are resolved with the machine's own
    /etc/hosts: use addresses.
    """
    handle = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_network(f"/proc/{holder.pid}/ns/net")
        try:
            yield
        finally:
            _set_network(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
