"""How much of a timeline its GPUs worked, and how much they idled although somebody waited; not why (see decisions)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

from msgspec import Struct

from genserve.audit.timeline import Slice, Timeline


class Idleness(Struct, frozen=True):
    """One GPU: microseconds in which it ran something, and ``bubbles`` behind a slice at whose end a request waited."""

    worker_id: str
    busy_us: int
    bubbles: tuple[int, ...]


def idleness_of(timeline: Timeline) -> list[Idleness]:
    """Of every GPU that ran something. A request waits from its submission, or its pause, until it begins to run.

    A bubble lasts until the GPU has work again or nobody waits any more; that of a GPU which a planner keeps for a
    wider group counts as well.
    """
    queue = _Queue(timeline)
    found = []
    for worker_id in timeline.workers:
        spans = _merged(s for s in timeline.slices if s.worker_id == worker_id)
        gaps = [(before, after) for (_, before), (after, _) in pairwise(spans) if queue.depth(before)]
        bubbles = tuple(queue.filled_us(before, after) for before, after in gaps)
        found.append(Idleness(worker_id, sum(b - a for a, b in spans), bubbles))
    return found


def _merged(slices: Iterable[Slice]) -> list[tuple[int, int]]:
    """What a GPU ran, from and to; slices that touch are one."""
    spans: list[tuple[int, int]] = []
    for piece in sorted(slices, key=lambda s: s.from_us):
        if spans and piece.from_us <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], piece.to_us))
        else:
            spans.append((piece.from_us, piece.to_us))
    return spans


class _Queue:
    """How many wait, by time."""

    def __init__(self, timeline: Timeline) -> None:
        self._depths = timeline.depths
        self._times = [at_us for at_us, _ in timeline.depths]

    def _index(self, at_us: int) -> int:
        return bisect_right(self._times, at_us) - 1

    def depth(self, at_us: int) -> int:
        index = self._index(at_us)
        return self._depths[index][1] if index >= 0 else 0

    def filled_us(self, from_us: int, to_us: int) -> int:
        """From there until the queue is empty, at most to there."""
        later = self._depths[self._index(from_us) + 1 :]
        empty_us = next((at_us for at_us, depth in later if not depth), to_us)
        return min(empty_us, to_us) - from_us
