"""Alembic's entry: migrates the connection it is given, or `-x url=...`; knows the journal's tables only."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from genserve.journal.tables import metadata


def migrate(connection: Connection) -> None:
    """One transaction on both databases: a failed migration leaves nothing behind."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as own:
        migrate(own)
