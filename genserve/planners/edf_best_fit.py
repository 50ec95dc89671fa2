"""EDF best-fit (GF-DiT, arXiv 2606.13501): in deadline order the smallest degree that makes it.

As released: a request that no degree can save gets the one that finishes it earliest; GPUs left over go to the most
urgent where that helps; re-planned at every chunk boundary. Changed: decode is part of the estimate, a late request
takes one GPU behind everybody else unless ``late_takes_fastest`` (as released), and chunks are the events of the loop
plus a timer, since a running segment may be changed at any step.
"""

from __future__ import annotations

from typing import Any, ClassVar

from genserve.domain.cluster import ClusterState
from genserve.domain.plan import Plan
from genserve.planners.interface import Policy
from genserve.planners.nodes import Target
from genserve.planners.realise import Style, plan_for
from genserve.planners.view import Task, View


class EdfBestFit(Policy, frozen=True):
    """Earliest deadline first, each at the smallest degree that meets its deadline; leftovers to the most urgent."""

    title: ClassVar[str] = "edf_best_fit"

    late_takes_fastest: bool = False
    chunk_ms: int = 1000

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        view = View(state)
        tasks = [t for t in view.tasks if not t.is_bound]
        left = view.open_gpus
        targets: list[Target] = []
        for task in sorted(tasks, key=lambda t: (self._is_last(t, view), t.key)):
            width = max((k for k in task.degrees if k <= min(left, self._best_fit(task, view))), default=0)
            if width:
                targets.append(Target(task, width, width, "earliest deadline first", not self._is_last(task, view)))
                left -= width
        _give_leftovers(targets, left)
        plan = plan_for(view, targets, Style(is_eager=True, image_exception=False, growth_pays=0.0))
        return with_timer(plan, state, self.chunk_ms * 1000)

    def _best_fit(self, task: Task, view: View) -> int:
        meets = [k for k in task.degrees if task.slack_us(view.now_us, k) >= 0]
        if meets:
            return meets[0]
        return task.fastest if self.late_takes_fastest else 1

    def _is_last(self, task: Task, view: View) -> bool:
        return not self.late_takes_fastest and task.slack_us(view.now_us, task.fastest) < 0


def with_timer(plan: Plan, state: ClusterState, period_us: int) -> Plan:
    """Ask to be called again after a period while anything is live."""
    wake_us = (state.clock_us // period_us + 1) * period_us if state.requests and period_us > 0 else 0
    return Plan(plan.actions, plan.waiting, plan.note, wake_us)


def _give_leftovers(targets: list[Target], left: int) -> None:
    for target in targets:
        wider = [k for k in target.task.degrees if target.degree < k <= target.degree + left]
        if wider:
            left -= wider[-1] - target.degree
            target.degree = wider[-1]
