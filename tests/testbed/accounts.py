"""The private /etc of the hub and of the cluster, cluster users and their homes."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from . import slurm_conf
from .hosts import command
from .layout import (
    GROUPS,
    HUB,
    LOGIN,
    PEOPLE,
    SERVICES,
    Layout,
    Person,
    build_hosts_file,
)
from .modules import MODULES, MODULESPATH, PROFILE, TREE


def make_etc(layout: Layout, *, cgroups: bool) -> str:
    """Both directories, Slurm's configuration and the module tree; the database password."""
    for host in (HUB, LOGIN):
        command(["cp", "-a", "/etc", str(layout.etc(host))])
        (layout.etc(host) / "hosts").write_text(build_hosts_file(host))
    hub, cluster = layout.etc(HUB), layout.etc(LOGIN)
    _add_people(hub, SERVICES)
    # The cluster's secrets and its Slurm do not exist on the hub host.
    for left_out in ("slurm", "munge"):
        shutil.rmtree(hub / left_out, ignore_errors=True)
    for name, gid in GROUPS.items():
        _append(cluster / "group", f"{name}:x:{gid}:")
        _append(cluster / "gshadow", f"{name}:!::")
    _add_people(cluster, PEOPLE)
    for person in PEOPLE:
        make_home(layout, person)
    password = secrets.token_hex(16)
    _write_slurm(layout, cluster, password, cgroups=cgroups)
    _write_modules(cluster)
    return password


def _append(path: Path, line: str) -> None:
    with path.open("a") as handle:
        handle.write(line + "\n")


def _add_people(etc: Path, people: Iterable[Person]) -> None:
    for person in people:
        home = f"/home/{person.name}"
        _append(etc / "passwd", f"{person.name}:x:{person.uid}:{person.uid}::{home}:{person.shell}")
        _append(etc / "group", f"{person.name}:x:{person.uid}:")
        _append(etc / "gshadow", f"{person.name}:!::")
        _append(etc / "shadow", f"{person.name}:*:20000:0:99999:7:::")
        for group in person.groups:
            for file in ("group", "gshadow"):
                _join_group(etc / file, group, person.name)


def _join_group(file: Path, group: str, name: str) -> None:
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith(f"{group}:"):
            lines[number] = line + ("" if line.endswith(":") else ",") + name
    file.write_text("\n".join(lines) + "\n")


def add_person(layout: Layout, person: Person) -> None:
    """A further cluster user, seen at once on login and compute nodes (no Slurm account yet)."""
    _add_people(layout.etc(LOGIN), [person])
    make_home(layout, person)


def make_home(layout: Layout, person: Person) -> None:
    home = layout.home / person.name
    shutil.copytree("/etc/skel", home)
    for path in (home, *home.rglob("*")):
        os.chown(path, person.uid, person.uid)
    home.chmod(0o700)


def _write_slurm(layout: Layout, etc: Path, password: str, *, cgroups: bool) -> None:
    slurm = etc / "slurm"
    slurm.mkdir(exist_ok=True)
    (slurm / "slurm.conf").write_text(slurm_conf.build_slurm_conf(layout, cgroups=cgroups))
    (slurm / "gres.conf").write_text(slurm_conf.build_gres_conf())
    if cgroups:
        (slurm / "cgroup.conf").write_text(slurm_conf.build_cgroup_conf())
    database = slurm / "slurmdbd.conf"
    database.touch(mode=0o600)
    database.write_text(slurm_conf.build_slurmdbd_conf(password))
    shutil.chown(database, "slurm", "slurm")
    key = etc / "munge" / "munge.key"
    key.parent.mkdir(exist_ok=True)
    key.unlink(missing_ok=True)
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    for path in (key, key.parent):
        shutil.chown(path, "munge", "munge")
    key.chmod(0o400)
    key.parent.chmod(0o700)


def _write_modules(etc: Path) -> None:
    tree = etc / Path(TREE).name
    for name, text in MODULES.items():
        file = tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (etc / "lmod" / "modulespath").write_text(MODULESPATH)
    (etc / "profile.d" / "z-modules.sh").write_text(PROFILE)
