"""The log in SQLite or PostgreSQL, written by one connection; not for reading by others (see sql_reader).

A group is one transaction: the head moves (the fence), events, commit, keys and read models follow, or nothing does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from sqlalchemy import URL, Connection, Table, and_, bindparam, literal_column, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.elements import ClauseElement

from genserve.errors import GenServeError
from genserve.journal.contract import (
    CommitRow,
    Found,
    Group,
    Head,
    Snapshot,
    StorageAway,
    StorageRefused,
    Upkeep,
    Wanted,
)
from genserve.journal.dialects import Dialect, Prepared, dialect_for
from genserve.journal.errors import Fenced, LeaseHeld
from genserve.journal.snapshots import seal
from genserve.journal.sql_lookups import Lookups, find
from genserve.journal.sql_reader import SqlReader, key_values, read_head, requests_by_id
from genserve.journal.tables import (
    artifacts,
    commits,
    idempotency_keys,
    leases,
    log_head,
    producers,
    request_progress,
    request_view,
)
from genserve.journal.tables import snapshots as snapshot_table
from genserve.journal.views import Projection, ViewChanges

WRITER = "writer"
"""Name of the writer's lease."""

CHECKPOINT_PAGES = 500
"""Pages of SQLite's write-ahead log after which a quiet moment is used to move them to the database file."""

URGENT_PAGES = 2_000
"""Pages (8 MB, some 8 ms of work) after which it is done even under load, while the next group gathers."""

KEPT_SNAPSHOTS = 3

T = TypeVar("T")


class SqlStorage:
    """See Storage. After an error the connection is dropped and the next call makes a new one."""

    is_blocking = True

    def __init__(self, url: URL) -> None:
        self._url = url
        self._dialect = dialect_for(url)
        self._engine = self._dialect.write_engine(url)
        self._connection: Connection | None = None
        self._statements = _Statements(self._dialect)
        self._lookups = Lookups(self._dialect.syntax)
        self._projection = Projection(lambda ids: requests_by_id(self._connected(), ids))
        self._pages = 0

    def head(self) -> Head:
        return self._transact(read_head)

    def take_over(self, holder: str, lease_us: int) -> Head:
        self._projection.forget()
        return self._transact(lambda connection: self._take_over(connection, holder, lease_us))

    def renew_lease(self, holder: str, epoch: int, lease_us: int) -> int:
        return self._transact(lambda connection: self._renew(connection, holder, epoch, lease_us))

    def find(self, wanted: Wanted) -> Found:
        return self._transact(lambda connection: find(connection, wanted, self._lookups))

    def commit(self, group: Group) -> Upkeep:
        try:
            self._transact(lambda connection: self._commit(connection, group))
        except Exception:
            self._projection.forget()
            raise
        self._pages += self._dialect.pages(len(group.rows))
        return Upkeep((self._pages > CHECKPOINT_PAGES) + (self._pages > URGENT_PAGES))

    def maintain(self) -> None:
        """Failures wait for the next commit, which will meet them too."""
        self._pages = 0
        try:
            self._dialect.checkpoint(self._connected())
            self._connected().rollback()
        except SQLAlchemyError:
            self._disconnect()

    def store_snapshot(self, snapshot: Snapshot) -> None:
        self._transact(lambda connection: _store_snapshot(connection, snapshot))

    def reader(self) -> SqlReader:
        return SqlReader(self._url)

    def close(self) -> None:
        if self._connection is not None:
            self.maintain()
        self._disconnect()
        self._engine.dispose()

    # ── transactions ─────────────────────────────────────────────────────────────────────────────────────

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """Raises StorageRefused where the data is at fault, StorageAway for everything else the database says."""
        try:
            connection = self._connected()
            with connection.begin():
                return work(connection)
        except GenServeError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise StorageRefused(str(error)) from error
        except (SQLAlchemyError, self._driver.Error, OSError) as error:
            cause = getattr(error, "orig", error)
            if isinstance(cause, (self._driver.IntegrityError, self._driver.DataError)):
                raise StorageRefused(str(cause)) from error
            self._disconnect()
            raise StorageAway(f"{type(cause).__name__}: {cause}".strip()) from error

    @property
    def _driver(self) -> Any:
        return self._engine.dialect.dbapi

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._projection.forget()
        if connection is not None:
            connection.invalidate()
            connection.close()

    # ── inside a transaction ─────────────────────────────────────────────────────────────────────────────

    def _now_us(self, connection: Connection) -> int:
        return int(connection.execute(text(f"SELECT {self._dialect.now_us}")).scalar_one())

    def _take_over(self, connection: Connection, holder: str, lease_us: int) -> Head:
        connection.execute(select(log_head.c.id).with_for_update())
        now_us = self._now_us(connection)
        held = connection.execute(select(leases).where(leases.c.name == WRITER)).one_or_none()
        if held is not None and held.holder != holder and held.expires_us > now_us:
            raise LeaseHeld(WRITER, held.holder, (held.expires_us - now_us) / 1e6)
        connection.execute(log_head.update().values(writer_epoch=log_head.c.writer_epoch + 1))
        head = read_head(connection)
        connection.execute(leases.delete().where(leases.c.name == WRITER))
        lease = {"name": WRITER, "holder": holder, "epoch": head.epoch, "expires_us": now_us + lease_us}
        connection.execute(leases.insert(), lease)
        return head

    def _renew(self, connection: Connection, holder: str, epoch: int, lease_us: int) -> int:
        expires_us = self._now_us(connection) + lease_us
        mine = and_(leases.c.name == WRITER, leases.c.holder == holder, leases.c.epoch == epoch)
        connection.execute(leases.update().where(mine).values(expires_us=expires_us))
        return read_head(connection).epoch

    def _commit(self, connection: Connection, group: Group) -> None:
        statements = self._statements
        moved = statements.move_head.run_named(
            connection,
            last=group.last,
            hash=group.chain_hash,
            now_us=group.recorded_us,
            epoch=group.epoch,
            previous=group.previous,
        )
        if moved != 1:
            raise Fenced(WRITER, group.epoch, read_head(connection).epoch)
        self._dialect.insert_events(connection, group.rows)
        statements.insert_commit.run(connection, [CommitRow.of(group)])
        if group.keys:
            statements.insert_key.run(connection, [key_values(stored) for stored in group.keys])
        if group.epochs:
            statements.put_producer.run(connection, group.epochs)
        self._show(connection, self._projection.changes(group.batch))
        self._dialect.notify(connection, group.last)

    def _show(self, connection: Connection, changes: ViewChanges) -> None:
        statements = self._statements
        if changes.inserts:
            rows = [msgspec.structs.astuple(row) for row in changes.inserts]
            fixed = len(request_view.columns)
            statements.insert_request.run(connection, [row[:fixed] for row in rows])
            statements.insert_progress.run(connection, [(row[0], *row[fixed:]) for row in rows])
        if changes.updates:
            self._dialect.update_requests(connection, changes.updates)
        if changes.artifacts:
            statements.put_artifact.run(connection, changes.artifacts)
        if changes.ended:
            statements.drop_latents.run(connection, [(request_id,) for request_id in changes.ended])


