"""What a worker has been told to do, in order; who waits for another worker lets others pass; not how it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from genserve.domain.request import Stage
from genserve.scheduling import protocol as p

Chore = p.RunSegment | p.HoldStage


class _Entry:
    __slots__ = ("chore", "is_ready", "waiting")

    def __init__(self, chore: Chore) -> None:
        self.chore = chore
        self.is_ready = True
        self.waiting: asyncio.Task[None] | None = None

    @property
    def segment_id(self) -> str:
        return self.chore.segment_id if isinstance(self.chore, p.RunSegment) else ""

    @property
    def after(self) -> str:
        return self.chore.after if isinstance(self.chore, p.RunSegment) else ""

    @property
    def is_shared(self) -> bool:
        return isinstance(self.chore, p.RunSegment) and len(self.chore.group) > 1


class Line:
    """Plain object inside a worker, used on its event loop. Nobody passes the segment that it comes after.

    Segments of groups don't pass each other: two workers that share two segments must agree on the first.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._news = asyncio.Event()

    def put(self, chore: Chore, *, until: Callable[[], Awaitable[None]] | None = None) -> None:
        """Queue a chore, which is not taken before ``until`` returns."""
        entry = _Entry(chore)
        if until is not None:
            entry.is_ready = False
            entry.waiting = asyncio.create_task(self._wait(entry, until))
        self._entries.append(entry)
        self._news.set()

    async def take(self) -> Chore:
        """The first that may be done now, once there is one."""
        while (entry := self._find()) is None:
            self._news.clear()
            await self._news.wait()
        self._entries.remove(entry)
        return entry.chore

    def wanted(self) -> frozenset[tuple[str, Stage]]:
        """The stages that queued segments will need."""
        return frozenset((e.chore.model, e.chore.stage) for e in self._entries if isinstance(e.chore, p.RunSegment))

    def clear(self, *, only_waiting: bool = False) -> list[str]:
        """Take everything out, or what waits for other workers and whatever comes after that; the segments' ids."""
        out: list[_Entry] = []
        for entry in self._entries:
            if not only_waiting or not entry.is_ready or entry.after in {e.segment_id for e in out if e.segment_id}:
                out.append(entry)
        for entry in out:
            self._entries.remove(entry)
            if entry.waiting is not None:
                entry.waiting.cancel()
        return [entry.segment_id for entry in out if entry.segment_id]

    async def _wait(self, entry: _Entry, until: Callable[[], Awaitable[None]]) -> None:
        await until()
        entry.is_ready = True
        self._news.set()

    def _find(self) -> _Entry | None:
        ahead: set[str] = set()
        is_shared_ahead = False
        for entry in self._entries:
            is_held_up = entry.after in ahead if entry.after else False
            if entry.is_ready and not is_held_up and not (entry.is_shared and is_shared_ahead):
                return entry
            is_shared_ahead = is_shared_ahead or entry.is_shared
            ahead.add(entry.segment_id)
        return None
