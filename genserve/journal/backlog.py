"""Appends that wait for the next group, in order, and how much of them fits into one; not judging them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from genserve.journal.admission import Append
from genserve.journal.contract import Receipt
from genserve.journal.errors import InvalidAppend, JournalUnavailable

GROUP_EVENTS = 512
GROUP_BYTES = 1 << 20
BACKLOG_EVENTS = 16_384
"""Events of ``append_soon`` that may wait; they are the ones kept while the database is away."""


class Waiting:
    """One append on its way. Without ``answer`` nobody waits; ``from_hook`` appends go ahead of all others."""

    __slots__ = ("answer", "append", "from_hook", "is_alone")

    def __init__(self, append: Append, answer: asyncio.Future[Receipt] | None, from_hook: bool = False) -> None:
        self.append = append
        self.answer = answer
        self.from_hook = from_hook
        self.is_alone = False
        """Stored in a group of its own, because a group it was in was refused."""

    def succeed(self, receipt: Receipt) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(receipt)

    def fail(self, error: Exception) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)


class Backlog:
    """First in, first out, with a lane in front for what must come first."""

    def __init__(self) -> None:
        self._queue: deque[Waiting] = deque()
        self._unawaited = 0
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, waiting: Waiting) -> None:
        """Raises InvalidAppend over the size of a group, JournalUnavailable over the bound of unawaited events."""
        append = waiting.append
        if append.event_count > GROUP_EVENTS or append.size_bytes > GROUP_BYTES:
            text = f"{append.event_count} events, {append.size_bytes} bytes in one append; at most 512 and 1 MB"
            raise InvalidAppend("payload_too_large", text)
        if waiting.answer is None:
            if self._unawaited + append.event_count > BACKLOG_EVENTS:
                raise JournalUnavailable(f"{self._unawaited} events wait to be stored")
            self._unawaited += append.event_count
        self._queue.append(waiting)
        self.changed.set()

    def add_first(self, items: Iterable[Waiting]) -> None:
        """Put items in front, in their order."""
        for waiting in reversed(list(items)):
            self._unawaited += 0 if waiting.answer is not None else waiting.append.event_count
            self._queue.appendleft(waiting)
        self.changed.set()

    def take(self) -> list[Waiting]:
        """The next group: at most 512 events or 1 MB, in order."""
        taken: list[Waiting] = []
        events = size = 0
        while self._queue:
            waiting = self._queue[0]
            events += waiting.append.event_count
            size += waiting.append.size_bytes
            if taken and (events > GROUP_EVENTS or size > GROUP_BYTES or waiting.is_alone or taken[0].is_alone):
                break
            taken.append(self._queue.popleft())
            if waiting.answer is None:
                self._unawaited -= waiting.append.event_count
        return taken

    def drop_awaited(self, error: Exception) -> None:
        """Fail whatever somebody waits for; the rest stays in order."""
        kept = [waiting for waiting in self._queue if waiting.answer is None]
        for waiting in self._queue:
            waiting.fail(error)
        self._queue = deque(kept)

    def drop_all(self, error: Exception) -> None:
        self.drop_awaited(error)
        self._queue.clear()
        self._unawaited = 0
