"""Reading the log and its read models from SQLite or PostgreSQL, in any process; never writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import URL, Connection, Row, Select, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from genserve.domain.events import Recorded
from genserve.journal.contract import CommitRow, EventRow, Head, IdempotencyKey, Snapshot, StoredKey
from genserve.journal.dialects import dialect_for
from genserve.journal.errors import JournalUnavailable
from genserve.journal.rows import to_recorded
from genserve.journal.snapshots import newest_valid
from genserve.journal.tables import (
    artifacts,
    commits,
    events,
    idempotency_keys,
    log_head,
    request_progress,
    request_view,
    snapshots,
)
from genserve.journal.views import ArtifactRow, RequestRow

T = TypeVar("T")


class SqlReader:
    """See Reader. Every call sees one committed state of the database, never half a group."""

    def __init__(self, url: URL) -> None:
        self._engine = dialect_for(url).read_engine(url)

    def head(self) -> Head:
        return self._read(read_head)

    def read(self, after: int, limit: int = 1000) -> list[Recorded]:
        return [to_recorded(row) for row in self.read_rows(after, limit)]

    def read_rows(self, after: int, limit: int = 1000) -> list[EventRow]:
        query = select(events).where(events.c.position > after).order_by(events.c.position).limit(limit)
        return [EventRow._make(row) for row in self._rows(query)]

    def read_stream(self, stream: str, after_version: int = 0, limit: int = 1000) -> list[Recorded]:
        is_later = (events.c.stream_id == stream) & (events.c.stream_version > after_version)
        query = select(events).where(is_later).order_by(events.c.stream_version).limit(limit)
        return [to_recorded(EventRow._make(row)) for row in self._rows(query)]

    def read_commits(self, after: int, limit: int = 1000) -> list[CommitRow]:
        query = select(commits).where(commits.c.commit_id > after).order_by(commits.c.commit_id).limit(limit)
        return [CommitRow._make(row) for row in self._rows(query)]

    def find_request(self, request_id: str) -> RequestRow | None:
        rows = self._read(lambda connection: requests_by_id(connection, [request_id]))
        return rows.get(request_id)

    def list_requests(
        self, media: str = "", tenant: str = "", after_id: str = "", limit: int = 20, order: str = "desc"
    ) -> list[RequestRow]:
        """One tenant's requests by arrival, without deleted ones; ``after_id`` is the last one of the page before."""
        view = request_view
        age = tuple_(view.c.arrival_us, view.c.request_id)
        query = _requests().where(view.c.tenant == tenant, request_progress.c.is_deleted.is_(False))
        if media:
            query = query.where(view.c.media == media)
        last = self.find_request(after_id) if after_id else None
        if last is not None:
            at = tuple_(last.arrival_us, last.request_id)
            query = query.where(age < at if order == "desc" else age > at)
        columns = (view.c.arrival_us, view.c.request_id)
        query = query.order_by(*(column.desc() if order == "desc" else column.asc() for column in columns))
        return [_request(row) for row in self._rows(query.limit(limit))]

    def list_group(self, group_id: str) -> list[RequestRow]:
        """The n requests of one call, in the order of their submission."""
        view = request_view
        query = _requests().where(view.c.group_id == group_id).order_by(view.c.arrival_us, view.c.request_id)
        return [_request(row) for row in self._rows(query)]

    def list_artifacts(self, request_id: str) -> list[ArtifactRow]:
        query = select(artifacts).where(artifacts.c.request_id == request_id).order_by(artifacts.c.position)
        return [ArtifactRow._make(row) for row in self._rows(query)]

    def find_key(self, tenant: str, key: str) -> StoredKey | None:
        return self._read(lambda connection: keys_by_name(connection, [(tenant, key)])).get((tenant, key))

    def load_snapshot(self, name: str, fold_version: int) -> Snapshot | None:
        """The newest one that is unharmed, of this fold version and not ahead of the log."""
        ours = (snapshots.c.name == name) & (snapshots.c.fold_version == fold_version)
        query = select(snapshots).where(ours).order_by(snapshots.c.position.desc())
        sealed = [(_snapshot(row), row.hash) for row in self._rows(query)]
        return newest_valid(sealed, head=self.head().position)

    def close(self) -> None:
        self._engine.dispose()

    def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        return self._read(lambda connection: connection.execute(query).all())

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise JournalUnavailable(str(getattr(error, "orig", error))) from error


def read_head(connection: Connection) -> Head:
    c = log_head.c
    row = connection.execute(select(c.position, c.writer_epoch, c.chain_hash, c.recorded_us)).one()
    return Head(*row)


def _requests() -> Select[Any]:
    """Both halves of a request, in the order of RequestRow."""
    progress = [column for column in request_progress.columns if not column.primary_key]
    joined = request_view.join(request_progress, request_view.c.request_id == request_progress.c.request_id)
    return select(*request_view.columns, *progress).select_from(joined)


def requests_by_id(connection: Connection, request_ids: list[str]) -> dict[str, RequestRow]:
    query = _requests().where(request_view.c.request_id.in_(request_ids))
    return {row.request_id: _request(row) for row in connection.execute(query)}


def keys_by_name(connection: Connection, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], StoredKey]:
    if not names:
        return {}
    table = idempotency_keys
    rows = connection.execute(select(table).where(tuple_(table.c.tenant, table.c.key).in_(list(names))))
    return {(row.tenant, row.key): _stored_key(row) for row in rows}


def key_values(stored: StoredKey) -> tuple[Any, ...]:
    """A row of ``idempotency_keys``, in column order."""
    key = stored.key
    request_ids = msgspec.json.encode(key.request_ids).decode()
    values = (key.tenant, key.key, key.body_hash, request_ids, key.response_kind)
    return (*values, stored.first, stored.last, stored.recorded_us)


def _stored_key(row: Row[Any]) -> StoredKey:
    request_ids = msgspec.json.decode(row.request_ids, type=tuple[str, ...])
    key = IdempotencyKey(row.tenant, row.key, row.body_hash, request_ids, row.response_kind)
    return StoredKey(key, row.first_position, row.last_position, row.recorded_us)


def _request(row: Row[Any]) -> RequestRow:
    return RequestRow(*tuple(row))


def _snapshot(row: Row[Any]) -> Snapshot:
    return Snapshot(row.name, row.position, row.fold_version, row.codec, row.data)
