"""Small makers for journal tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from genserve.domain.events import PlanDecided, Recorded, RequestSubmitted, StepsFinished
from genserve.journal import ANY, Journal, Producer, Storage, Unit
from tests.builders import a_request


def submitted(request_id: str = "r1", **changes: Any) -> Unit:
    spec = a_request(request_id, **changes)
    return Unit(f"request/{request_id}", (RequestSubmitted(spec),), expected=0)


def steps(
    stream: str = "request/r1", *, at: int = 0, count: int = 1, expected: int = ANY, seq: int | None = None, **more: Any
) -> Unit:
    """``count`` step events, the first from step ``at``; ``seq`` makes it the unit of a producer."""
    events = tuple(StepsFinished("s1", 0, at + i, at + i + 1, 50_000) for i in range(count))
    producer = None if seq is None else Producer(more.pop("producer", "actor"), more.pop("epoch", 1), seq)
    return Unit(stream, events, expected=expected, producer=producer, **more)


def decided(input_position: int, *, note: str = "") -> Unit:
    decision = PlanDecided(
        input_position=input_position,
        clock_us=0,
        planner="fifo",
        planner_digest="",
        costs_digest="",
        state_digest="",
        actions=(),
        note=note,
    )
    return Unit("scheduler", (decision,))


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now_us: int = 1_000_000) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


class Draws:
    """Randomness that is none."""

    def __call__(self, bits: int) -> int:
        return 5


@asynccontextmanager
async def running(storage: Storage, *, holder: str = "me", **options: Any) -> Any:
    """A journal that took over, closed at the end."""
    journal = Journal(storage, **options)
    await journal.take_over(holder)
    try:
        yield journal
    finally:
        await journal.close()


def positions(batch: Sequence[Recorded]) -> list[int]:
    return [recorded.position for recorded in batch]


async def take(subscription: Any, count: int) -> list[Recorded]:
    """The next ``count`` events of a subscription."""
    taken: list[Recorded] = []
    while len(taken) < count:
        taken += await anext(subscription)
    return taken


async def until(is_true: Callable[[], bool]) -> None:
    """Let others run until something holds; the test's timeout is the limit."""
    while not is_true():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


Opener = Callable[[], Storage]
