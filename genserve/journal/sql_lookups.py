"""What the writer reads before it judges an append: one indexed row for each question, however long the log is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from genserve.journal.contract import Found, Producer, StreamHead, Wanted
from genserve.journal.dialects import Prepared
from genserve.journal.sql_reader import keys_by_name
from genserve.journal.tables import events, producers


class Lookups:
    """Statements compiled once. One for all questions of a kind would scan the log on SQLite, or whole streams."""

    def __init__(self, syntax: Any) -> None:
        c = events.c
        newest = select(func.max(c.stream_version)).where(c.stream_id == bindparam("stream")).scalar_subquery()
        last = select(c.stream_version, c.fence).where(c.stream_id == bindparam("stream"), c.stream_version == newest)
        unit = select(func.min(c.position), func.max(c.position)).where(
            c.producer_seq == bindparam("seq"),
            c.producer_epoch == bindparam("epoch"),
            c.producer_id == bindparam("producer_id"),
        )
        epoch = select(producers.c.epoch).where(producers.c.producer_id == bindparam("producer_id"))
        self.last_of_stream = Prepared(last, syntax)
        self.unit = Prepared(unit, syntax)
        self.epoch = Prepared(epoch, syntax)


def find(connection: Connection, wanted: Wanted, lookups: Lookups) -> Found:
    """Units of producers that were never seen cannot be repetitions and are not looked for."""
    streams = {name: lookups.last_of_stream.one(connection, stream=name) for name in wanted.streams}
    epochs = {name: lookups.epoch.one(connection, producer_id=name) for name in wanted.producers}
    strangers = {name for name, row in epochs.items() if row is None}
    units = {
        producer: lookups.unit.one(connection, **_fields(producer))
        for producer in wanted.repeats
        if producer.producer_id not in strangers
    }
    return Found(
        streams={name: StreamHead(*row) for name, row in streams.items() if row is not None},
        producers={name: row[0] for name, row in epochs.items() if row is not None},
        repeats={producer: (row[0], row[1]) for producer, row in units.items() if row is not None and row[0]},
        keys=keys_by_name(connection, wanted.keys),
    )


def _fields(producer: Producer) -> dict[str, Any]:
    return {"producer_id": producer.producer_id, "epoch": producer.epoch, "seq": producer.seq}
