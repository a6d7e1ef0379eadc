"""What an admin of the bed's cluster writes: profile, logins, allow-list, gateway.yml. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

CLUSTER = "testbed"
EXAMPLE = Path(__file__).parents[2] / "cluster_profiles" / "testbed.yml"
DIES = "echo 'the licence server is away' >&2; exit 3"
PASSWORD = "three small boats"
USERS = ("alice", "bob", "carol")


def build_profile(known_hosts: Path, python: Path) -> Any:
    """The shipped example, with two environments that fail.

    ``python`` is the interpreter of jobs, with jupyterlab beside it.
    """
    programs = str(python.parent)
    profile = YAML(typ="rt", pure=True).load(
        EXAMPLE.read_text().replace("/opt/jupyter/bin", programs)
    )
    profile["login"]["known_hosts"] = str(known_hosts)
    server = f"{programs}/jupyterhub-singleuser"
    for name, words, more in (
        ("broken", "A module that is not there", {"modules": ["anaconda/2019.10"]}),
        ("dies", "Ends at once", {"command": ["/bin/sh", "-c", DIES]}),
    ):
        base = {"command": [server], "agent_python": str(python)}
        profile["environments"][name] = {"title": {"en": words, "fr": words}, **base, **more}
    return profile


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
