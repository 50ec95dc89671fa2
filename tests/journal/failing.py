"""A storage whose database goes away on command; the log below stays what it is."""

from __future__ import annotations

from typing import Any

from genserve.journal.contract import Found, Group, Head, StorageAway, Upkeep, Wanted
from genserve.journal.memory import MemoryStorage


class FailingStorage(MemoryStorage):
    """``fail_before``, ``fail_after``: the next commits do not happen, or happen and lose their answer."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.fail_before = 0
        self.fail_after = 0
        self.is_away = False

    def head(self) -> Head:
        self._check()
        return super().head()

    def find(self, wanted: Wanted) -> Found:
        self._check()
        return super().find(wanted)

    def commit(self, group: Group) -> Upkeep:
        self._check()
        if self.fail_before:
            self.fail_before -= 1
            raise StorageAway("gone before the commit")
        upkeep = super().commit(group)
        if self.fail_after:
            self.fail_after -= 1
            raise StorageAway("gone after the commit")
        return upkeep

    def _check(self) -> None:
        if self.is_away:
            raise StorageAway("gone")
