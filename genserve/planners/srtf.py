"""Shortest remaining time first, one GPU each, preemptive at step boundaries."""

from __future__ import annotations

from typing import Any, ClassVar

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.estimate import remaining_us
from genserve.domain.plan import Plan
from genserve.planners.assign import assign
from genserve.planners.interface import Policy
from genserve.planners.order import wishes_in_order


class Srtf(Policy, frozen=True):
    """Shortest remaining time first, one GPU each, preemptive at step boundaries."""

    title: ClassVar[str] = "srtf"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        def key(r: Request) -> int:
            return remaining_us(state, r)

        return assign(state, wishes_in_order(state, key, reason="shortest remaining time first"), preemptive=True)
