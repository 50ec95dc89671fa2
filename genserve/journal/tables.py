"""The tables of the log and its read models, for SQLite and PostgreSQL; migrations bring a database to this shape.

All times are microseconds. Rows of ``events`` and ``commits`` are never updated or deleted: triggers refuse it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

LOG_SCHEMA = 1
"""Version of the meaning of ``events`` rows (what the hash covers, how payloads are encoded)."""

metadata = MetaData(naming_convention=NAMING)

Long = BigInteger().with_variant(Integer(), "sqlite")
"""Eight bytes on both databases, and SQLite's row id where it is a primary key."""

log_head = Table(
    "log_head",
    metadata,
    Column("id", Integer, nullable=False),
    Column("position", Long, nullable=False),
    Column("writer_epoch", Long, nullable=False),
    Column("chain_hash", LargeBinary, nullable=False),
    Column("recorded_us", Long, nullable=False),
    Column("schema_version", Integer, nullable=False),
    PrimaryKeyConstraint("id"),
)
"""One row. Its conditional update is the fence: no row updated means that another writer took over."""

events = Table(
    "events",
    metadata,
    Column("position", Long, nullable=False, autoincrement=False),
    Column("stream_id", Text, nullable=False),
    Column("stream_version", Long, nullable=False),
    Column("type", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("producer_id", Text),
    Column("producer_epoch", Long),
    Column("producer_seq", Long),
    Column("unit_index", Integer, nullable=False),
    Column("fence", Long, nullable=False),
    Column("occurred_us", Long, nullable=False),
    Column("recorded_us", Long, nullable=False),
    Column("causation_position", Long, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("commit_id", Long, nullable=False),
    Column("payload", Text, nullable=False),
    Column("chain_hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("position"),
    UniqueConstraint("stream_id", "stream_version"),
)
"""Columns in the order of contract.EventRow. ``unit_index`` counts the events of one producer sequence."""

_has_producer = events.c.producer_id.is_not(None)
Index(
    "uq_events_producer",
    events.c.producer_seq,
    events.c.producer_epoch,
    events.c.producer_id,
    events.c.unit_index,
    unique=True,
    sqlite_where=_has_producer,
    postgresql_where=_has_producer,
)
"""Sequence first: live producers then share a few index pages instead of dirtying one page each."""

producers = Table(
    "producers",
    metadata,
    Column("producer_id", Text, nullable=False),
    Column("epoch", Long, nullable=False),
    PrimaryKeyConstraint("producer_id"),
    sqlite_with_rowid=False,
)
"""Highest epoch of every producer; written when a producer appears or its epoch rises."""

commits = Table(
    "commits",
    metadata,
    Column("commit_id", Long, nullable=False, autoincrement=False),
    Column("first_position", Long, nullable=False),
    Column("last_position", Long, nullable=False),
    Column("writer_epoch", Long, nullable=False),
    Column("recorded_us", Long, nullable=False),
    Column("chain_hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("commit_id"),
)
"""One row per transaction; its id is its first position, its hash that of its last event."""

leases = Table(
    "leases",
    metadata,
    Column("name", Text, nullable=False),
    Column("holder", Text, nullable=False),
    Column("epoch", Long, nullable=False),
    Column("expires_us", Long, nullable=False),
    PrimaryKeyConstraint("name"),
)
"""Expiry by the database's clock."""

snapshots = Table(
    "snapshots",
    metadata,
    Column("name", Text, nullable=False),
    Column("position", Long, nullable=False),
    Column("fold_version", Integer, nullable=False),
    Column("codec", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("name", "position"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("name", Text, nullable=False),
    Column("position", Long, nullable=False),
    PrimaryKeyConstraint("name"),
)
"""How far readers in other processes have come."""

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("body_hash", Text, nullable=False),
    Column("request_ids", Text, nullable=False),
    Column("response_kind", Text, nullable=False),
    Column("first_position", Long, nullable=False),
    Column("last_position", Long, nullable=False),
    Column("recorded_us", Long, nullable=False),
    PrimaryKeyConstraint("tenant", "key"),
)
"""``request_ids`` is a JSON list."""

request_view = Table(
    "request_view",
    metadata,
    Column("request_id", Text, nullable=False),
    Column("media", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("group_id", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("steps", Long, nullable=False),
    Column("arrival_us", Long, nullable=False),
    Column("deadline_us", Long, nullable=False),
    PrimaryKeyConstraint("request_id"),
    Index(None, "tenant", "media", "arrival_us", "request_id"),
    Index(None, "group_id"),
)
"""What was asked for, written once. Columns in the order of views.RequestRow, up to ``deadline_us``."""

request_progress = Table(
    "request_progress",
    metadata,
    Column("request_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("steps_done", Long, nullable=False),
    Column("attempt", Long, nullable=False),
    Column("checkpoint_step", Long, nullable=False),
    Column("pauses", Long, nullable=False),
    Column("started_us", Long, nullable=False),
    Column("finished_us", Long, nullable=False),
    Column("error_code", Text, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("is_deleted", Boolean, nullable=False),
    Column("last_position", Long, nullable=False),
    PrimaryKeyConstraint("request_id"),
    sqlite_with_rowid=False,
)
"""Where it stands, rewritten with every group: narrow, so that 64 live requests are three pages and not thirty."""

artifacts = Table(
    "artifacts",
    metadata,
    Column("request_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("idx", Long, nullable=False),
    Column("step", Long, nullable=False),
    Column("uri", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size_bytes", Long, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("position", Long, nullable=False),
    PrimaryKeyConstraint("request_id", "kind", "idx", "step"),
)
"""Columns in the order of views.ArtifactRow."""
