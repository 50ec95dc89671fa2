"""A log in memory, for tests and simulation: same answers as a database, gone with the process."""

from __future__ import annotations

import time
from collections.abc import Callable

from genserve.domain.events import Recorded
from genserve.journal.contract import (
    CommitRow,
    EventRow,
    Found,
    Group,
    Head,
    Snapshot,
    StoredKey,
    StreamHead,
    Upkeep,
    Wanted,
)
from genserve.journal.errors import Fenced, LeaseHeld
from genserve.journal.rows import to_recorded
from genserve.journal.views import LATENTS, ArtifactRow, Projection, RequestRow, ViewChanges


class MemoryStorage:
    """One log, shared by everyone who holds this object; ``clock_us`` stands in for the database's clock."""

    is_blocking = False

    def __init__(self, clock_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._clock_us = clock_us
        self._epoch = 0
        self._lease = ("", 0)
        self.rows: list[EventRow] = []
        self.commits: list[CommitRow] = []
        self.keys: dict[tuple[str, str], StoredKey] = {}
        self.requests: dict[str, RequestRow] = {}
        self.artifacts: dict[tuple[str, str, int, int], ArtifactRow] = {}
        self.snapshots: dict[tuple[str, int], Snapshot] = {}
        self._streams: dict[str, StreamHead] = {}
        self._producers: dict[str, int] = {}
        self._units: dict[tuple[str, int, int], tuple[int, int]] = {}
        self._projection = Projection(lambda ids: {i: self.requests[i] for i in ids if i in self.requests})

    def head(self) -> Head:
        if not self.rows:
            return Head(epoch=self._epoch)
        return Head(len(self.rows), self._epoch, self.rows[-1].chain_hash, self.rows[-1].recorded_us)

    def take_over(self, holder: str, lease_us: int) -> Head:
        now = self._clock_us()
        held_by, expires = self._lease
        if held_by not in ("", holder) and expires > now:
            raise LeaseHeld("writer", held_by, (expires - now) / 1e6)
        self._epoch += 1
        self._lease = (holder, now + lease_us)
        self._projection.forget()
        return self.head()

    def renew_lease(self, holder: str, epoch: int, lease_us: int) -> int:
        if epoch == self._epoch:
            self._lease = (holder, self._clock_us() + lease_us)
        return self._epoch

    def find(self, wanted: Wanted) -> Found:
        units = {producer: (producer.producer_id, producer.epoch, producer.seq) for producer in wanted.repeats}
        return Found(
            streams={name: self._streams[name] for name in wanted.streams if name in self._streams},
            producers={name: self._producers[name] for name in wanted.producers if name in self._producers},
            repeats={producer: self._units[unit] for producer, unit in units.items() if unit in self._units},
            keys={name: self.keys[name] for name in wanted.keys if name in self.keys},
        )

    def commit(self, group: Group) -> Upkeep:
        if (self._epoch, len(self.rows)) != (group.epoch, group.previous):
            raise Fenced("writer", group.epoch, self._epoch)
        for row in group.rows:
            self._index(row)
        self.rows += group.rows
        self._producers |= dict(group.epochs)
        self.keys |= {(stored.key.tenant, stored.key.key): stored for stored in group.keys}
        self._show(self._projection.changes(group.batch))
        self.commits.append(CommitRow.of(group))
        return Upkeep.NONE

    def maintain(self) -> None:
        """Nothing to do."""

    def store_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots[snapshot.name, snapshot.position] = snapshot

    def reader(self) -> MemoryReader:
        return MemoryReader(self)

    def close(self) -> None:
        """The log stays, for whoever opens a journal on it next."""

    def _index(self, row: EventRow) -> None:
        stream = self._streams.get(row.stream_id, StreamHead())
        self._streams[row.stream_id] = StreamHead(row.stream_version, max(stream.fence, row.fence))
        if row.producer_id is not None and row.producer_epoch is not None and row.producer_seq is not None:
            unit = (row.producer_id, row.producer_epoch, row.producer_seq)
            self._units[unit] = (self._units.get(unit, (row.position, 0))[0], row.position)

    def _show(self, changes: ViewChanges) -> None:
        for row in (*changes.inserts, *changes.updates):
            self.requests[row.request_id] = row
        for artifact in changes.artifacts:
            self.artifacts[artifact.request_id, artifact.kind, artifact.idx, artifact.step] = artifact
        for key, artifact in self.artifacts.items() if changes.ended else ():
            if artifact.kind == LATENTS and artifact.request_id in changes.ended:
                self.artifacts[key] = artifact._replace(state="garbage")


class MemoryReader:
    """Reads what the storage holds."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage

    def head(self) -> Head:
        return self._storage.head()

    def read(self, after: int, limit: int = 1000) -> list[Recorded]:
        return [to_recorded(row) for row in self.read_rows(after, limit)]

    def read_rows(self, after: int, limit: int = 1000) -> list[EventRow]:
        return self._storage.rows[after : after + limit]

    def read_stream(self, stream: str, after_version: int = 0, limit: int = 1000) -> list[Recorded]:
        rows = [row for row in self._storage.rows if row.stream_id == stream and row.stream_version > after_version]
        return [to_recorded(row) for row in rows[:limit]]

    def read_commits(self, after: int, limit: int = 1000) -> list[CommitRow]:
        return [commit for commit in self._storage.commits if commit.commit_id > after][:limit]

    def find_request(self, request_id: str) -> RequestRow | None:
        return self._storage.requests.get(request_id)

    def list_requests(
        self, media: str = "", tenant: str = "", after_id: str = "", limit: int = 20, order: str = "desc"
    ) -> list[RequestRow]:
        rows = [
            row
            for row in self._storage.requests.values()
            if not row.is_deleted and media in ("", row.media) and row.tenant == tenant
        ]
        is_descending = order == "desc"
        rows.sort(key=_age, reverse=is_descending)
        start = self._storage.requests.get(after_id)
        if start is not None:
            rows = [row for row in rows if (_age(row) < _age(start) if is_descending else _age(row) > _age(start))]
        return rows[:limit]

    def list_group(self, group_id: str) -> list[RequestRow]:
        return sorted((row for row in self._storage.requests.values() if row.group_id == group_id), key=_age)

    def list_artifacts(self, request_id: str) -> list[ArtifactRow]:
        found = (row for row in self._storage.artifacts.values() if row.request_id == request_id)
        return sorted(found, key=lambda row: row.position)

    def find_key(self, tenant: str, key: str) -> StoredKey | None:
        return self._storage.keys.get((tenant, key))

    def load_snapshot(self, name: str, fold_version: int) -> Snapshot | None:
        ours = (s for s in self._storage.snapshots.values() if (s.name, s.fold_version) == (name, fold_version))
        found = (snapshot for snapshot in ours if snapshot.position <= len(self._storage.rows))
        return max(found, key=lambda snapshot: snapshot.position, default=None)

    def close(self) -> None:
        """Nothing to release."""


def _age(row: RequestRow) -> tuple[int, str]:
    return (row.arrival_us, row.request_id)
