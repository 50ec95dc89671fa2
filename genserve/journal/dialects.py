"""The few things SQLite and PostgreSQL do differently for us; everything else is one code path (see sql)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from sqlalchemy import URL, Connection, Engine, Table, bindparam, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ClauseElement

from genserve.journal import tables
from genserve.journal.contract import EventRow
from genserve.journal.views import RequestRow

BUSY_S = 5.0
"""How long SQLite waits for another connection's lock before the database counts as away."""

CHANGING = tuple(column.name for column in tables.request_progress.columns if not column.primary_key)

_PROGRESS = attrgetter(*(column.name for column in tables.request_progress.columns))

CHANNEL = "genserve_log"
"""PostgreSQL notifies it once per commit, with the last position, as a hint: readers read from their own cursor."""


class Prepared:
    """A Core statement compiled once; ``names`` are its parameters in order."""

    def __init__(self, statement: ClauseElement, dialect: Any) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(compiled.positiontup)

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Execute for each row; its values are in the order of ``names``."""
        connection.exec_driver_sql(self.sql, list(rows))

    def run_named(self, connection: Connection, **values: Any) -> int:
        """Execute once; returns the number of rows changed."""
        return connection.exec_driver_sql(self.sql, tuple(values[name] for name in self.names)).rowcount

    def one(self, connection: Connection, **values: Any) -> Any:
        """The first row of a query, or None."""
        return connection.exec_driver_sql(self.sql, tuple(values[name] for name in self.names)).first()


class Dialect(Protocol):
    """One database's ways."""

    syntax: Any
    now_us: str

    def upsert(self, table: Table) -> Any:
        """An INSERT that can say ON CONFLICT."""

    def write_engine(self, url: URL) -> Engine: ...
    def read_engine(self, url: URL) -> Engine: ...
    def insert_events(self, connection: Connection, rows: Sequence[EventRow]) -> None: ...
    def update_requests(self, connection: Connection, rows: Sequence[RequestRow]) -> None: ...
    def notify(self, connection: Connection, position: int) -> None: ...
    def checkpoint(self, connection: Connection) -> None: ...
    def pages(self, rows: int) -> int:
        """How many pages of write-ahead log a commit of so many rows leaves for ``checkpoint``."""


class Sqlite:
    """WAL with synchronous=FULL. The write engine's one connection is the only one that writes or checkpoints."""

    syntax: Any = sqlite.dialect(paramstyle="qmark")
    now_us = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000"

    def __init__(self) -> None:
        self._insert_events = Prepared(tables.events.insert(), self.syntax)
        self._update_requests = _update_one(self.syntax)
        self._progress = attrgetter(*(name.removeprefix("new_") for name in self._update_requests.names))

    def upsert(self, table: Table) -> Any:
        return sqlite.insert(table)

    def write_engine(self, url: URL) -> Engine:
        engine = create_engine(url, connect_args={"timeout": BUSY_S, "check_same_thread": False})

        @event.listens_for(engine, "connect")
        def _configure(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0", "cache_size=-32000"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def read_engine(self, url: URL) -> Engine:
        path = quote(str(Path(url.database or "").absolute()))

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_S, check_same_thread=False)

        return create_engine(url, creator=connect)

    def insert_events(self, connection: Connection, rows: Sequence[EventRow]) -> None:
        self._insert_events.run(connection, rows)

    def update_requests(self, connection: Connection, rows: Sequence[RequestRow]) -> None:
        self._update_requests.run(connection, [self._progress(row) for row in rows])

    def notify(self, connection: Connection, position: int) -> None:
        """SQLite has no notifications: readers poll."""

    def checkpoint(self, connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").close()

    def pages(self, rows: int) -> int:
        return 8 + rows // 2


class Postgresql:
    """Events go in by binary COPY (three times the rows of an INSERT per second), view rows as one JSON parameter."""

    syntax: Any = postgresql.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
    now_us = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"

    def __init__(self) -> None:
        self._types = [str(column.type.compile(self.syntax)).lower() for column in tables.events.columns]
        self._copy = f"COPY events ({', '.join(EventRow._fields)}) FROM STDIN (FORMAT BINARY)"
        self._update = _update_many(self.syntax)

    def upsert(self, table: Table) -> Any:
        return postgresql.insert(table)

    def write_engine(self, url: URL) -> Engine:
        """A writer that hangs in a transaction gives up its locks, so that its successor can start."""
        options = "-c statement_timeout=10000 -c idle_in_transaction_session_timeout=5000"
        return create_engine(url, paramstyle="format", connect_args={"connect_timeout": 5, "options": options})

    def read_engine(self, url: URL) -> Engine:
        options = "-c default_transaction_read_only=on"
        arguments = {"connect_timeout": 5, "options": options}
        return create_engine(url, connect_args=arguments, pool_pre_ping=True)

    def insert_events(self, connection: Connection, rows: Sequence[EventRow]) -> None:
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(self._copy) as copy:
            copy.set_types(self._types)
            for row in rows:
                copy.write_row(row)

    def update_requests(self, connection: Connection, rows: Sequence[RequestRow]) -> None:
        connection.exec_driver_sql(self._update, (msgspec.json.encode([_PROGRESS(row) for row in rows]).decode(),))

    def notify(self, connection: Connection, position: int) -> None:
        connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (CHANNEL, str(position)))

    def checkpoint(self, connection: Connection) -> None:
        """PostgreSQL does this itself."""

    def pages(self, rows: int) -> int:
        return 0


def dialect_for(url: URL) -> Dialect:
    return Postgresql() if url.get_backend_name() == "postgresql" else Sqlite()


def _update_one(syntax: Any) -> Prepared:
    table = tables.request_progress
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in CHANGING}
    return Prepared(table.update().where(table.c.request_id == bindparam("new_request_id")).values(values), syntax)


def _update_many(syntax: Any) -> str:
    """Its one parameter is a JSON list of rows of request_progress; only names from tables.py are in the text."""
    columns = tables.request_progress.columns
    fields = ", ".join(f"CAST(row ->> {i} AS {c.type.compile(syntax)}) AS {c.name}" for i, c in enumerate(columns))
    values = ", ".join(f"{name} = changed.{name}" for name in CHANGING)
    return (
        f"UPDATE request_progress SET {values} FROM "  # noqa: S608
        f"(SELECT {fields} FROM json_array_elements(CAST(%s AS json)) AS row) AS changed "
        "WHERE request_progress.request_id = changed.request_id"
    )
