"""The journal's vocabulary and the two seams below it (Storage, Reader); not an implementation.

Values are frozen and cannot form cycles, hence ``gc=False``. All times are microseconds. Positions count the log from
1, versions count a stream from 1; 0 means "nothing yet".
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

from msgspec import Struct

from genserve.domain.events import AnyEvent, Recorded
from genserve.journal.views import ArtifactRow, RequestRow

ANY = -1
"""Expected version of a unit that does not care."""


class Producer(Struct, frozen=True, gc=False):
    """Who sends a unit and which one it is; ``seq`` rises by one with every unit and never repeats in an epoch.

    A repeated (producer_id, epoch, seq) gets its first answer again. A lower epoch than the highest seen is fenced.
    """

    producer_id: str
    epoch: int
    seq: int


class Unit(Struct, frozen=True, gc=False):
    """Events for one stream, appended together.

    ``expected`` is the stream's version before the append (0: a new stream) or ANY. ``fence`` must not be below the
    highest one the stream has seen; 0 is unfenced. ``occurred_us`` is the producer's clock, 0 for "when recorded".
    """

    stream: str
    events: tuple[AnyEvent, ...]
    expected: int = ANY
    producer: Producer | None = None
    fence: int = 0
    occurred_us: int = 0
    causation_position: int = 0
    correlation_id: str = ""


class IdempotencyKey(Struct, frozen=True, gc=False):
    """A client's key with what it stands for, stored in the transaction of the submission it protects."""

    tenant: str
    key: str
    body_hash: str
    request_ids: tuple[str, ...]
    response_kind: str


class Receipt(Struct, frozen=True, gc=False):
    """Durably stored at positions ``first`` to ``last``.

    ``is_duplicate``: this is the answer of the first time, and nothing was appended now. ``idempotency`` is then the
    stored key (with the request ids of the first time) where a key made it a duplicate.
    """

    first: int
    last: int
    is_duplicate: bool = False
    idempotency: IdempotencyKey | None = None


class Head(Struct, frozen=True, gc=False):
    """Where the log stands, as the database knows it."""

    position: int = 0
    epoch: int = 0
    chain_hash: bytes = bytes(32)
    recorded_us: int = 0


class EventRow(NamedTuple):
    """One row of ``events``, in column order.

    ``fence`` is the highest the stream has seen, this event's included, so that the last event has the stream's.
    ``chain_hash`` covers every other field and the previous row's hash.
    """

    position: int
    stream_id: str
    stream_version: int
    type: str
    schema_version: int
    kind: str
    event_id: str
    producer_id: str | None
    producer_epoch: int | None
    producer_seq: int | None
    unit_index: int
    fence: int
    occurred_us: int
    recorded_us: int
    causation_position: int
    correlation_id: str
    commit_id: int
    payload: str
    chain_hash: bytes


class StoredKey(Struct, frozen=True, gc=False):
    """An idempotency key and the positions of the submission it protects."""

    key: IdempotencyKey
    first: int
    last: int
    recorded_us: int = 0


class Group(Struct, frozen=True, gc=False):
    """One transaction: everything that becomes durable together. ``commit_id`` is its first position."""

    epoch: int
    previous: int
    recorded_us: int
    rows: tuple[EventRow, ...]
    batch: tuple[Recorded, ...]
    keys: tuple[StoredKey, ...] = ()
    epochs: tuple[tuple[str, int], ...] = ()
    """Producers that are new or came with a higher epoch."""

    @property
    def commit_id(self) -> int:
        return self.previous + 1

    @property
    def last(self) -> int:
        return self.previous + len(self.rows)

    @property
    def chain_hash(self) -> bytes:
        return self.rows[-1].chain_hash


