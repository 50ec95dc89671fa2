"""A cost table out of a log: what stages, steps and everything around them took live; not a separate measurement.

All times are the log's own, from one recorded fact to the next, so that they add up to what requests took, with the
contention of that run in them. Rows are means, because finishing times are sums.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean, median

from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.costs import CostData, Overheads, StageCost, StoreCost, merge
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.plan import Start
from genserve.domain.request import RequestSpec, Shape, Stage

Row = tuple[str, Stage, Shape, int, int]


def costs_of_log(history: Iterable[e.Recorded], *, name: str) -> CostData:
    """The table that the log began with, its rows replaced where the log measured them; with overheads."""
    book = _Book()
    for recorded in history:
        book.watch(recorded)
    return book.close(name)


class _Book:
    def __init__(self) -> None:
        self.base = CostData(name="none")
        self.specs: dict[str, RequestSpec] = {}
        self.decided: dict[str, tuple[int, Start]] = {}
        self.started: dict[str, e.StageStarted] = {}
        self.marks: dict[str, int] = {}
        self.times: dict[Row, list[float]] = defaultdict(list)
        self.dispatches: list[int] = []
        self.stores: dict[tuple[str, Shape], list[int]] = defaultdict(list)

    def watch(self, recorded: e.Recorded) -> None:
        event, at_us = recorded.event, recorded.recorded_us
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        if isinstance(event, e.CostsUpdated):
            self.base = event.costs
        elif isinstance(event, e.PlanDecided):
            self.decided |= {a.segment_id: (at_us, a) for a in event.actions if isinstance(a, Start)}
        elif isinstance(event, e.RequestSubmitted):
            self.specs[request_id] = event.request
        elif isinstance(event, e.StageStarted):
            self._start(request_id, event, at_us)
        elif isinstance(event, e.StepsFinished):
            self._step(request_id, event)
        elif isinstance(event, e.StageFinished):
            self._finish(request_id, event, at_us)
        elif isinstance(event, e.RequestCompleted) and request_id in self.marks:
            spec = self.specs[request_id]
            self.stores[spec.model, spec.shape].append(at_us - self.marks[request_id])

    def _start(self, request_id: str, event: e.StageStarted, at_us: int) -> None:
        """The head of a chain shows how long dispatching took; a denoise right behind its encode ends that."""
        is_first = event.segment_id not in self.started
        self.started[event.segment_id] = event
        decided = self.decided.get(event.segment_id)
        if decided is not None and not decided[1].after and is_first:
            self.dispatches.append(at_us - decided[0])
        if event.stage is Stage.ENCODE:
            self.marks[request_id] = at_us
        elif event.stage is Stage.DENOISE and event.from_step == 0 and request_id in self.marks:
            self._note(request_id, Stage.ENCODE, event.batch, at_us - self.marks[request_id])

    def _step(self, request_id: str, event: e.StepsFinished) -> None:
        spec = self.specs[request_id]
        row = (spec.model, Stage.DENOISE, spec.shape, event.degree, event.batch)
        steps = event.to_step - event.from_step
        self.times[row] += [event.took_us / steps] * steps

    def _finish(self, request_id: str, event: e.StageFinished, at_us: int) -> None:
        """A decode counts from the end of the steps, and its end is where storing begins."""
        if event.stage is Stage.ENCODE:
            return
        began, since_us = self.started.get(event.segment_id), self.marks.get(request_id)
        if event.stage is Stage.DECODE and began is not None and since_us is not None:
            self._note(request_id, Stage.DECODE, began.batch, at_us - since_us)
        self.marks[request_id] = at_us

    def _note(self, request_id: str, stage: Stage, batch: int, took_us: int) -> None:
        spec = self.specs[request_id]
        self.times[spec.model, stage, spec.shape, 1, batch].append(took_us)

    def close(self, name: str) -> CostData:
        rows = [
            StageCost(model, stage, shape, max(1, round(fmean(times))), degree, batch)
            for (model, stage, shape, degree, batch), times in self.times.items()
        ]
        stores = [StoreCost(model, shape, round(fmean(times))) for (model, shape), times in self.stores.items()]
        dispatch_us = round(median(self.dispatches)) if self.dispatches else 0
        return replace(merge(self.base, rows, name=name), overheads=Overheads(dispatch_us, tuple(sorted(stores))))
