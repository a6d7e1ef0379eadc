"""The tables of the connector's database; portable types only (SQLite and PostgreSQL)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)

from gateway.launch.states import ADOPTABLE_STATES


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes, also where the database keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

launches: Final = Table(
    "launches",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("cluster", String(63), nullable=False),
    Column("hub_user", String(63), nullable=False),
    Column("identity", JSON, nullable=False),
    Column("server_name", String(63), nullable=False),
    Column("cluster_user", String(64), nullable=False),
    Column("cluster_uid", Integer),
    Column("options", JSON, nullable=False),
    Column("base_url", String(1024), nullable=False),
    Column("edge_ip", String(15), nullable=False),
    Column("edge_port", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("job_id", String(128)),
    Column("node", String(255)),
    Column("directory", String(4096)),
    Column("restarts", Integer, nullable=False),
    Column("tunnel_mode", String(32), nullable=False),
    Column("submit_attempted_at", UtcDateTime),
    Column("job_seen_at", UtcDateTime),
    Column("job_started_at", UtcDateTime),
    Column("unannounced_since", UtcDateTime),
    Column("reached_nonce", String(64)),
    Column("former_nonce", String(64)),
    Column("offered_start_id", String(32)),
    Column("running_start_id", String(32)),
    Column("end_reason", String(32)),
    Column("end_words", JSON),
    Column("log_tail", Text, nullable=False),
    Column("token_id", String(64)),
)

# Spelt out: the condition is part of the schema, the migration holds the same words.
_ADOPTABLE: Final = "state IN ({})".format(
    ", ".join(f"'{state.value}'" for state in sorted(ADOPTABLE_STATES))
)
ONE_LAUNCH_PER_SERVER: Final = Index(
    "ix_launches_one_per_server",
    launches.c.hub_user,
    launches.c.server_name,
    unique=True,
    sqlite_where=text(_ADOPTABLE),
    postgresql_where=text(_ADOPTABLE),
)
Index("ix_launches_state", launches.c.state)
Index("ix_launches_hub_user_created_at", launches.c.hub_user, launches.c.created_at)

transitions: Final = Table(
    "transitions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("launch_id", ForeignKey("launches.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("words", JSON, nullable=False),
    Column("by", String(80), nullable=False),
)

starts: Final = Table(
    "starts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("launch_id", ForeignKey("launches.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("start_id", String(32), nullable=False, unique=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

edge_addresses: Final = Table(
    "edge_addresses",
    metadata,
    Column("ip", String(15), primary_key=True),
    Column("port", Integer, nullable=False),
    Column("launch_id", String(32), nullable=False, unique=True),
    Column("released_at", UtcDateTime),
)
