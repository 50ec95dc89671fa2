"""Judges waiting appends against what the log already holds, in memory; not for storing them.

One bad append is refused alone: nothing it brought is staged, its neighbours are judged as if it had not come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from msgspec import structs

from genserve.journal.codec import encode, payload_limit
from genserve.journal.contract import (
    ANY,
    Found,
    Group,
    IdempotencyKey,
    Producer,
    Receipt,
    StoredKey,
    StreamHead,
    Unit,
    Wanted,
)
from genserve.journal.errors import Fenced, IdempotencyConflict, InvalidAppend, VersionConflict
from genserve.journal.rows import Placed

CACHED_HEADS = 100_000
"""Streams and producers whose heads stay in memory; the rest is read again when needed."""

NAMES_LENGTH = 500
"""Characters of a unit's stream, producer and correlation together."""

Sent = tuple[int, int]
"""Highest (epoch, sequence) seen from a producer; nothing above it was ever stored."""

_UNKNOWN_SEQ = 1 << 63
"""Of a producer that storage knew before us: each of its units may be a repetition and is looked up."""

_NEVER: Sent = (-1, -1)

K = TypeVar("K")
V = TypeVar("V")


class Bounded(OrderedDict[K, V], Generic[K, V]):
    """A dictionary that forgets its least recently written entries."""

    def remember(self, entries: dict[K, V]) -> None:
        for key, value in entries.items():
            self[key] = value
            self.move_to_end(key)

    def trim(self, limit: int) -> None:
        while len(self) > limit:
            self.popitem(last=False)


class Append:
    """One call: units that are stored together or not at all, already encoded."""

    __slots__ = ("event_count", "key", "payloads", "size_bytes", "units")

    def __init__(
        self, units: tuple[Unit, ...], payloads: tuple[tuple[str, ...], ...], key: IdempotencyKey | None
    ) -> None:
        self.units = units
        self.payloads = payloads
        self.key = key
        self.event_count = sum(map(len, payloads))
        self.size_bytes = sum(len(payload) for unit in payloads for payload in unit)

    @classmethod
    def encode(cls, units: Sequence[Unit], key: IdempotencyKey | None) -> Append:
        """Check and encode a call. Raises InvalidAppend."""
        if not units or not all(unit.events for unit in units):
            raise InvalidAppend("invalid_append", "an append needs at least one unit, and a unit at least one event")
        producers = [unit.producer for unit in units if unit.producer is not None]
        if len(set(producers)) < len(producers):
            raise InvalidAppend("invalid_append", "two units of one append have the same producer sequence")
        return cls(tuple(units), tuple(_payloads(unit) for unit in units), key)


def _payloads(unit: Unit) -> tuple[str, ...]:
    """Whatever a database could choke on is refused here, before it shares a group with others."""
    producer = unit.producer
    names = unit.stream + unit.correlation_id
    numbers = unit.fence | unit.occurred_us | unit.causation_position
    if producer is not None:
        names += producer.producer_id
        numbers |= producer.epoch | producer.seq
    if not unit.stream or len(names) > NAMES_LENGTH or not names.isprintable():
        raise InvalidAppend("invalid_append", f"not short plain names: {unit.stream[:80]!r}, {names[:300]!r}")
    if not 0 <= numbers < 1 << 63:  # or-ed together, they leave this range exactly if one of them does
        raise InvalidAppend("invalid_append", f"a number in a unit of {unit.stream} is not within 0 and 2**63")
    limit = payload_limit(unit.stream)
    return tuple([encode(event, limit) for event in unit.events])


class Admission:
    """What the log holds, as far as it matters to the next append; ``forget`` makes it read everything again."""

    def __init__(self) -> None:
        self._streams: Bounded[str, StreamHead] = Bounded()
        self._producers: Bounded[str, Sent] = Bounded()

    def wanted(self, appends: Iterable[Append]) -> Wanted:
        """What has to be read from storage before these appends can be judged."""
        streams: dict[str, None] = {}
        producers: dict[str, None] = {}
        repeats: dict[Producer, None] = {}
        keys: dict[tuple[str, str], None] = {}
        for append in appends:
            if append.key is not None:
                keys[append.key.tenant, append.key.key] = None
            for unit in append.units:
                if unit.stream not in self._streams:
                    streams[unit.stream] = None
                if unit.producer is not None:
                    self._want_producer(unit.producer, producers, repeats)
        return Wanted(tuple(streams), tuple(producers), tuple(repeats), tuple(keys))

    def _want_producer(self, producer: Producer, producers: dict[str, None], repeats: dict[Producer, None]) -> None:
        sent = self._producers.get(producer.producer_id)
        if sent is None:
            producers[producer.producer_id] = None
        if sent is None or (producer.epoch, producer.seq) <= sent:
            repeats[producer] = None

    def stage(self, found: Found, position: int) -> Stage:
        """A fresh group on top of ``position``; what storage found is remembered."""
        self._streams.remember(found.streams)
        self._producers.remember({name: (epoch, _UNKNOWN_SEQ) for name, epoch in found.producers.items()})
        return Stage(self._streams, self._producers, found, position)

    def settle(self, stage: Stage) -> None:
        """The staged group is durable. Forgetting happens here only, so that a stage never loses what it needs."""
        self._streams.remember(stage.streams)
        self._producers.remember(stage.producers)
        self._streams.trim(CACHED_HEADS)
        self._producers.trim(CACHED_HEADS)

    def forget(self) -> None:
        self._streams.clear()
        self._producers.clear()


