"""From a URL to a storage or a reader: `sqlite:///path`, `postgresql+psycopg://...`, `memory://`."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from genserve.errors import CallerError
from genserve.journal import upgrade
from genserve.journal.contract import Reader, Storage
from genserve.journal.memory import MemoryStorage
from genserve.journal.sql import SqlStorage
from genserve.journal.sql_reader import SqlReader

FORMS = "sqlite:///path, postgresql+psycopg://user@host/database or memory://"


def open_storage(url: str) -> Storage:
    """For the one writer. Raises CallerError (invalid_database_url) or InvariantBroken (schema_mismatch)."""
    if url == upgrade.MEMORY:
        return MemoryStorage()
    parsed = _parse(url)
    upgrade.check(url)
    return SqlStorage(parsed)


def open_reader(url: str) -> Reader:
    """Read-only, for any process. A log in memory has no readers elsewhere: use Journal.reader."""
    return SqlReader(_parse(url))


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise CallerError("invalid_database_url", f"not a database URL: use {FORMS}") from error
    is_sqlite = parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:")
    if not is_sqlite and parsed.drivername != "postgresql+psycopg":
        raise CallerError("invalid_database_url", f"cannot use {parsed.drivername}: use {FORMS}")
    return parsed
