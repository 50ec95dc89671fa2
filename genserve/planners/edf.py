"""Earliest deadline first, one GPU each, preemptive at step boundaries."""

from __future__ import annotations

from typing import Any, ClassVar

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.plan import Plan
from genserve.planners.assign import assign
from genserve.planners.interface import Policy
from genserve.planners.order import wishes_in_order


class Edf(Policy, frozen=True):
    """Earliest deadline first, one GPU each, preemptive at step boundaries."""

    title: ClassVar[str] = "edf"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        def key(r: Request) -> int:
            return r.spec.deadline_us

        return assign(state, wishes_in_order(state, key, reason="earliest deadline first"), preemptive=True)
