"""Values with defaults for tests: name only what the test is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostData, CostTable, Prices, StageCost
from genserve.domain.evolve import fold
from genserve.domain.ids import SCHEDULER_STREAM, request_stream, worker_stream
from genserve.domain.plan import AnyAction, Waiting
from genserve.domain.request import Media, RequestSpec, Shape, Stage

SECOND = 1_000_000
IMAGE = Shape(64, 64)
VIDEO = Shape(64, 64, 16)
FREE = Prices(0, 0, 0, 0, 0)


def a_request(request_id: str = "r1", **changes: Any) -> RequestSpec:
    """An image of four steps, or a video if ``shape`` has frames; the deadline is ten seconds after arrival."""
    shape: Shape = changes.pop("shape", IMAGE)
    arrival_us = changes.pop("arrival_us", 0)
    is_video = shape.frames > 1
    fields: dict[str, Any] = {
        "model": "t2v" if is_video else "t2i",
        "media": Media.VIDEO if is_video else Media.IMAGE,
        "steps": 4,
        "deadline_us": arrival_us + 10 * SECOND,
    }
    return RequestSpec(request_id=request_id, shape=shape, arrival_us=arrival_us, **{**fields, **changes})


def some_costs(*, step_us: int = 100_000, prices: Prices = FREE, **stages: int) -> CostTable:
    """Image steps of ``step_us`` on one GPU; video steps ten times that, sped up by 2 and 3.5 on 2 and 4 GPUs."""
    rows = [StageCost("t2i", Stage.DENOISE, IMAGE, step_us)]
    rows += [
        StageCost("t2v", Stage.DENOISE, VIDEO, int(10 * step_us / speed), degree)
        for degree, speed in ((1, 1.0), (2, 2.0), (4, 3.5))
    ]
    for model, shape in (("t2i", IMAGE), ("t2v", VIDEO)):
        rows.append(StageCost(model, Stage.ENCODE, shape, stages.get("encode_us", 10_000)))
        rows.append(StageCost(model, Stage.DECODE, shape, stages.get("decode_us", 50_000)))
    return CostTable(CostData("test", tuple(rows), prices))


class History:
    """A log under construction; ``add`` records a fact at a time that never falls."""

    def __init__(self) -> None:
        self.log: list[e.Recorded] = []
        self.now_us = 0

    def add(self, stream: str, event: e.AnyEvent, *, at_us: int | None = None) -> History:
        self.now_us = max(self.now_us, at_us or 0)
        version = 1 + sum(r.stream == stream for r in self.log)
        self.log.append(e.Recorded(len(self.log) + 1, stream, version, self.now_us, event, self.now_us))
        return self

    def workers(self, count: int, *, per_node: int = 8) -> History:
        for index in range(count):
            name = f"w{index}"
            self.add(worker_stream(name), e.WorkerJoined(name, 1, f"node-{index // per_node}"))
        return self

    def costs(self, table: CostTable) -> History:
        return self.add(SCHEDULER_STREAM, e.CostsUpdated(table.data))

    def submit(self, *specs: RequestSpec) -> History:
        for spec in specs:
            self.add(request_stream(spec.request_id), e.RequestSubmitted(spec), at_us=spec.arrival_us)
        return self

    def of(self, request_id: str, *facts: e.AnyEvent, at_us: int | None = None) -> History:
        for fact in facts:
            self.add(request_stream(request_id), fact, at_us=at_us)
        return self

    def decide(self, *actions: AnyAction, waiting: Sequence[Waiting] = (), at_us: int | None = None) -> History:
        position = len(self.log)
        now_us = max(self.now_us, at_us or 0)
        fact = e.PlanDecided(position, now_us, "test", "", "", "", actions, tuple(waiting))
        return self.add(SCHEDULER_STREAM, fact, at_us=at_us)

    @property
    def state(self) -> ClusterState:
        return fold(ClusterState(), self.log)


def a_cluster(workers: int = 1, *, requests: Iterable[RequestSpec] = (), costs: CostTable | None = None) -> History:
    """A history with workers, costs and waiting requests."""
    return History().workers(workers).costs(costs or some_costs()).submit(*requests)