class CommitRow(NamedTuple):
    """One row of ``commits``."""

    commit_id: int
    first_position: int
    last_position: int
    writer_epoch: int
    recorded_us: int
    chain_hash: bytes

    @classmethod
    def of(cls, group: Group) -> CommitRow:
        first = group.commit_id
        return cls(first, first, group.last, group.epoch, group.recorded_us, group.chain_hash)


class StreamHead(Struct, frozen=True, gc=False):
    """Highest version and highest fence of a stream."""

    version: int = 0
    fence: int = 0


class Wanted(Struct, frozen=True, gc=False):
    """What the writer has to know before it can judge the waiting units: heads of streams, epochs of producers,
    where units stand that may be repetitions, and idempotency keys."""

    streams: tuple[str, ...] = ()
    producers: tuple[str, ...] = ()
    repeats: tuple[Producer, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.streams or self.producers or self.repeats or self.keys)


class Found(Struct, frozen=True, gc=False):
    """The answer to Wanted; what is absent was never written."""

    streams: dict[str, StreamHead] = {}
    producers: dict[str, int] = {}
    repeats: dict[Producer, tuple[int, int]] = {}
    keys: dict[tuple[str, str], StoredKey] = {}


class Snapshot(Struct, frozen=True, gc=False):
    """Folded state after ``position``: a cache, never the truth."""

    name: str
    position: int
    fold_version: int
    codec: str
    data: bytes


class Upkeep(IntEnum):
    """Whether a storage needs housekeeping: not at all, when there is time, or before the next commit."""

    NONE = 0
    WELCOME = 1
    URGENT = 2


class StorageAway(Exception):
    """The database cannot be reached or did not answer; whether a commit happened is unknown."""


class StorageRefused(Exception):
    """The database will not take this group because of what is in it; nothing of it was stored."""


class Reader(Protocol):
    """Read-only access to the log and the read models, from any thread of any process.

    Raises JournalUnavailable when the database is away and UnknownEvent for events newer than this code.
    """

    def head(self) -> Head: ...
    def read(self, after: int, limit: int = 1000) -> list[Recorded]: ...
    def read_stream(self, stream: str, after_version: int = 0, limit: int = 1000) -> list[Recorded]: ...
    def read_rows(self, after: int, limit: int = 1000) -> list[EventRow]: ...
    def read_commits(self, after: int, limit: int = 1000) -> list[CommitRow]: ...
    def find_request(self, request_id: str) -> RequestRow | None: ...
    def list_requests(
        self, media: str = "", tenant: str = "", after_id: str = "", limit: int = 20, order: str = "desc"
    ) -> list[RequestRow]: ...
    def list_group(self, group_id: str) -> list[RequestRow]: ...
    def list_artifacts(self, request_id: str) -> list[ArtifactRow]: ...
    def find_key(self, tenant: str, key: str) -> StoredKey | None: ...
    def load_snapshot(self, name: str, fold_version: int) -> Snapshot | None: ...
    def close(self) -> None: ...


class Storage(Protocol):
    """Where the one writer keeps its log: called from one thread at a time, never concurrently.

    ``is_blocking`` storages are driven from a thread of their own; the others run inline, without threads.
    Every method may raise StorageAway. A group is stored wholly or not at all.
    """

    is_blocking: bool

    def head(self) -> Head: ...
    def take_over(self, holder: str, lease_us: int) -> Head: ...
    def renew_lease(self, holder: str, epoch: int, lease_us: int) -> int:
        """Return the current epoch; the lease was renewed when it is ``epoch``."""

    def find(self, wanted: Wanted) -> Found: ...
    def commit(self, group: Group) -> Upkeep:
        """Store a group; returns whether to call ``maintain``.

        Raises Fenced when the head is not (group.epoch, group.previous), StorageRefused when the data is at fault.
        """

    def maintain(self) -> None:
        """Housekeeping after an acknowledged commit, such as a WAL checkpoint."""

    def store_snapshot(self, snapshot: Snapshot) -> None: ...
    def reader(self) -> Reader: ...
    def close(self) -> None: ...
