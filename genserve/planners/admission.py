"""Admission: may this request be promised its deadline, and if not, which one could be? Optional; no planner calls it.

With SAVE's own numbers: the newcomer is admitted if every prefix of deadlines from its own on still fits into
``fill`` of the free GPU time, less what cheaper classes are forecast to bring. Whoever is admitted should be scheduled
by ``save:admitted=true``, which never gives up an admitted request.
"""

from __future__ import annotations

from msgspec import Struct

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.request import RequestSpec
from genserve.planners.memory import ADMISSION_WINDOW_US, Arrivals, Memory, forecast_classes
from genserve.planners.save import Save, find_need
from genserve.planners.view import Task, View, profile_of


class Verdict(Struct, frozen=True):
    """``quote_us`` is the earliest deadline that could be promised; the asked-for one if admitted, 0 if none can."""

    is_admitted: bool
    quote_us: int
    reason: str = ""


def judge(state: ClusterState, memory: Memory, spec: RequestSpec, *, fill: float = 0.75) -> Verdict:
    """Whether ``spec``, arriving at ``state.clock_us``, can be promised its deadline."""
    view = View(state)
    if not view.gpus:
        return Verdict(False, 0, "no worker has joined")
    newcomer = _newcomer(view, spec)
    if not find_need(newcomer, view, Save()):
        return Verdict(False, _quote(view, newcomer, 0.0), "no degree is fast enough for its deadline")
    admitted = [t for t in view.tasks if not t.is_bound]
    for task in admitted:
        if not find_need(task, view, Save()):
            task.work = _alone_us(task)
    dear = newcomer.work
    cheaper = [c for c in forecast_classes(memory, view, window_us=ADMISSION_WINDOW_US) if c.cost_us < dear]
    full_us = _last_too_full(view, admitted, newcomer, cheaper, fill=fill)
    if full_us is None:
        return Verdict(True, spec.deadline_us)
    return Verdict(False, _quote(view, newcomer, full_us), f"the pool is promised until {round(full_us)} us")


def _newcomer(view: View, spec: RequestSpec) -> Task:
    request = Request(spec=spec, submitted_us=view.state.clock_us)
    pace = view.class_pace(spec.model, spec.shape)
    return Task(request, profile_of(view.state.costs, spec.model, spec.shape), pace, view.largest)


def _alone_us(task: Task) -> float:
    """What is left of it on one GPU: also what an admitted request still wants once it is late."""
    return task.run_us(1) + task.decode_us + task.encode_us


def _last_too_full(
    view: View, admitted: list[Task], newcomer: Task, cheaper: list[Arrivals], *, fill: float
) -> float | None:
    """The last deadline from the newcomer's own on whose prefix would be too full; None if all fit."""
    due, last = 0.0, None
    for task in sorted([*admitted, newcomer], key=lambda t: t.key):
        due += task.work
        if task.deadline_us < newcomer.deadline_us:
            continue
        horizon = task.deadline_us - view.now_us
        expected = sum(c.per_us * c.cost_us * (horizon - c.allowance_us) for c in cheaper if c.allowance_us < horizon)
        if due > fill * (view.gpus * horizon - view.bound_us) - expected:
            last = float(task.deadline_us)
    return last


def _quote(view: View, newcomer: Task, after_us: float) -> int:
    """Where its work on one GPU fits behind the last prefix that is too full."""
    return round(max(view.now_us, after_us) + _alone_us(newcomer))
