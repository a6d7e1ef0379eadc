"""What an admin of the bed's cluster writes: profile, logins, allow-list, gateway.yml. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CLUSTER = "testbed"
PASSWORD = "three small boats"
USERS = ("alice", "bob", "carol")


def build_profile(known_hosts: Path, python: Path) -> dict[str, Any]:
    """The cluster profile; ``python`` is the interpreter of jobs, with jupyterlab beside it."""
    server = str(python.with_name("jupyterhub-singleuser"))

    def environment(title: str, **more: Any) -> dict[str, Any]:
        base = {"command": [server], "agent_python": str(python)}
        return {"title": {"en": title, "fr": title}, **base, **more}

    def partition(walltime: str, default: str, cores: int, **more: Any) -> dict[str, Any]:
        limits = {"max_walltime": walltime, "default_walltime": default}
        return {**limits, "max_cores": cores, "max_memory": "16G", **more}

    return {
        "name": CLUSTER,
        "title": {"en": "Test bed", "fr": "Banc d'essai"},
        "scheduler": {"kind": "slurm"},
        "login": {"hosts": [{"host": "login"}], "known_hosts": str(known_hosts)},
        "roles": {"observer": {"name": "observer"}, "tunnel": {"name": "tunnel"}},
        "partitions": {
            "interactive": partition("8h", "1h", 8),
            "small": partition("2h", "30m", 8),
            "gpu": partition("4h", "1h", 8, max_gpus=2),
            "long": partition("7d", "12h", 8),
        },
        "environments": {
            "jupyter": environment("JupyterLab"),
            "jupyter-module": environment("JupyterLab with modules", modules=["gcc/12.3"]),
            "broken": environment("A module that is not there", modules=["anaconda/2019.10"]),
            "dies": environment(
                "Ends at once",
                command=["/bin/sh", "-c", "echo 'the licence server is away' >&2; exit 3"],
            ),
        },
    }


def build_people() -> dict[str, Any]:
    """The table of logins: hub names and cluster users are equal here."""
    return {
        "people": [
            {"source": "dummy", "subject": name, "clusters": {CLUSTER: {"user": name}}}
            for name in USERS
        ]
    }


def build_allow_list() -> dict[str, Any]:
    """For whom the signer signs."""
    rules = {"users": list(USERS), "observer": ["observer"], "tunnel": ["tunnel"]}
    return {"clusters": {CLUSTER: rules}}


def build_settings(directory: Path, *, gateway_uid: int) -> dict[str, Any]:
    """gateway.yml. Ports are those of the hub's own network namespace: nobody else has them."""
    return {
        "state_directory": str(directory / "state"),
        "runtime_directory": str(directory / "run"),
        "profiles_directory": str(directory / "profiles"),
        "sign_in": {"kind": "dummy", "users": list(USERS), "password": PASSWORD},
        "hub": {"bind_url": "http://127.0.0.1:8000"},
        "signer": {
            "ca_key": str(directory / "signer" / "user_ca"),
            "allow_list": str(directory / "allow.yml"),
            "audit_log": str(directory / "signer" / "audit.jsonl"),
            "clients": [gateway_uid],
            "socket": str(directory / "signer-run" / "signer.sock"),
            "source_addresses": ["10.77.0.0/16"],
        },
        "identity": {"table": str(directory / "people.yml")},
    }
