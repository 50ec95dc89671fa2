"""In-process subscribers, fed from memory after each commit; not for other processes (they use a Reader).

A subscriber that falls behind its buffer is switched to reads from storage until it has caught up; it never
slows the writer and never misses or repeats an event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from genserve.domain.events import Recorded

BUFFERED_EVENTS = 4096
READ_LIMIT = 1000

Batch = Sequence[Recorded]
Read = Callable[[int, int], Awaitable[Batch]]


class Subscription:
    """Batches of events after a position, in order, as an async iterator; it ends when the journal closes."""

    def __init__(self, after: int, head: int, read: Read) -> None:
        self.position = after
        self._head = head
        self._read = read
        self._batches: deque[Batch] = deque()
        self._buffered = 0
        self._is_live = after == head
        self.is_closed = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Batch:
        """Raises the error that stopped the journal, once everything committed before it was delivered."""
        while True:
            if self._batches:
                return self._take(self._batches.popleft())
            if not self._is_live and self.position < self._head:
                return await self._catch_up()
            self._is_live = True
            if self.is_closed:
                raise self._error or StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def publish(self, batch: Batch) -> None:
        """Called by the journal, on its event loop."""
        self._head = batch[-1].position
        if self._is_live:
            self._batches.append(batch)
            self._buffered += len(batch)
            if self._buffered > BUFFERED_EVENTS:
                self._fall_behind()
        self._changed.set()

    def close(self, error: Exception | None = None) -> None:
        if self.is_closed:
            return
        self.is_closed, self._error = True, error
        self._changed.set()

    def _take(self, batch: Batch) -> Batch:
        self._buffered -= len(batch)
        self.position = batch[-1].position
        return batch

    def _fall_behind(self) -> None:
        self._batches.clear()
        self._buffered = 0
        self._is_live = False

    async def _catch_up(self) -> Batch:
        batch = await self._read(self.position, READ_LIMIT)
        self.position = batch[-1].position
        self._is_live = self.position >= self._head
        return batch