class _Statements:
    """What a commit executes, compiled once."""

    def __init__(self, dialect: Dialect) -> None:
        def prepare(statement: ClauseElement) -> Prepared:
            return Prepared(statement, dialect.syntax)

        self.move_head = prepare(_move_head())
        self.insert_commit = prepare(commits.insert())
        self.insert_key = prepare(idempotency_keys.insert())
        self.insert_request = prepare(request_view.insert())
        self.insert_progress = prepare(request_progress.insert())
        self.put_producer = prepare(_put(dialect, producers))
        self.put_artifact = prepare(_put(dialect, artifacts))
        self.drop_latents = prepare(_drop_latents())


def _move_head() -> ClauseElement:
    is_ours = and_(log_head.c.writer_epoch == bindparam("epoch"), log_head.c.position == bindparam("previous"))
    names = {"position": "last", "chain_hash": "hash", "recorded_us": "now_us"}
    return log_head.update().where(is_ours).values({column: bindparam(name) for column, name in names.items()})


def _put(dialect: Dialect, table: Table) -> ClauseElement:
    """Insert a row, or replace the one with the same key."""
    statement = dialect.upsert(table)
    keys = [column.name for column in table.primary_key]
    values = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    result: ClauseElement = statement.on_conflict_do_update(index_elements=keys, set_=values)
    return result


def _drop_latents() -> ClauseElement:
    of_request = and_(
        artifacts.c.request_id == bindparam("of_request"), artifacts.c.kind == literal_column("'latents'")
    )
    return artifacts.update().where(of_request).values(state=literal_column("'garbage'"))


def _store_snapshot(connection: Connection, snapshot: Snapshot) -> None:
    table = snapshot_table
    same = and_(table.c.name == snapshot.name, table.c.position == snapshot.position)
    connection.execute(table.delete().where(same))
    connection.execute(table.insert(), {**msgspec.structs.asdict(snapshot), "hash": seal(snapshot)})
    mine = table.c.name == snapshot.name
    newest = select(table.c.position).where(mine).order_by(table.c.position.desc()).limit(KEPT_SNAPSHOTS)
    connection.execute(table.delete().where(mine, table.c.position.not_in(newest.scalar_subquery())))
