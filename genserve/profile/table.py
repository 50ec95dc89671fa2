"""A measured cost table as a file: the costs themselves, and beside them how they were come by."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from genserve.domain.costs import CostData, Overheads, Prices, StageCost
from genserve.domain.request import Shape, Stage


class Task(Struct, frozen=True):
    """One thing to time: a stage of a batch of one shape on ``degree`` processes."""

    model: str
    stage: Stage
    shape: Shape
    degree: int = 1
    batch: int = 1

    def __str__(self) -> str:
        wide = f" on {self.degree}" if self.degree > 1 else ""
        many = f" x {self.batch}" if self.batch > 1 else ""
        return f"{self.model} {self.stage} {self.shape}{many}{wide}"


class Timing(Struct, frozen=True):
    """A task's times in microseconds.

    The table gets the lower quartile: on a machine with other work, interference only ever adds.
    """

    task: Task
    times_us: tuple[int, ...]

    def at(self, share: float) -> int:
        ordered = sorted(self.times_us)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class Spread(Struct, frozen=True):
    """The fastest sample of one row, in microseconds, and the third quartile, over so many samples."""

    row: str
    low_us: int
    high_us: int
    samples: int


class Profile(Struct, frozen=True):
    """A cost table that also says what it was measured on; a reader of CostData passes the rest over."""

    name: str
    stages: tuple[StageCost, ...]
    prices: Prices
    device: str
    versions: dict[str, str]
    date: str
    spread: tuple[Spread, ...]
    memory_bytes: dict[str, int] = {}
    overheads: Overheads | None = None

    @property
    def costs(self) -> CostData:
        return CostData(self.name, self.stages, self.prices, self.memory_bytes, self.overheads)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def stages_of(timings: Iterable[Timing]) -> tuple[StageCost, ...]:
    """Rows of a cost table, sorted."""
    rows = [
        StageCost(t.task.model, t.task.stage, t.task.shape, t.at(0.25), t.task.degree, t.task.batch) for t in timings
    ]
    return tuple(sorted(rows))


def spread_of(timings: Iterable[Timing]) -> tuple[Spread, ...]:
    return tuple(Spread(str(t.task), t.at(0.0), t.at(0.75), len(t.times_us)) for t in timings)
