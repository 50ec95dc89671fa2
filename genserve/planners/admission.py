"""Admission: may this request be promised its deadline, and if not, which one could be? Optional; no planner calls it.

With SAVE's own numbers: the newcomer is admitted if every prefix of deadlines from its own on still fits into
``fill`` of the free GPU time, less ``reserve`` times what cheaper classes are forecast to bring. Whoever is admitted
should be scheduled by ``save:admitted=true``, which never gives up an admitted request. When verdicts fall is not
decided here (see scheduling.verdicts).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.request import RequestSpec
from genserve.planners.memory import ADMISSION_WINDOW_US, Arrivals, Memory, forecast_classes
from genserve.planners.need import find_need
from genserve.planners.view import Task, View


class Admission(Struct, frozen=True):
    """How full the pool may be promised (the specification's 0.75), and how long a verdict may stay open."""

    fill: float = 0.75
    patience_us: int = 0

    @property
    def reserve(self) -> float:
        """How much of the forecast is kept free. Whoever may wait is tested again, so keeping more room costs little,
        and under bursts the forecast is too low just when it matters: 2 was best at 20 s, 1 at once (simulated).
        """
        return 2.0 if self.patience_us else 1.0


class Verdict(Struct, frozen=True):
    """``quote_us`` is the earliest deadline that could be promised; the asked-for one if admitted, 0 if none can.

    ``is_hopeless``: waiting cannot change it, for the deadline only comes nearer.
    """

    is_admitted: bool
    quote_us: int
    reason: str = ""
    is_hopeless: bool = False


def judge(state: ClusterState, memory: Memory, spec: RequestSpec, *, fill: float = 0.75) -> Verdict:
    """Whether ``spec`` can be promised its deadline at ``state.clock_us``."""
    return Promises(state, memory, fill=fill).judge(spec)


class Promises:
    """What the pool has promised at ``state.clock_us``; each request that ``admit`` adds counts for those after it."""

    def __init__(self, state: ClusterState, memory: Any, *, fill: float, reserve: float = 1.0) -> None:
        self._view = View(state)
        self._fill = fill
        self._reserve = reserve
        known = memory if isinstance(memory, Memory) else Memory()
        self._classes = forecast_classes(known, self._view, window_us=ADMISSION_WINDOW_US)
        self._due = [(t.key, _owed_us(t, self._view)) for t in self._view.tasks]

    def judge(self, spec: RequestSpec) -> Verdict:
        """The verdict on one more request, which changes nothing."""
        view = self._view
        if not view.gpus:
            return Verdict(False, 0, "no worker has joined")
        newcomer = _newcomer(view, spec)
        if not find_need(newcomer, view):
            quote_us = _quote(view, newcomer, 0.0)
            return Verdict(False, quote_us, "no degree is fast enough for its deadline", is_hopeless=True)
        full_us = self._last_too_full(newcomer)
        if full_us is None:
            return Verdict(True, spec.deadline_us)
        full_ms = round((full_us - spec.arrival_us) / 1000)
        reason = f"the pool is promised to others until {full_ms} ms after its arrival"
        return Verdict(False, _quote(view, newcomer, full_us), reason)

    def admit(self, spec: RequestSpec) -> None:
        """Count it from here on."""
        newcomer = _newcomer(self._view, spec)
        find_need(newcomer, self._view)
        insort(self._due, (newcomer.key, newcomer.work))

    def judge_together(self, specs: Sequence[RequestSpec]) -> Verdict:
        """One verdict for the requests of one call: all are admitted, and count from here on, or none is."""
        before = list(self._due)
        verdict = Verdict(False, 0)
        for spec in specs:
            verdict = self.judge(spec)
            if not verdict.is_admitted:
                self._due = before
                break
            self.admit(spec)
        return verdict

    def _last_too_full(self, newcomer: Task) -> float | None:
        """The last deadline from the newcomer's own on whose prefix would be too full; None if all fit."""
        view, last, due = self._view, None, 0.0
        cheaper = _cheaper(self._classes, newcomer)
        table = list(self._due)
        insort(table, (newcomer.key, newcomer.work))
        for (deadline_us, _), work in table:
            due += work
            if deadline_us < newcomer.deadline_us:
                continue
            horizon = deadline_us - view.now_us
            expected = sum(c.load * (horizon - c.allowance_us) for c in cheaper if c.allowance_us < horizon)
            if due > self._fill * (view.gpus * horizon - view.bound_us(horizon)) - self._reserve * expected:
                last = float(deadline_us)
        return last


def _cheaper(classes: Sequence[Arrivals], newcomer: Task) -> list[Arrivals]:
    return [c for c in classes if c.cost_us < newcomer.work]


def _owed_us(task: Task, view: View) -> float:
    """GPU time that a promised request still wants. Decodes under way are in ``View.bound_us``."""
    if task.is_bound:
        return task.degree * task.run_us(task.degree) + task.decode_us if task.steps else 0.0
    return task.work if find_need(task, view) else _alone_us(task)


def _newcomer(view: View, spec: RequestSpec) -> Task:
    return view.task(Request(spec=spec, submitted_us=view.state.clock_us))


def _alone_us(task: Task) -> float:
    """What is left of it on one GPU: also what an admitted request still wants once it is late."""
    return task.run_us(1) + task.decode_us + task.encode_us


def _quote(view: View, newcomer: Task, after_us: float) -> int:
    """Where its work on one GPU fits behind the last prefix that is too full."""
    return round(max(view.now_us, after_us) + _alone_us(newcomer))