class Stage:
    """A group while it is being put together."""

    def __init__(
        self,
        known_streams: dict[str, StreamHead],
        known_producers: dict[str, Sent],
        found: Found,
        position: int,
    ) -> None:
        self.placed: list[Placed] = []
        self.streams: dict[str, StreamHead] = {}
        self.producers: dict[str, Sent] = {}
        self.keys: dict[tuple[str, str], StoredKey] = {}
        self.position = position
        self._known_streams = known_streams
        self._known_producers = known_producers
        self._found = found
        self._units: dict[Producer, tuple[int, int]] = {}

    def admit(self, append: Append) -> Receipt:
        """Place an append and answer where it will stand.

        Raises VersionConflict, Fenced, IdempotencyConflict, or InvalidAppend when only some units are repetitions.
        """
        duplicate = self._find_duplicate(append)
        if duplicate is not None:
            return duplicate
        streams: dict[str, StreamHead] = {}
        producers: dict[str, Sent] = {}
        placed = []
        for unit, payloads in zip(append.units, append.payloads, strict=True):
            head = streams.get(unit.stream) or self._stream(unit.stream)
            _check_stream(unit, head)
            self._check_producer(unit, producers)
            fence = max(head.fence, unit.fence)
            placed.append(Placed(unit, head.version, fence, payloads))
            streams[unit.stream] = StreamHead(head.version + len(payloads), fence)
        self.streams |= streams
        self.producers |= producers
        return self._place(append, placed)

    def complete(self, group: Group) -> Group:
        """The group with what is stored beside its events: idempotency keys and risen producer epochs."""
        risen = ((name, sent[0]) for name, sent in self.producers.items() if sent[0] > self._known_epoch(name))
        return structs.replace(group, keys=tuple(self.keys.values()), epochs=tuple(risen))

    def _known_epoch(self, name: str) -> int:
        return self._known_producers.get(name, _NEVER)[0]

    def _place(self, append: Append, placed: list[Placed]) -> Receipt:
        first = position = self.position + 1
        for item in placed:
            after = position + len(item.payloads)
            if item.unit.producer is not None:
                self._units[item.unit.producer] = (position, after - 1)
            position = after
        self.placed += placed
        self.position = position - 1
        if append.key is not None:
            self.keys[append.key.tenant, append.key.key] = StoredKey(append.key, first, self.position)
        return Receipt(first, self.position)

    def _find_duplicate(self, append: Append) -> Receipt | None:
        if append.key is not None:
            name = (append.key.tenant, append.key.key)
            stored = self.keys.get(name) or self._found.keys.get(name)
            if stored is not None:
                if stored.key.body_hash != append.key.body_hash:
                    raise IdempotencyConflict(append.key.key)
                return Receipt(stored.first, stored.last, is_duplicate=True, idempotency=stored.key)
        answers = [self._repeat(unit.producer) for unit in append.units]
        known = [answer for answer in answers if answer is not None]
        if not known:
            return None
        if len(known) < len(answers):
            raise InvalidAppend("invalid_append", "some units of this append were stored before and some were not")
        return Receipt(known[0][0], known[-1][1], is_duplicate=True)

    def _repeat(self, producer: Producer | None) -> tuple[int, int] | None:
        if producer is None:
            return None
        return self._units.get(producer) or self._found.repeats.get(producer)

    def _stream(self, stream: str) -> StreamHead:
        return self.streams.get(stream) or self._known_streams.get(stream) or StreamHead()

    def _check_producer(self, unit: Unit, producers: dict[str, Sent]) -> None:
        producer = unit.producer
        if producer is None:
            return
        name = producer.producer_id
        sent = producers.get(name) or self._sent(name)
        if producer.epoch < sent[0]:
            raise Fenced(f"producer {name}", producer.epoch, sent[0])
        producers[name] = max(sent, (producer.epoch, producer.seq))

    def _sent(self, name: str) -> Sent:
        return self.producers.get(name) or self._known_producers.get(name) or _NEVER


def _check_stream(unit: Unit, head: StreamHead) -> None:
    if unit.fence and unit.fence < head.fence:
        raise Fenced(f"stream {unit.stream}", unit.fence, head.fence)
    if unit.expected not in (ANY, head.version):
        raise VersionConflict(unit.stream, unit.expected, head.version)
