"""Shortest job first by estimated total run time, one GPU each, never interrupted."""

from __future__ import annotations

from typing import Any, ClassVar

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.estimate import total_us
from genserve.domain.plan import Plan
from genserve.planners.assign import assign
from genserve.planners.interface import Policy
from genserve.planners.order import wishes_in_order


class Sjf(Policy, frozen=True):
    """Shortest job first by estimated total run time, one GPU each, never interrupted."""

    title: ClassVar[str] = "sjf"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        def key(r: Request) -> int:
            return total_us(state, r)

        return assign(state, wishes_in_order(state, key, reason="shortest job first"), preemptive=False)
