"""The daemons of a bed: where each runs, how it starts, how one sees that it serves."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .hosts import HostError, command, enter, network_of
from .layout import CLUSTER_HOSTS, CLUSTER_SIDE, COMPUTE, LOGIN, Layout
from .processes import Process, is_alive, start_daemon

SLURMCTLD_PORT, SLURMD_PORT, SLURMDBD_PORT, SSH_PORT = 6817, 6818, 6819, 22

# In the order in which they start.
PLACES = (
    *((host, "munged") for host in CLUSTER_HOSTS),
    (LOGIN, "mariadb"),
    *((host, "sshd") for host in CLUSTER_HOSTS),
    (LOGIN, "slurmdbd"),
    (LOGIN, "slurmctld"),
    *((host, "slurmd") for host in COMPUTE),
)

_DATABASE_SIZE = ["--innodb-log-file-size=8M", "--innodb-data-file-path=ibdata1:4M:autoextend"]


@dataclass(frozen=True, slots=True)
class Daemon:
    argv: list[str]
    is_ready: Callable[[Process], bool]
    patience: float = 15.0


def make_database(layout: Layout, password: str) -> None:
    """A fresh MariaDB data directory, and the statements it runs whenever it starts."""
    layout.mariadb.mkdir(mode=0o700)
    shutil.chown(layout.mariadb, "mysql", "mysql")
    command(
        [
            *("mariadb-install-db", "--no-defaults", "--user=mysql", "--skip-test-db"),
            *("--auth-root-authentication-method=normal", f"--datadir={layout.mariadb}"),
            *_DATABASE_SIZE,
        ]
    )
    init = layout.mariadb / "init.sql"
    init.touch(mode=0o600)
    init.write_text(
        "CREATE DATABASE IF NOT EXISTS slurm_acct_db;\n"
        f"CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';\n"
    )
    shutil.chown(init, "mysql", "mysql")


def make_spools(layout: Layout) -> None:
    owners = {"slurmctld": "slurm"}
    owners |= {f"munged-{host}": "munge" for host in CLUSTER_HOSTS}
    owners |= {f"slurmd-{host}": "root" for host in COMPUTE}
    for name, owner in owners.items():
        layout.spool(name).mkdir(parents=True)
        shutil.chown(layout.spool(name), owner, owner)


def _listens(holder: Process, host: str, port: int) -> bool:
    with network_of(holder):
        try:
            with socket.create_connection((CLUSTER_SIDE[host], port), timeout=1):
                return True
        except OSError:
            return False


def _succeeds(argv: list[str]) -> bool:
    done = subprocess.run(argv, capture_output=True, timeout=20, check=False)
    return done.returncode == 0


def describe(layout: Layout, host: str, name: str) -> Daemon:
    """Raises KeyError for a daemon that does not run on that host."""
    if (host, name) not in PLACES:
        raise KeyError(f"no {name} on {host}")
    match name:
        case "munged":
            spool = layout.spool(f"munged-{host}")
            return Daemon(
                [
                    *("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged"),
                    *("--foreground", "--force", f"--log-file={spool}/munged.log"),
                    *(f"--seed-file={spool}/seed", "--pid-file=/run/munge/munged.pid"),
                ],
                lambda holder: _succeeds([*enter(holder), "munge", "--no-input"]),
            )
        case "mariadb":
            return Daemon(
                [
                    *("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={layout.mariadb}"),
                    *("--socket=/run/mysqld/mysqld.sock", "--pid-file=/run/mysqld/mysqld.pid"),
                    *(
                        "--skip-networking",
                        "--innodb-flush-log-at-trx-commit=0",
                        "--innodb-flush-method=nosync",
                    ),
                    *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
                    *(f"--init-file={layout.mariadb}/init.sql", *_DATABASE_SIZE),
                ],
                lambda holder: _succeeds(
                    [
                        *(*enter(holder), "mariadb-admin", "--no-defaults"),
                        *("--connect-timeout=2", "--socket=/run/mysqld/mysqld.sock", "ping"),
                    ]
                ),
                patience=30,
            )
        case "sshd":
            return Daemon(
                ["/usr/sbin/sshd", "-D", "-e", "-f", f"{layout.ssh(host)}/sshd_config"],
                lambda holder: _listens(holder, host, SSH_PORT),
            )
        case "slurmdbd":
            return Daemon(
                ["slurmdbd", "-D"], lambda holder: _listens(holder, host, SLURMDBD_PORT), 40
            )
        case "slurmctld":
            return Daemon(
                ["slurmctld", "-D"], lambda holder: _listens(holder, host, SLURMCTLD_PORT), 30
            )
        case _:
            return Daemon(
                ["slurmd", "-D", "-N", host], lambda holder: _listens(holder, host, SLURMD_PORT)
            )


def log_of(layout: Layout, host: str, name: str) -> Path:
    return layout.logs / f"{host}.{name}"


def launch(layout: Layout, holder: Process, host: str, name: str) -> Process:
    """Starts the daemon without waiting for it. Raises KeyError."""
    argv = describe(layout, host, name).argv
    return start_daemon([*enter(holder), *argv], log_of(layout, host, name))


def wait_ready(layout: Layout, holder: Process, host: str, name: str, process: Process) -> None:
    """Raises HostError with the end of the daemon's log."""
    daemon = describe(layout, host, name)
    end = time.monotonic() + daemon.patience
    while True:
        alive = is_alive(process)
        if alive and daemon.is_ready(holder):
            return
        if not alive or time.monotonic() > end:
            log = log_of(layout, host, name).read_text(errors="replace")[-2000:]
            what = "does not answer" if alive else "ended"
            raise HostError(f"{name} on {host} {what}:\n{log}")
        time.sleep(0.05)
