"""Which database URLs a log can be at; not opening them (see open)."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from genserve.errors import CallerError

MEMORY = "memory://"
FORMS = f"sqlite:///path, postgresql+psycopg://user@host/database or {MEMORY}"


def parse_url(url: str) -> URL:
    """The URL of a database that can hold a log; raises CallerError ``invalid_database_url``."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise CallerError("invalid_database_url", f"not a database URL: use {FORMS}") from error
    is_sqlite = parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:")
    if not is_sqlite and parsed.drivername != "postgresql+psycopg":
        raise CallerError("invalid_database_url", f"cannot use {parsed.drivername}: use {FORMS}")
    return parsed


def as_url(database: str) -> str:
    """A URL as it is, the path of a SQLite file as one."""
    return database if "://" in database else f"sqlite:///{Path(database).absolute()}"


def is_file(url: str) -> bool:
    """Whether the log is a file, of SQLite's, and not reached over a network."""
    return parse_url(url).get_backend_name() == "sqlite"


def missing_file(database: str) -> str:
    """The path of a SQLite file that does not exist, which SQLite would create by looking for it; else ""."""
    url = as_url(database)
    path = parse_url(url).database or ""
    return path if is_file(url) and not Path(path).exists() else ""


def shown(url: str) -> str:
    """The URL without its password."""
    return parse_url(url).render_as_string(hide_password=True) if url != MEMORY else url
