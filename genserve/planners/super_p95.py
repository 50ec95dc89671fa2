"""vLLM-Omni's super-P95 proposal: a bounded share of long requests is sacrificed so that the other 95% are quick.

One sacrifice credit per ``every`` arrivals, spent on an arrival whose estimate is at least ``share`` of the largest
seen. Normal requests go before sacrificed ones; among normal, the largest (waited + remaining) first. Changed: one
pool has one queue, so the proposal's routing to the least loaded server has nothing to do here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState, Request
from genserve.domain.costs import CostData, CostTable
from genserve.domain.estimate import remaining_us
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.plan import Plan
from genserve.domain.request import RequestSpec, Status
from genserve.planners.assign import Wish, assign
from genserve.planners.interface import Policy


class Credits(Struct, frozen=True):
    """Arrivals and sacrifices so far; ``costs`` is what the log last said about costs."""

    arrivals: int = 0
    spent: int = 0
    largest_us: int = 0
    sacrificed: frozenset[str] = frozenset()
    costs: CostTable = CostTable(CostData(name="none"))


class SuperP95(Policy, frozen=True):
    """Sacrifice one long request per ``every`` arrivals; only sacrificed ones are interrupted."""

    title: ClassVar[str] = "super_p95"

    every: int = 20
    share: float = 0.8

    def begin(self) -> Credits:
        return Credits()

    def remember(self, memory: Credits, recorded: e.Recorded) -> Credits:
        event = recorded.event
        if isinstance(event, e.RequestSubmitted):
            return self._arrived(memory, event.request)
        if isinstance(event, e.CostsUpdated):
            return replace(memory, costs=CostTable(event.costs))
        if type(event) in e.REQUEST_ENDS and memory.sacrificed:
            return replace(memory, sacrificed=memory.sacrificed - {recorded.stream[len(REQUEST_STREAM) :]})
        return memory

    def _arrived(self, memory: Credits, spec: RequestSpec) -> Credits:
        estimate_us = memory.costs.step_us(spec.model, spec.shape) * spec.steps
        largest_us = max(memory.largest_us, estimate_us)
        arrivals = memory.arrivals + 1
        if arrivals // self.every > memory.spent and estimate_us >= self.share * largest_us:
            chosen = memory.sacrificed | {spec.request_id}
            return Credits(arrivals, memory.spent + 1, largest_us, chosen, memory.costs)
        return replace(memory, arrivals=arrivals, largest_us=largest_us)

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        def key(r: Request) -> tuple[bool, bool, int, str]:
            is_sacrificed = r.request_id in memory.sacrificed
            age_us = state.clock_us - r.submitted_us + remaining_us(state, r)
            return is_sacrificed, not r.segments, -age_us, r.request_id

        live = [r for r in state.requests.values() if r.status is not Status.FINISHING and not r.cancelling]
        wishes = []
        for request in sorted(live, key=key):
            reason = "sacrificed" if request.request_id in memory.sacrificed else "largest waited + remaining first"
            wishes.append(Wish((request.request_id,), 1, reason))
        return assign(state, wishes, preemptive=True)
