"""Between rows of the tables and frozen records; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from gateway.launch.states import EndReason, LaunchRecord, LaunchState, Transition
from gateway.text import Fixed, Words
from gateway.values.endpoints import EdgeAddress
from gateway.values.identity import ClusterUser, Identity
from gateway.values.jobs import JobId

CHANGEABLE: Final = frozenset(
    {
        "job_id",
        "node",
        "directory",
        "restarts",
        "submit_attempted_at",
        "job_seen_at",
        "job_started_at",
        "unannounced_since",
        "reached_nonce",
        "former_nonce",
        "offered_start_id",
        "running_start_id",
        "end_reason",
        "end_words",
        "log_tail",
        "token_id",
    }
)
"""The fields of a record that may change after it was made, besides its state."""


@dataclass(frozen=True, slots=True)
class NewLaunch:
    """What is known of a launch when it is asked for; everything in it has been validated."""

    id: str
    cluster: str
    identity: Identity
    server_name: str
    cluster_user: ClusterUser
    options: dict[str, Any]
    base_url: str


def build_words(words: Words) -> dict[str, str]:
    """Return words as they are stored: in both languages."""
    return words.as_dict()


def parse_words(stored: Mapping[str, str]) -> Words:
    """Return stored words."""
    return Fixed(stored["en"], stored["fr"])


def build_identity(identity: Identity) -> dict[str, Any]:
    """Return an identity as it is stored."""
    return {
        "source": identity.source,
        "subject": identity.subject,
        "claims": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in identity.claims.items()
        },
    }


def build_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return field changes as column values.

    :raises ValueError: a field that may not change, or is none.
    """
    if unknown := changes.keys() - CHANGEABLE:
        raise ValueError(f"not changeable: {sorted(unknown)}")
    values = dict(changes)
    if values.get("end_words") is not None:
        values["end_words"] = build_words(values["end_words"])
    if values.get("end_reason") is not None:
        values["end_reason"] = EndReason(values["end_reason"]).value
    return values


def parse_record(row: Mapping[str, Any], history: Iterable[Mapping[str, Any]] = ()) -> LaunchRecord:
    """Build the record of a row and its history's rows."""
    plain = {
        item.name: row[item.name]
        for item in fields(LaunchRecord)
        if item.name in row and item.name not in ("identity", "cluster_user", "state", "job_id")
    }
    plain["end_words"] = parse_words(row["end_words"]) if row["end_words"] else None
    plain["end_reason"] = EndReason(row["end_reason"]) if row["end_reason"] else None
    stored = row["identity"]
    return LaunchRecord(
        **plain,
        identity=Identity(
            stored["source"],
            stored["subject"],
            row["hub_user"],
            {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in stored["claims"].items()
            },
        ),
        cluster_user=ClusterUser(row["cluster"], row["cluster_user"], row["cluster_uid"]),
        edge=EdgeAddress(row["edge_ip"], row["edge_port"]),
        state=LaunchState(row["state"]),
        job_id=JobId(row["job_id"]) if row["job_id"] is not None else None,
        history=tuple(
            Transition(
                line["at"], LaunchState(line["state"]), parse_words(line["words"]), line["by"]
            )
            for line in history
        ),
    )
