"""The log, its commits and head, and the read models beside it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SEALED = ("events", "commits")

FUNCTION = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; END $$
"""


def upgrade() -> None:
    create_tables()
    op.execute(sa.text("INSERT INTO log_head VALUES (1, 0, 0, :hash, 0, 1)").bindparams(hash=bytes(32)))
    if op.get_bind().dialect.name == "postgresql":
        seal_postgresql()
    else:
        seal_sqlite()


def downgrade() -> None:
    raise NotImplementedError("a log is never taken apart: restore a copy of the database instead")


def seal_sqlite() -> None:
    for table in SEALED:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


def seal_postgresql() -> None:
    op.execute(FUNCTION)
    for table in SEALED:
        for verb, each in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.split()[0].lower()} BEFORE {verb} ON {table} "
                f"FOR EACH {each} EXECUTE FUNCTION refuse_change()"
            )


def create_tables() -> None:
    op.create_table(
        "artifacts",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("idx", LONG, nullable=False),
        sa.Column("step", LONG, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", LONG, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("position", LONG, nullable=False),
        sa.PrimaryKeyConstraint("request_id", "kind", "idx", "step", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "commits",
        sa.Column("commit_id", LONG, autoincrement=False, nullable=False),
        sa.Column("first_position", LONG, nullable=False),
        sa.Column("last_position", LONG, nullable=False),
        sa.Column("writer_epoch", LONG, nullable=False),
        sa.Column("recorded_us", LONG, nullable=False),
        sa.Column("chain_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("commit_id", name=op.f("pk_commits")),
    )
    op.create_table(
        "events",
        sa.Column("position", LONG, autoincrement=False, nullable=False),
        sa.Column("stream_id", sa.Text(), nullable=False),
        sa.Column("stream_version", LONG, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("producer_id", sa.Text(), nullable=True),
        sa.Column("producer_epoch", LONG, nullable=True),
        sa.Column("producer_seq", LONG, nullable=True),
        sa.Column("unit_index", sa.Integer(), nullable=False),
        sa.Column("fence", LONG, nullable=False),
        sa.Column("occurred_us", LONG, nullable=False),
        sa.Column("recorded_us", LONG, nullable=False),
        sa.Column("causation_position", LONG, nullable=False),
        sa.Column("correlation_id", sa.Text(), nullable=False),
        sa.Column("commit_id", LONG, nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("chain_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_events")),
        sa.UniqueConstraint("stream_id", "stream_version", name=op.f("uq_events_stream_id_stream_version")),
    )
    op.create_index(
        "uq_events_producer",
        "events",
        ["producer_seq", "producer_epoch", "producer_id", "unit_index"],
        unique=True,
        sqlite_where=sa.text("producer_id IS NOT NULL"),
        postgresql_where=sa.text("producer_id IS NOT NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.Text(), nullable=False),
        sa.Column("request_ids", sa.Text(), nullable=False),
        sa.Column("response_kind", sa.Text(), nullable=False),
        sa.Column("first_position", LONG, nullable=False),
        sa.Column("last_position", LONG, nullable=False),
        sa.Column("recorded_us", LONG, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", LONG, nullable=False),
        sa.Column("expires_us", LONG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "log_head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("position", LONG, nullable=False),
        sa.Column("writer_epoch", LONG, nullable=False),
        sa.Column("chain_hash", sa.LargeBinary(), nullable=False),
        sa.Column("recorded_us", LONG, nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_head")),
    )
    op.create_table(
        "producers",
        sa.Column("producer_id", sa.Text(), nullable=False),
        sa.Column("epoch", LONG, nullable=False),
        sa.PrimaryKeyConstraint("producer_id", name=op.f("pk_producers")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "request_progress",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("steps_done", LONG, nullable=False),
        sa.Column("attempt", LONG, nullable=False),
        sa.Column("checkpoint_step", LONG, nullable=False),
        sa.Column("pauses", LONG, nullable=False),
        sa.Column("started_us", LONG, nullable=False),
        sa.Column("finished_us", LONG, nullable=False),
        sa.Column("error_code", sa.Text(), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("last_position", LONG, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_request_progress")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "request_view",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("media", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("steps", LONG, nullable=False),
        sa.Column("arrival_us", LONG, nullable=False),
        sa.Column("deadline_us", LONG, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_request_view")),
    )
    op.create_index(op.f("ix_request_view_group_id"), "request_view", ["group_id"], unique=False)
    op.create_index(
        op.f("ix_request_view_tenant_media_arrival_us_request_id"),
        "request_view",
        ["tenant", "media", "arrival_us", "request_id"],
        unique=False,
    )
    op.create_table(
        "snapshots",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", LONG, nullable=False),
        sa.Column("fold_version", sa.Integer(), nullable=False),
        sa.Column("codec", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", "position", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "subscriptions",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", LONG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_subscriptions")),
    )
