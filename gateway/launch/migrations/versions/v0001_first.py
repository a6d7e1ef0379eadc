"""Launches, their history, sealed starts and edge addresses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_ADOPTABLE = "state IN ('connecting', 'queued', 'ready', 'requested', 'starting', 'submitting')"


def upgrade() -> None:
    """Create the first schema."""
    op.create_table(
        "launches",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("cluster", sa.String(63), nullable=False),
        sa.Column("hub_user", sa.String(63), nullable=False),
        sa.Column("identity", sa.JSON, nullable=False),
        sa.Column("server_name", sa.String(63), nullable=False),
        sa.Column("cluster_user", sa.String(64), nullable=False),
        sa.Column("cluster_uid", sa.Integer),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("base_url", sa.String(1024), nullable=False),
        sa.Column("edge_ip", sa.String(15), nullable=False),
        sa.Column("edge_port", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.Column("job_id", sa.String(128)),
        sa.Column("node", sa.String(255)),
        sa.Column("directory", sa.String(4096)),
        sa.Column("restarts", sa.Integer, nullable=False),
        sa.Column("tunnel_mode", sa.String(32), nullable=False),
        sa.Column("submit_attempted_at", _MOMENT),
        sa.Column("job_seen_at", _MOMENT),
        sa.Column("job_started_at", _MOMENT),
        sa.Column("unannounced_since", _MOMENT),
        sa.Column("reached_nonce", sa.String(64)),
        sa.Column("former_nonce", sa.String(64)),
        sa.Column("offered_start_id", sa.String(32)),
        sa.Column("running_start_id", sa.String(32)),
        sa.Column("end_reason", sa.String(32)),
        sa.Column("end_words", sa.JSON),
        sa.Column("log_tail", sa.Text, nullable=False),
        sa.Column("token_id", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_launches"),
    )
    op.create_index(
        "ix_launches_one_per_server",
        "launches",
        ["hub_user", "server_name"],
        unique=True,
        sqlite_where=sa.text(_ADOPTABLE),
        postgresql_where=sa.text(_ADOPTABLE),
    )
    op.create_index("ix_launches_state", "launches", ["state"])
    op.create_index("ix_launches_hub_user_created_at", "launches", ["hub_user", "created_at"])
    op.create_table(
        "transitions",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("launch_id", sa.String(32), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("words", sa.JSON, nullable=False),
        sa.Column("by", sa.String(80), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_transitions"),
        sa.ForeignKeyConstraint(
            ["launch_id"], ["launches.id"], name="fk_transitions_launch_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_transitions_launch_id", "transitions", ["launch_id"])
    op.create_table(
        "starts",
        sa.Column("number", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("launch_id", sa.String(32), nullable=False),
        sa.Column("start_id", sa.String(32), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_starts"),
        sa.UniqueConstraint("start_id", name="uq_starts_start_id"),
        sa.ForeignKeyConstraint(
            ["launch_id"], ["launches.id"], name="fk_starts_launch_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_starts_launch_id", "starts", ["launch_id"])
    op.create_table(
        "edge_addresses",
        sa.Column("ip", sa.String(15), nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("launch_id", sa.String(32), nullable=False),
        sa.Column("released_at", _MOMENT),
        sa.PrimaryKeyConstraint("ip", name="pk_edge_addresses"),
        sa.UniqueConstraint("launch_id", name="uq_edge_addresses_launch_id"),
    )
