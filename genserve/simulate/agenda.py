"""What will happen, in time order: a heap of (time, sequence); not a clock that moves by itself.

Ties are broken by the order in which things were put in, so that equal seeds give equal runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

Happening = Callable[[], None]


class Agenda:
    """Future happenings. Nothing is ever removed: whoever put in what became stale ignores it when it comes."""

    __slots__ = ("_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Happening]] = []
        self._sequence = 0

    def put(self, at_us: int, happening: Happening) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (at_us, self._sequence, happening))

    @property
    def next_us(self) -> int | None:
        """When the next thing happens."""
        return self._heap[0][0] if self._heap else None

    def take(self, at_us: int) -> list[Happening]:
        """Everything that happens at or before that time, in order."""
        due = []
        while self._heap and self._heap[0][0] <= at_us:
            due.append(heapq.heappop(self._heap)[2])
        return due
