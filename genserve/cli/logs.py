"""A recorded log as commands read it: named by URL, by file, or by the settings; not what they make of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genserve.domain.events import Recorded
    from genserve.journal.contract import Reader

PAGE = 1000


@contextmanager
def open_log(database: str = "") -> Iterator[Reader]:
    """Read-only; closed at the end. Raises CallerError ``log_not_found`` for a file that does not exist."""
    from genserve.config import load_settings
    from genserve.errors import CallerError
    from genserve.journal.open import open_reader
    from genserve.journal.urls import missing_file

    named = database or load_settings().database
    if missing := missing_file(named):
        raise CallerError("log_not_found", f"there is no log at {missing}")
    reader = open_reader(named)
    try:
        yield reader
    finally:
        reader.close()


def read_history(database: str = "", *, after: int = 0) -> Iterator[Recorded]:
    """All events of a log beyond a position."""
    with open_log(database) as reader:
        while page := reader.read(after, PAGE):
            yield from page
            after = page[-1].position
