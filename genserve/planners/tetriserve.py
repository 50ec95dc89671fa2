"""TetriServe (ASPLOS 2026, arXiv 2510.01565): rounds, the cheapest just-in-time degrees, a knapsack on survival.

At each round start every request gets the two-degree split that meets its deadline with the fewest GPU-seconds (M3);
a group knapsack keeps as many requests as possible from being certain to be late at the next round (M4); placement is
preserved, and idle GPUs widen whoever gains most (M7). Filled in where the paper is silent: a fill pass by deadline,
ties by fewer GPUs, then deadline, then id; encode and decode in the lower bound; late requests on one GPU nobody else
wants, never dropped. A running segment is not cut into chunks: its width is changed at the step boundary after the
round start, which is kinder to it than idling until the round ends. Several nodes share one knapsack.

``continuous`` re-plans at every event instead of at round starts only.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostTable
from genserve.domain.events import PlanDecided, Recorded
from genserve.domain.plan import Plan, Start, Waiting
from genserve.domain.request import Stage
from genserve.planners.interface import Policy
from genserve.planners.nodes import Target
from genserve.planners.realise import Style, plan_for
from genserve.planners.view import Task, View

PER_GPU = 1e-6
"""A tie costs this much value per GPU (third-party code): among equals the narrower plan wins."""


class Part(NamedTuple):
    """So many steps at a degree."""

    steps: int
    degree: int


class TetriServe(Policy, frozen=True):
    """``granularity`` is the round length in steps of the largest shape at its usual degree."""

    title: ClassVar[str] = "tetriserve"

    granularity: int = 5
    round_ms: int = 0
    continuous: bool = False
    wide_first: bool = False
    placement_preservation: bool = True
    scale_up: bool = True
    fill: bool = True

    def begin(self) -> int:
        """The number of the last round that was planned."""
        return -1

    def remember(self, memory: int, recorded: Recorded) -> int:
        event = recorded.event
        if isinstance(event, PlanDecided) and event.note.startswith("round "):
            return int(event.note.split()[1])
        return memory

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        round_us = self.round_us(state.costs)
        number, into = divmod(state.clock_us, round_us)
        wake_us = (number + 1) * round_us if state.requests else 0
        is_round_start = self.continuous or (number > memory and into <= round_us // 4)
        began_us = state.clock_us if self.continuous else number * round_us
        view = View(state)
        if not view.gpus or not view.tasks:
            waiting = tuple(Waiting(t.request_id, "no worker has joined") for t in view.tasks)
            return Plan(waiting=waiting, note="nothing to plan", wake_at_us=wake_us if view.gpus else 0)
        tasks = [t for t in view.tasks if not t.is_bound]
        if not is_round_start:
            return self._within_round(view, tasks, wake_us, began_us=began_us)
        known = [t for t in tasks if t.request.submitted_us <= began_us]
        plan = plan_for(view, _Round(self, view, known, view.open_gpus).targets(), self._style(is_eager=True))
        return Plan(plan.actions, plan.waiting, f"round {number}", wake_us)

    def _within_round(self, view: View, tasks: list[Task], wake_us: int, *, began_us: int) -> Plan:
        """Between round starts nobody is stopped and arrivals wait; what was stopped goes on as GPUs come free."""
        known = [t for t in tasks if t.is_idle and t.request.submitted_us <= began_us]
        news = [t.request_id for t in tasks if t.is_idle and not t.request.told]
        told = tuple(Waiting(r, "arrived during a round") for r in news)
        if not known or not view.free_count:
            return Plan((), told, "between rounds", wake_us)
        plan = plan_for(view, _Round(self, view, known, view.free_count).targets(), self._style(is_eager=False))
        starts = tuple(a for a in plan.actions if isinstance(a, Start))
        started = {r for a in starts for r in a.request_ids}
        return Plan(starts, tuple(w for w in told if w.request_id not in started), "between rounds", wake_us)

    def _style(self, *, is_eager: bool) -> Style:
        grows = self.placement_preservation
        return Style(is_eager=is_eager, image_exception=False, growth_pays=0.0, may_hold=False, may_grow=grows)

    def round_us(self, costs: CostTable) -> int:
        return self.round_ms * 1000 or round(self.granularity * reference_step_us(costs))


@lru_cache(maxsize=64)
def reference_step_us(costs: CostTable) -> float:
    """One step of the slowest shape at its most useful degree (efficiency 0.8 or more)."""
    shapes = {(c.model, c.shape) for c in costs.data.stages if c.stage is Stage.DENOISE}
    slowest = 100_000.0
    if shapes:
        model, shape = max(shapes, key=lambda s: (costs.step_us(*s), s))
        one = costs.step_us(model, shape)
        usual = [costs.step_us(model, shape, degree=k) for k in costs.degrees(model, shape)]
        slowest = min(t for i, t in enumerate(usual) if one / t / costs.degrees(model, shape)[i] >= 0.8)
    return slowest


def minimum_allocation(task: Task, budget_us: float, *, wide_first: bool = False) -> list[Part]:
    """M3 in closed form: the smallest degree that makes it, as many of its steps as possible at half that degree.

    Empty when no degree makes it.
    """
    steps = max(1, math.ceil(task.steps - 1e-6))
    fits = [k for k in task.degrees if steps * task.step_us(k) <= budget_us]
    if not fits:
        return []
    k = fits[0]
    at = task.degrees.index(k)
    if at == 0:
        return [Part(steps, k)]
    j = task.degrees[at - 1]
    slow, fast = task.step_us(j), task.step_us(k)
    wide = min(steps, math.ceil((steps * slow - budget_us) / (slow - fast) - 1e-9))
    parts = [Part(steps - wide, j), Part(wide, k)]
    return [p for p in (parts[::-1] if wide_first else parts) if p.steps > 0]


class Option(NamedTuple):
    width: int
    survives: bool


def options_of(task: Task, parts: list[Part], *, now_us: float, round_us: float, gpus: int) -> list[Option]:
    """M4: do nothing, or run one part for a round; survival is not being certain to be late at the next round."""
    total = sum(p.steps for p in parts)
    options = [Option(0, _survives(task, total, now_us + round_us))]
    for part in parts:
        if part.degree > gpus:
            continue
        ran = min(part.steps, max(1, int(round_us / task.step_us(part.degree))))
        options.append(Option(part.degree, _survives(task, total - ran, now_us + round_us)))
    return options


def _survives(task: Task, steps_left: int, at_us: float) -> bool:
    bound = steps_left * task.step_us(task.fastest) + task.decode_us
    return at_us + bound <= task.deadline_us


def pack(options: list[list[Option]], gpus: int) -> list[int]:
    """The group knapsack of Algorithm 1: a width per request that maximises survivals, narrower among equals."""
    values = [0.0] + [-math.inf] * gpus
    picks: list[list[int]] = []
    for choices in options:
        row, pick = [-math.inf] * (gpus + 1), [0] * (gpus + 1)
        for option in choices:
            gain, width = option.survives - PER_GPU * option.width, option.width
            for used in range(gpus + 1 - width):
                total = values[used] + gain
                if total > row[used + width]:
                    row[used + width], pick[used + width] = total, width
        values = row
        picks.append(pick)
    used = max(range(gpus + 1), key=lambda b: values[b])
    widths = []
    for pick in reversed(picks):
        widths.append(pick[used])
        used -= pick[used]
    return widths[::-1]


class _Round:
    def __init__(self, policy: TetriServe, view: View, tasks: list[Task], gpus: int) -> None:
        self.policy = policy
        self.view = view
        self.round_us = policy.round_us(view.state.costs)
        self.tasks = tasks
        self.left = gpus

    def targets(self) -> list[Target]:
        able, late = self._split()
        widths = pack([o for _, o in able], self.left)
        targets = [Target(t, w, w, "survives the round", True) for (t, _), w in zip(able, widths, strict=True) if w]
        self.left -= sum(widths)
        if self.policy.fill:
            chosen = {t.task.request_id for t in targets}
            self._fill(targets, [t for t, _ in able if t.request_id not in chosen], late)
        if self.policy.scale_up:
            self._scale_up(targets)
        return targets

    def _split(self) -> tuple[list[tuple[Task, list[Option]]], list[Task]]:
        able, late = [], []
        for task in self.tasks:
            budget_us = task.deadline_us - self.view.now_us - task.decode_us - task.encode_us
            parts = minimum_allocation(task, budget_us, wide_first=self.policy.wide_first)
            if parts:
                options = options_of(
                    task, parts, now_us=self.view.now_us, round_us=self.round_us, gpus=self.view.largest
                )
                able.append((task, options))
            else:
                late.append(task)
        return able, late

    def _fill(self, targets: list[Target], waiting: list[Task], late: list[Task]) -> None:
        """Requests with slack on what is left, by deadline; late ones on one GPU, those that run already first."""
        for task in waiting:
            budget_us = task.deadline_us - self.view.now_us - task.decode_us - task.encode_us
            parts = minimum_allocation(task, budget_us, wide_first=self.policy.wide_first)
            width = max((k for k in task.degrees if k <= min(self.left, parts[0].degree)), default=0)
            if width:
                targets.append(Target(task, width, width, "on idle GPUs until the next round", True))
                self.left -= width
        for task in sorted(late, key=lambda t: (t.running is None, t.arrival_us, t.request_id)):
            if self.left >= 1:
                targets.append(Target(task, 1, 1, "late: one GPU that nobody else needs"))
                self.left -= 1

    def _scale_up(self, targets: list[Target]) -> None:
        """Most time saved first, one doubling at a time."""
        while self.left > 0:
            best: tuple[float, int, int] | None = None
            for index, target in enumerate(targets):
                wider = next((k for k in target.task.degrees if k > target.degree), 0)
                if not wider or wider - target.degree > self.left:
                    continue
                saved_us = target.task.run_us(target.degree) - target.task.run_us(wider)
                if best is None or saved_us > best[0]:
                    best = (saved_us, index, wider)
            if best is None:
                return
            self.left -= best[2] - targets[best[1]].degree
            targets[best[1]].degree = best[2]
