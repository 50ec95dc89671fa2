"""From a URL to a storage or a reader: `sqlite:///path`, `postgresql+psycopg://...`, `memory://`."""

from __future__ import annotations

from genserve.journal import upgrade
from genserve.journal.contract import Reader, Storage
from genserve.journal.memory import MemoryStorage
from genserve.journal.sql import SqlStorage
from genserve.journal.sql_reader import SqlReader
from genserve.journal.urls import MEMORY, as_url, parse_url


def open_storage(url: str) -> Storage:
    """For the one writer. Raises CallerError (invalid_database_url) or InvariantBroken (schema_mismatch)."""
    if url == MEMORY:
        return MemoryStorage()
    parsed = parse_url(url)
    upgrade.check(url)
    return SqlStorage(parsed)


def open_reader(url: str) -> Reader:
    """Read-only, for any process; a SQLite file may be named by its path alone.

    A log in memory has no readers elsewhere: use Journal.reader.
    """
    return SqlReader(parse_url(as_url(url)))
