"""Brings a database to this code's schema and says where one stands; works from an installed wheel too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

import genserve
from genserve.errors import InvariantBroken
from genserve.journal.errors import JournalUnavailable
from genserve.journal.urls import MEMORY, missing_file, parse_url, shown

MIGRATIONS = Path(genserve.__file__).parent.parent / "migrations"
"""Beside the package, in a checkout as in site-packages; not imported, since other projects use that name too."""

_LOCK = 0x67656E7365727665
"""PostgreSQL advisory lock: two processes that upgrade at once wait for each other."""


def upgrade(url: str) -> str:
    """Run every migration that is missing, in one transaction, and return the schema's revision.

    Raises CallerError ``invalid_database_url``, or JournalUnavailable where the database cannot be used.
    """
    if url == MEMORY:
        return latest()
    with _engine(url) as engine, engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return _revision(connection) or ""


def current(url: str) -> str | None:
    """The revision a database stands at; None when it was never set up. Raises as ``upgrade`` does."""
    if url == MEMORY:
        return latest()
    if missing_file(url):
        return None
    with _engine(url) as engine, engine.connect() as connection:
        return _revision(connection)


def latest() -> str:
    """The revision this code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def check(url: str) -> None:
    """Raise InvariantBroken (schema_mismatch) unless the database stands exactly at this code's revision."""
    if current(url) != latest():
        found = current(url) or "an empty database"
        text_ = f"the database is at {found}, this code needs {latest()}: run `genserve db upgrade`"
        raise InvariantBroken("schema_mismatch", text_)


def _config() -> Config:
    return Config(str(MIGRATIONS / "alembic.ini"))


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    is_sqlite = parse_url(url).get_backend_name() == "sqlite"
    engine = create_engine(url, connect_args={} if is_sqlite else {"connect_timeout": 5})
    if is_sqlite:
        make_transactional(engine)
    try:
        yield engine
    except DBAPIError as error:
        raise JournalUnavailable(f"{shown(url)}: {str(error.orig).strip()}") from error
    finally:
        engine.dispose()


def make_transactional(engine: Engine) -> None:
    """Give SQLite real transactions, also around DDL: Python's driver would otherwise commit at will."""

    @event.listens_for(engine, "connect")
    def _no_implicit_begin(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
