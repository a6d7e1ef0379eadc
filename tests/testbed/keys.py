"""SSH keys of a bed: the user CA, the host CA, host keys and certificates (ssh-keygen(1))."""

from __future__ import annotations

from pathlib import Path

from .hosts import command
from .layout import CLUSTER_HOSTS, Layout
from .sshd_conf import build_known_hosts, build_sshd_config, host_names


def make_key(path: Path, comment: str) -> None:
    command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def make_keys(layout: Layout) -> None:
    """CAs, host keys, host certificates, sshd_config of every cluster host and known_hosts."""
    layout.keys.mkdir(mode=0o711)
    make_key(layout.user_ca_key, "bed user ca")
    make_key(layout.host_ca_key, "bed host ca")
    for host in CLUSTER_HOSTS:
        layout.ssh(host).mkdir(parents=True)
        make_key(layout.host_key(host), host)
        names = ",".join(host_names(host))
        command(
            [
                *("ssh-keygen", "-q", "-s", str(layout.host_ca_key), "-I", host),
                *("-h", "-n", names, f"{layout.host_key(host)}.pub"),
            ]
        )
        (layout.ssh(host) / "user_ca.pub").write_text(public_line(layout.user_ca_key) + "\n")
        (layout.ssh(host) / "sshd_config").write_text(build_sshd_config(layout, host))
    plain = {host: public_line(layout.host_key(host)) for host in CLUSTER_HOSTS}
    layout.known_hosts.write_text(build_known_hosts(public_line(layout.host_ca_key), plain))


def public_line(key: Path) -> str:
    """Type and key, without the comment."""
    return " ".join(Path(f"{key}.pub").read_text().split()[:2])


def certify(layout: Layout, user: str, directory: Path, *options: str) -> Path:
    """A fresh key with a certificate for `user`, good for 12 hours; the private key's path.

    `options` go to ssh-keygen before the file, such as `-O`, `clear`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    key = directory / f"id_{user}"
    for old in (key, Path(f"{key}.pub"), Path(f"{key}-cert.pub")):
        old.unlink(missing_ok=True)
    make_key(key, user)
    command(
        [
            *("ssh-keygen", "-q", "-s", str(layout.user_ca_key), "-I", f"bed-{user}"),
            *("-n", user, "-V", "-5m:+12h", *options, f"{key}.pub"),
        ]
    )
    return key
