"""Events with their place in the log, as rows, and the hash chain over them; not for SQL.

Each row's hash covers the row before it and every field of its own, so an altered, missing or moved row
breaks the chain exactly where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

import msgspec

from genserve.domain.events import Recorded
from genserve.domain.ids import uuid7
from genserve.journal.codec import decode
from genserve.journal.contract import EventRow, Group, Head, Unit

_RANDOM_BITS = 74
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
_NOBODY = (None, None, None)
_STRIDE = 0x9E3779B97F4A7C15
"""Odd, so that consecutive positions spread over all random bits of an event id."""

_encode = msgspec.json.Encoder().encode


def chain(previous: bytes, fields: tuple[object, ...]) -> bytes:
    """Hash of a row without its own hash, on top of the previous row's (blake2b, 32 bytes)."""
    return blake2b(previous + _encode(fields), digest_size=32).digest()


def chain_of(previous: bytes, row: EventRow) -> bytes:
    return chain(previous, row[:-1])


def to_recorded(row: EventRow) -> Recorded:
    """Raises UnknownEvent for a type or version this code does not know."""
    return Recorded(
        position=row.position,
        stream=row.stream_id,
        version=row.stream_version,
        recorded_us=row.recorded_us,
        event=decode(row.type, row.schema_version, row.payload),
        occurred_us=row.occurred_us,
        event_id=row.event_id,
        causation_position=row.causation_position,
        fence=row.fence,
    )


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A unit that was accepted: the stream's version before it, its fence from now on, and the encoded events."""

    unit: Unit
    version: int
    fence: int
    payloads: tuple[str, ...]


class GroupBuilder:
    """Gives placed units their positions, ids and hashes; one builder serves one writer epoch."""

    def __init__(self, randomness: Callable[[int], int]) -> None:
        self._salt = randomness(_RANDOM_BITS)

    def build(self, head: Head, placed: Sequence[Placed], now_us: int) -> Group:
        """The next group after ``head``; ``now_us`` is raised to the head's time where a clock ran backwards."""
        now_us = max(now_us, head.recorded_us)
        rows: list[EventRow] = []
        batch: list[Recorded] = []
        previous = head.chain_hash
        for item in placed:
            for index, payload in enumerate(item.payloads):
                recorded = self._record(item, index, position=head.position + len(rows) + 1, now_us=now_us)
                fields = _fields(recorded, item.unit, index, head.position + 1, payload)
                previous = chain(previous, fields)
                rows.append(EventRow._make((*fields, previous)))
                batch.append(recorded)
        return Group(head.epoch, head.position, now_us, tuple(rows), tuple(batch))

    def _record(self, item: Placed, index: int, *, position: int, now_us: int) -> Recorded:
        unit = item.unit
        return Recorded(
            position,
            unit.stream,
            item.version + 1 + index,
            now_us,
            unit.events[index],
            unit.occurred_us or now_us,
            uuid7(now_us, (self._salt + position * _STRIDE) & _RANDOM_MASK),
            unit.causation_position,
            item.fence,
        )


def _fields(recorded: Recorded, unit: Unit, index: int, commit_id: int, payload: str) -> tuple[object, ...]:
    """An event's row without its hash, in the order of EventRow."""
    producer, event = unit.producer, recorded.event
    sender = _NOBODY if producer is None else (producer.producer_id, producer.epoch, producer.seq)
    return (
        recorded.position,
        recorded.stream,
        recorded.version,
        type(event).__name__,
        event.schema_version,
        event.kind.value,
        recorded.event_id,
        *sender,
        index,
        recorded.fence,
        recorded.occurred_us,
        recorded.recorded_us,
        recorded.causation_position,
        unit.correlation_id,
        commit_id,
        payload,
    )
