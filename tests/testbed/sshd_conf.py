"""sshd of login and compute nodes, and the rule that admits a user to a compute node. Pure text.

Sources: sshd_config(5) of OpenSSH 9.2p1; slurm.conf(5) on Epilog.
"""

from __future__ import annotations

from .layout import CLUSTER_HOSTS, CLUSTER_SIDE, HUB_SIDE, LOGIN, Layout


def build_sshd_config(layout: Layout, host: str) -> str:
    """Debian's defaults where they matter (MaxSessions, MaxStartups, StreamLocalBindMask)."""
    lines = [
        "Port 22",
        "AddressFamily inet",
        f"PidFile {layout.ssh(host)}/sshd.pid",
        f"HostKey {layout.host_key(host)}",
        f"HostCertificate {layout.host_key(host)}-cert.pub",
        f"TrustedUserCAKeys {layout.ssh(host)}/user_ca.pub",
        # Without PAM an account needs the password '*': '!' would lock it.
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin no",
        "AllowTcpForwarding yes",
        "AllowStreamLocalForwarding yes",
        "StreamLocalBindMask 0177",
        "X11Forwarding no",
        "PrintMotd no",
        "UseDNS no",
        "MaxSessions 10",
        "MaxStartups 10:30:100",
        "LogLevel VERBOSE",
        "Subsystem sftp internal-sftp",
    ]
    if host == LOGIN:
        lines += [
            "Match User tunnel",
            "    PermitTTY no",
            "    ForceCommand /bin/false",
            "    AllowStreamLocalForwarding no",
            "    AllowTcpForwarding yes",
            "    PermitListen none",
        ]
    else:
        # Keys of the user's own authorized_keys go through the same rule as certificates.
        lines += [
            "DenyUsers tunnel",
            "AuthorizedKeysFile none",
            f"AuthorizedPrincipalsCommand {layout.state}/admit principals %u",
            "AuthorizedPrincipalsCommandUser root",
            f"AuthorizedKeysCommand {layout.state}/admit keys %u",
            "AuthorizedKeysCommandUser root",
        ]
    return "\n".join(lines) + "\n"


# A small stand-in for pam_slurm_adopt: a user gets in while a job of theirs runs on this node.
# The connections are not put into the job's cgroup; the epilog below ends them instead.
ADMIT = """\
#!/bin/sh
# admit principals|keys USER: prints what sshd may accept for USER, nothing without a job here.
set -eu
node=$(hostname)
jobs=$(squeue --noheader --states=RUNNING --nodelist="$node" --user="$2" --format=%i) || exit 0
root=$(dirname "$0")/gridengine
if [ -z "$jobs" ] && [ -d "$root" ]; then
    jobs=$(env "SGE_ROOT=$root" SGE_CELL=default qstat -u "$2" -s r -q "*@$node") || exit 0
fi
[ -n "$jobs" ] || exit 0
case $1 in
principals) printf '%s\\n' "$2" ;;
keys)
    keys=$(getent passwd "$2" | cut -d: -f6)/.ssh/authorized_keys
    [ ! -f "$keys" ] || cat "$keys"
    ;;
esac
"""

# Runs as root on the node at the end of a job. All hosts share one pid space: only processes of
# this host (same network namespace as slurmd's) count.
EPILOG = """\
#!/bin/sh
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
node=$(hostname)
jobs=$(squeue --noheader --states=RUNNING --nodelist="$node" --user="$SLURM_JOB_USER" \\
    --format=%i) || exit 0
[ -z "$jobs" ] || exit 0
here=$(readlink /proc/self/ns/net)
for pid in $(pgrep -U "$SLURM_JOB_UID" -x sshd); do
    [ "$(readlink "/proc/$pid/ns/net")" = "$here" ] && kill "$pid"
done
exit 0
"""


def host_names(host: str) -> list[str]:
    """The names and addresses under which a client may know the host."""
    names = [host]
    if host in HUB_SIDE:
        names.append(HUB_SIDE[host])
    names.append(CLUSTER_SIDE[host])
    return names


def build_known_hosts(host_ca: str, host_keys: dict[str, str]) -> str:
    """sshd(8) known_hosts: the host CA for all cluster hosts, then each plain key."""
    every = ",".join(name for host in CLUSTER_HOSTS for name in host_names(host))
    lines = [f"@cert-authority {every} {host_ca.strip()}"]
    lines += [f"{','.join(host_names(h))} {key.strip()}" for h, key in host_keys.items()]
    return "\n".join(lines) + "\n"
