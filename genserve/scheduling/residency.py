"""Which stages' weights a worker holds: brought in when needed, the least recently used given up for room.

Free of torch: how weights are loaded is the shelf's matter. Used on the step thread; ``resident`` may be asked by any.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling.protocol import StageChange
from observability.logging import get_logger

Holding = tuple[str, Stage]
"""A model and one of its stages."""

TOO_LARGE = "stage_too_large"

Tell = Callable[[StageChange], None]


class Shelf(Protocol):
    """Loads and drops weights. Errors are GenServeError with a code."""

    def bytes_of(self, model: str, stage: Stage) -> int:
        """Memory of a stage's weights, known before they are loaded."""

    def free_bytes(self) -> int | None:
        """What the device has left for weights; None where it does not say."""

    def total_bytes(self) -> int | None:
        """All the memory that the device has; None where it does not say."""

    def load(self, model: str, stage: Stage) -> None: ...

    def unload(self, model: str, stage: Stage) -> None: ...


class Residency:
    """``budget_bytes`` bounds the sum of all weights; 0 leaves only the device's own bound."""

    def __init__(self, shelf: Shelf, *, budget_bytes: int = 0) -> None:
        self._shelf = shelf
        self._budget = budget_bytes
        self._held: dict[Holding, int] = {}
        self._own: frozenset[Holding] = frozenset()
        self._wanted: frozenset[Holding] = frozenset()
        self._tell: Tell = lambda _: None

    @property
    def resident(self) -> tuple[Holding, ...]:
        return tuple(sorted(self._held))

    @property
    def displaced(self) -> tuple[Holding, ...]:
        """What was placed here and is not held for want of room."""
        return tuple(sorted(self._own - self._held.keys()))

    @property
    def newest(self) -> Holding | None:
        """The one that was used last."""
        return next(reversed(self._held), None)

    def watch(self, tell: Tell) -> None:
        """Hear of every change from now on, on the step thread."""
        self._tell = tell

    def keep_for(self, wanted: frozenset[Holding]) -> None:
        """What the segments in the queue need: given up only when nothing else is left to give."""
        self._wanted = wanted

    def place(self, model: str, stage: Stage) -> None:
        """This worker is to hold that stage: from now on, or when it is needed where there is no room beside others.

        One that cannot fit even alone is passed over: whoever needs it is told when they do.
        """
        size = self._shelf.bytes_of(model, stage)
        try:
            self._check_size(model, stage, size)
        except GenServeError as error:
            get_logger("genserve.worker").warning("stage passed over", code=error.code, message=error.message)
            return
        self._own |= {(model, stage)}
        if self._room() >= size:
            self.hold(model, stage)

    def hold(self, model: str, stage: Stage) -> None:
        """Make sure that a stage is loaded; nothing happens, and nothing is told, where it is.

        Raises GenServeError ``stage_too_large`` for one that cannot fit even alone.
        """
        key = (model, stage)
        if key in self._held:
            self._held = {**{k: v for k, v in self._held.items() if k != key}, key: self._held[key]}
            return
        size = self._shelf.bytes_of(model, stage)
        self._check_size(model, stage, size)
        self._make_room(size)
        began_ns = time.perf_counter_ns()
        self._shelf.load(model, stage)
        self._held = {**self._held, key: size}
        self._tell(StageChange(model, stage, True, (time.perf_counter_ns() - began_ns) // 1000, size))

    def release(self, model: str, stage: Stage) -> None:
        """Give a stage up; nothing happens where it is not loaded."""
        self._own -= {(model, stage)}
        if (model, stage) in self._held:
            self._unload(model, stage)

    def make_way(self) -> bool:
        """Unload all but the stage that was used last, where work ran out of memory; whether there was any."""
        others = tuple(self._held)[:-1]
        for other in others:
            self._unload(*other)
        return bool(others)

    def _unload(self, model: str, stage: Stage) -> None:
        key = (model, stage)
        began_ns, size = time.perf_counter_ns(), self._held[key]
        self._held = {k: v for k, v in self._held.items() if k != key}
        self._shelf.unload(model, stage)
        took_us = (time.perf_counter_ns() - began_ns) // 1000
        self._tell(StageChange(model, stage, False, took_us, size, displaced=key in self._own))

    def _make_room(self, size: int) -> None:
        """Unload in order of last use, what nobody queued needs before what somebody does."""
        for victim in sorted(self._held, key=lambda held: held in self._wanted):
            if self._room() >= size:
                return
            self._unload(*victim)

    def _check_size(self, model: str, stage: Stage, size: int) -> None:
        limits = [limit for limit in (self._budget or None, self._shelf.total_bytes()) if limit is not None]
        if limits and size > min(limits):
            message = f"{model}/{stage} takes {size} bytes, this worker has {min(limits)} for weights"
            raise GenServeError(TOO_LARGE, message)

    def _room(self) -> float:
        used, free = sum(self._held.values()), self._shelf.free_bytes()
        within = self._budget - used if self._budget else float("inf")
        return within if free is None else min(within, free)
