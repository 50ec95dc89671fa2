"""A recorded log beside its own simulation: same arrivals, workers, planner and losses; not a replay of decisions.

A replay shows that decisions follow from the log. This shows how far the simulator's clock is from the real one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from genserve.domain import events as e
from genserve.domain.costs import CostData, CostTable
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.request import RequestSpec
from genserve.errors import CallerError
from genserve.planners.interface import Parameter, Planner
from genserve.planners.registry import build_planner
from genserve.scheduling.verdicts import REFUSED
from genserve.simulate.score import Outcome, Scorer, grouped, percentile, share_met
from genserve.simulate.simulation import Outage, Scenario, simulate, worker_name


class Recording(Struct, frozen=True):
    """What a log says came from outside, who planned with which costs, and what became of the requests that ended."""

    requests: tuple[RequestSpec, ...]
    cancels: tuple[tuple[int, str], ...]
    outages: tuple[Outage, ...]
    gpus: int
    gpus_per_node: int
    planner: str
    parameters: dict[str, Parameter]
    costs: CostData
    outcomes: tuple[Outcome, ...]


def read_recording(history: Iterable[e.Recorded]) -> Recording:
    """Fold a log; the last planner and cost table in it count for all of it. Refused requests are left out.

    Raises CallerError ``nothing_recorded`` for a log without workers or requests.
    """
    book = _Book()
    for recorded in history:
        book.watch(recorded)
    if not book.nodes or not book.specs:
        raise CallerError("nothing_recorded", "the log has no requests, or no workers to run them")
    return book.close()


class _Book:
    def __init__(self) -> None:
        self.specs: dict[str, RequestSpec] = {}
        self.cancels: list[tuple[int, str]] = []
        self.nodes: dict[str, str] = {}
        self.lost: dict[str, int] = {}
        self.away: list[tuple[str, int, int]] = []
        self.planner: e.PlannerChanged | None = None
        self.costs = CostData(name="none")
        self.scorer = Scorer()

    def watch(self, recorded: e.Recorded) -> None:
        self.scorer.watch(recorded)
        event, request_id = recorded.event, recorded.stream[len(REQUEST_STREAM) :]
        if isinstance(event, e.RequestSubmitted):
            self.specs[request_id] = event.request
        elif isinstance(event, e.CancelRequested):
            self.cancels.append((recorded.recorded_us, request_id))
        elif isinstance(event, e.RequestFailed) and event.code == REFUSED:
            self.specs.pop(request_id, None)
        elif isinstance(event, e.WorkerJoined | e.WorkerLost):
            self._come_or_go(event, recorded.recorded_us)
        elif isinstance(event, e.PlannerChanged):
            self.planner = event
        elif isinstance(event, e.CostsUpdated):
            self.costs = event.costs

    def _come_or_go(self, event: e.WorkerJoined | e.WorkerLost, at_us: int) -> None:
        if isinstance(event, e.WorkerLost):
            self.lost[event.worker_id] = at_us
            return
        self.nodes[event.worker_id] = event.node
        since_us = self.lost.pop(event.worker_id, 0)
        if since_us:
            self.away.append((event.worker_id, since_us, at_us))

    def close(self) -> Recording:
        index = {worker_id: worker_name(i) for i, worker_id in enumerate(sorted(self.nodes))}
        away = [*self.away, *((worker_id, at_us, 0) for worker_id, at_us in self.lost.items())]
        planner = self.planner
        return Recording(
            requests=tuple(self.specs.values()),
            cancels=tuple(self.cancels),
            outages=tuple(Outage(index[w], since, until) for w, since, until in sorted(away, key=lambda a: a[1])),
            gpus=len(self.nodes),
            gpus_per_node=max(Counter(self.nodes.values()).values()),
            planner=planner.name if planner else "fifo",
            parameters=planner.parameters if planner else {},
            costs=self.costs,
            outcomes=tuple(o for o in self.scorer.outcomes if o.request_id in self.specs and o.finished_us),
        )


def simulate_recording(
    recording: Recording, *, planner: Planner | None = None, costs: CostData | None = None
) -> tuple[Outcome, ...]:
    """What becomes of the recorded requests in the simulator, with another planner or other costs if given."""
    scorer = Scorer()
    scenario = Scenario(
        recording.requests,
        CostTable(costs or recording.costs),
        recording.gpus,
        recording.gpus_per_node,
        outages=recording.outages,
        cancels=recording.cancels,
    )
    chosen = planner or build_planner(recording.planner, recording.parameters)
    simulate(chosen, scenario, observers=(scorer.watch,), keep_log=False)
    return scorer.outcomes


def compare_outcomes(recorded: Sequence[Outcome], simulated: Sequence[Outcome]) -> dict[str, Any]:
    """By group: attainment on both sides in percent, and how far each finish is off, as a share of its latency.

    A finish is off by simulated minus recorded: above zero the simulator is too slow. Requests that did not finish on
    both sides are left out.
    """
    theirs = {o.request_id: o for o in simulated if o.finished_us}
    pairs = {o.request_id: (o, theirs[o.request_id]) for o in recorded if o.request_id in theirs}
    groups = grouped([o for o, _ in pairs.values()])
    return {name: _agreement([pairs[o.request_id] for o in of]) for name, of in groups.items() if of}


def _agreement(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    off = [(s.finished_us - r.finished_us) / max(1, r.latency_us) for r, s in pairs]
    mean_s = [sum(o.latency_us for o in side) / len(pairs) / 1e6 for side in zip(*pairs, strict=True)]
    recorded, simulated = (100 * share_met(side) for side in zip(*pairs, strict=True))
    return {
        "requests": len(pairs),
        "recorded_on_time": recorded,
        "simulated_on_time": simulated,
        "attainment_error": simulated - recorded,
        "same_verdict": 100 * sum(r.is_met == s.is_met for r, s in pairs) / len(pairs),
        "recorded_mean_s": mean_s[0],
        "simulated_mean_s": mean_s[1],
        "finish_error": {f"p{p}": percentile(off, p) for p in (5, 50, 95)},
        "finish_error_abs": {f"p{p}": percentile([abs(x) for x in off], p) for p in (50, 90, 99)},
    }
