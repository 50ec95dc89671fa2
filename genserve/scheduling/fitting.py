"""A batch that does not fit into the device's memory is halved until it does; not for deciding batch sizes.

Halves take their steps one after the other and stay one batch for everybody else. A request that does not fit even
alone is set aside, with the device's words, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.runner import OUT_OF_MEMORY


@dataclass(slots=True)
class Part:
    """Some members and the runner's own batch of them."""

    members: tuple[p.Member, ...]
    batch: Any


class Fitting:
    """A Runner around another one. ``take_unfit`` names those who could not be fitted since it was last asked."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._unfit: list[tuple[p.Member, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_runner"], name)

    def take_unfit(self) -> list[tuple[p.Member, str]]:
        unfit, self._unfit = self._unfit, []
        return unfit

    def encode(self, members: tuple[p.Member, ...]) -> None:
        self._halving(members, self._runner.encode)

    def decode(self, members: tuple[p.Member, ...]) -> dict[str, Any]:
        """Frames of those that fit."""
        frames: dict[str, Any] = {}
        self._halving(members, lambda some: frames.update(self._runner.decode(some)))
        return frames

    def begin(self, members: tuple[p.Member, ...]) -> list[Part]:
        parts: list[Part] = []
        self._halving(members, lambda some: parts.append(Part(some, self._runner.begin(some))))
        return parts

    def position(self, batch: list[Part]) -> int:
        return int(self._runner.position(batch[0].batch))

    def step(self, batch: list[Part]) -> None:
        """One step of every part; a part that does not fit is replaced by its halves, in place."""
        done: list[Part] = []
        waiting = list(batch)
        while waiting:
            part = waiting.pop(0)
            try:
                self._runner.step(part.batch)
            except GenServeError as error:
                waiting = [*self._halves(part, error), *waiting]
            else:
                done.append(part)
        batch[:] = done

    def without(self, batch: list[Part], request_ids: tuple[str, ...]) -> list[Part]:
        """The batch without some members; a part that loses all of its own is gone."""
        left = []
        for part in batch:
            gone = tuple(m.request_id for m in part.members if m.request_id in request_ids)
            stay = tuple(m for m in part.members if m.request_id not in request_ids)
            if stay:
                left.append(Part(stay, self._runner.without(part.batch, gone) if gone else part.batch))
        return left

    def end(self, batch: list[Part]) -> None:
        for part in batch:
            self._runner.end(part.batch)

    def snapshot(self, batch: list[Part], request_id: str) -> Any:
        return self._runner.snapshot(_of(batch, request_id), request_id)

    def preview(self, batch: list[Part], request_id: str) -> Any:
        return self._runner.preview(_of(batch, request_id), request_id)

    def _halving(self, members: tuple[p.Member, ...], work: Callable[[tuple[p.Member, ...]], object]) -> None:
        """Do the work for all, or for one half after the other; one that does not fit alone is set aside."""
        try:
            work(members)
        except GenServeError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            if len(members) == 1:
                self._unfit.append((members[0], error.message))
                return
            middle = len(members) // 2
            self._halving(members[:middle], work)
            self._halving(members[middle:], work)

    def _halves(self, part: Part, error: GenServeError) -> list[Part]:
        """Two parts in the place of one that stands where it stood before the step; none for a single request."""
        if error.code != OUT_OF_MEMORY:
            raise error
        if len(part.members) == 1:
            self._unfit.append((part.members[0], error.message))
            return []
        middle = len(part.members) // 2
        first, second = part.members[:middle], part.members[middle:]
        return [
            Part(mine, self._runner.without(part.batch, tuple(m.request_id for m in others)))
            for mine, others in ((first, second), (second, first))
        ]


def _of(batch: list[Part], request_id: str) -> Any:
    return next(part.batch for part in batch if any(m.request_id == request_id for m in part.members))
