"""First come, first served, one GPU each, never interrupted."""

from __future__ import annotations

from typing import Any, ClassVar

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.plan import Plan
from genserve.planners.assign import assign
from genserve.planners.interface import Policy
from genserve.planners.order import wishes_in_order


class Fifo(Policy, frozen=True):
    """First come, first served, one GPU each, never interrupted."""

    title: ClassVar[str] = "fifo"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        def key(r: Request) -> int:
            return r.submitted_us

        return assign(state, wishes_in_order(state, key, reason="arrival order"), preemptive=False)
