"""An example planner: whoever has least slack runs first, one GPU each, and what runs is not interrupted.

Slack is the deadline minus now minus the run time still needed. Requests that cannot make it any more go last.
"""

from __future__ import annotations

from typing import Any, ClassVar

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.estimate import remaining_us
from genserve.domain.plan import Plan
from genserve.planners.assign import assign
from genserve.planners.interface import Policy
from genserve.planners.order import wishes_in_order


class MostSlackLast(Policy, frozen=True):
    """``margin_ms`` counts a request as lost when its slack is below it."""

    title: ClassVar[str] = "most_slack_last"

    margin_ms: int = 0

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        def key(request: Request) -> int:
            slack_us = request.spec.deadline_us - state.clock_us - remaining_us(state, request)
            is_lost = slack_us < self.margin_ms * 1000
            return slack_us + (1 << 60) * is_lost

        return assign(state, wishes_in_order(state, key, reason="least slack first"), preemptive=False)
