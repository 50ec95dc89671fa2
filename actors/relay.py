"""What others wait for a worker to reach: ends of its segments, and its changes of residency put into the log."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from genserve.scheduling import protocol as p

MAX_REMEMBERED = 1_000
"""Ended segments whose ids are kept, so that a repeated command or question is recognised, and changes nobody took."""


class Milestones:
    """Ends of segments, reached or still to come. A segment that never came is waited for until it comes or all are
    given up.
    """

    def __init__(self) -> None:
        self._ends: OrderedDict[str, asyncio.Future[p.Left | None]] = OrderedDict()

    def reach(self, segment_id: str, left: p.Left | None) -> None:
        """None: it will not run, and what comes after it is void."""
        end = self._end(segment_id)
        if not end.done():
            end.set_result(left)
        done = [name for name, future in self._ends.items() if future.done()]
        for name in done[: max(0, len(done) - MAX_REMEMBERED)]:
            del self._ends[name]

    def find(self, segment_id: str) -> p.Left:
        """Who left a segment that has ended."""
        end = self._ends.get(segment_id)
        return (end.result() if end is not None and end.done() else None) or p.Left()

    async def wait(self, segment_id: str) -> p.Left | None:
        return await asyncio.shield(self._end(segment_id))

    def give_up(self) -> None:
        """Nothing that was still to come will come."""
        for segment_id in tuple(self._ends):
            self.reach(segment_id, None)
        self._ends.clear()

    def _end(self, segment_id: str) -> asyncio.Future[p.Left | None]:
        if segment_id not in self._ends:
            self._ends[segment_id] = asyncio.get_running_loop().create_future()
        return self._ends[segment_id]


class Ledger:
    """Changes of residency in order, each kept until the scheduler has recorded it."""

    def __init__(self) -> None:
        self._count = 0
        self._recorded = 0
        self._changes: OrderedDict[int, p.StageChange] = OrderedDict()
        self._news = asyncio.Event()

    def add(self, change: p.StageChange) -> int:
        """Its number; the oldest is forgotten when nobody has asked for very long."""
        self._count += 1
        self._changes[self._count] = change
        if len(self._changes) > MAX_REMEMBERED:
            self._changes.popitem(last=False)
        self._news.set()
        return self._count

    async def since(self, recorded: int) -> tuple[tuple[int, p.StageChange], ...]:
        """Everything beyond ``recorded``, as soon as there is anything; up to there the scheduler has recorded it."""
        self._recorded = max(self._recorded, recorded)
        for number in [n for n in self._changes if n <= recorded]:
            del self._changes[number]
        self._news.set()
        while not self._changes:
            self._news.clear()
            await self._news.wait()
        return tuple(self._changes.items())

    async def recorded(self, number: int) -> None:
        """Returns when the log has that change, or nobody will put it there any more."""
        while self._recorded < number and number in self._changes:
            self._news.clear()
            await self._news.wait()

    def clear(self) -> None:
        """What is held now will be told by joining anew."""
        self._changes.clear()
        self._news.set()
