"""A proven upper bound on how many requests of a trace can be on time, and a schedule found below it.

Clairvoyant, by linear programming (HiGHS). Relaxed: step boundaries, placement, what changes of course cost, the order
of denoise and decode beyond their windows, encode's GPU time, with whom a batch is shared, and knowledge of the future.
Nothing is added that a real schedule need not obey, so no planner can beat it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from itertools import pairwise

import highspy
import numpy as np
from msgspec import Struct

from genserve.domain.costs import CostTable
from genserve.domain.request import RequestSpec, Stage
from genserve.errors import InvariantBroken
from genserve.planners.save import Save
from genserve.simulate.score import Scorer
from genserve.simulate.simulation import Scenario, simulate

MAX_CELLS = 64_000
"""Requests times points beyond which points are thinned out: a coarser bound is a weaker one, never a wrong one."""


class Bound(Struct, frozen=True):
    """``on_time`` is the bound in whole requests, ``saved`` each request's share in the relaxed optimum."""

    on_time: int
    relaxed: float
    saved: dict[str, float]


def upper_bound(
    requests: Sequence[RequestSpec],
    costs: CostTable,
    *,
    gpus: int,
    largest: int = 8,
    must: Collection[str] = (),
    max_cells: int = MAX_CELLS,
) -> Bound:
    """No schedule on ``gpus`` GPUs with groups of at most ``largest`` has more requests on time.

    With ``must``: no schedule that has all of those on time. Raises InvariantBroken where there is none.
    """
    model = _Model(requests, costs, gpus, largest, max_cells)
    model.lower = [float(r.request_id in must) for r in requests]
    values, objective = model.solve()
    saved = {r.request_id: float(values[i]) for i, r in enumerate(requests)}
    return Bound(math.floor(objective + 1e-6), objective, saved)


class _Model:
    """Columns: one share per request, then time in each interval of its window, by degree and batch."""

    def __init__(
        self, requests: Sequence[RequestSpec], costs: CostTable, gpus: int, largest: int, max_cells: int
    ) -> None:
        self.shares = len(requests)
        self.upper = [1.0] * self.shares
        self.lower = [0.0] * self.shares
        self.entries: list[list[tuple[int, float]]] = []
        self.limits: list[tuple[float, float]] = []
        self.points = _points(requests, costs, max_cells)
        lengths = [(b - a) / 1e6 for a, b in pairwise(self.points)]
        self.capacity: list[list[tuple[int, float]]] = [[] for _ in lengths]
        self.lengths = lengths
        for row, spec in enumerate(requests):
            self._add(row, spec, costs, largest)
        for entries, length in zip(self.capacity, lengths, strict=True):
            if entries:
                self._row(entries, -math.inf, gpus * length)

    def _row(self, entries: list[tuple[int, float]], low: float, high: float) -> None:
        self.entries.append(entries)
        self.limits.append((low, high))

    def _column(self, upper: float) -> int:
        self.upper.append(upper)
        return len(self.upper) - 1

    def _add(self, share: int, spec: RequestSpec, costs: CostTable, largest: int) -> None:
        encode, decode = (costs.stage_us(spec.model, s, spec.shape) for s in (Stage.ENCODE, Stage.DECODE))
        release = spec.arrival_us + encode
        first, last = bisect_right(self.points, release) - 1, bisect_left(self.points, spec.deadline_us)
        denoise_until = bisect_left(self.points, spec.deadline_us - decode)
        degrees = [k for k in costs.degrees(spec.model, spec.shape) if k <= largest]
        steps = [way for k in degrees for way in _ways(costs, spec, Stage.DENOISE, k)]
        decodes = _ways(costs, spec, Stage.DECODE, 1)
        denoised: list[tuple[int, float]] = [(share, -1.0)]
        decoded: list[tuple[int, float]] = [(share, -1.0)]
        for i in range(first, last):
            together = self._spend(i, decodes, decoded)
            if i < denoise_until:
                together += self._spend(i, [(us * spec.steps, gpus) for us, gpus in steps], denoised)
            self._row(together, -math.inf, self.lengths[i])
        self._row(denoised, 0.0, math.inf)
        self._row(decoded, 0.0, math.inf)

    def _spend(
        self, interval: int, ways: Sequence[tuple[float, float]], done: list[tuple[int, float]]
    ) -> list[tuple[int, float]]:
        """Columns of time spent in an interval in each of several ways, entered where they count."""
        columns = []
        for whole_us, gpus in ways:
            column = self._column(self.lengths[interval])
            done.append((column, 1e6 / max(1, whole_us)))
            self.capacity[interval].append((column, gpus))
            columns.append((column, 1.0))
        return columns

    def solve(self) -> tuple[np.ndarray, float]:
        lp = highspy.HighsLp()
        columns, rows = len(self.upper), len(self.entries)
        lp.num_col_, lp.num_row_ = columns, rows
        cost = np.zeros(columns)
        cost[: self.shares] = -1.0
        lower = np.zeros(columns)
        lower[: self.shares] = self.lower
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, lower, np.array(self.upper)
        lp.row_lower_ = np.array([_finite(low) for low, _ in self.limits])
        lp.row_upper_ = np.array([_finite(high) for _, high in self.limits])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.cumsum([0, *(len(row) for row in self.entries)])
        lp.a_matrix_.index_ = np.array([c for row in self.entries for c, _ in row])
        lp.a_matrix_.value_ = np.array([v for row in self.entries for _, v in row])
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        solver.passModel(lp)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise InvariantBroken("bound_not_solved", f"HiGHS says {solver.getModelStatus()} for {rows} rows")
        return np.array(solver.getSolution().col_value), -solver.getInfo().objective_function_value


def _ways(costs: CostTable, spec: RequestSpec, stage: Stage, degree: int) -> list[tuple[float, float]]:
    """Time and GPUs per request of a step or stage: alone, and in each measured batch that makes it cheaper."""
    ways: list[tuple[float, float]] = []
    cheapest = math.inf
    for batch in costs.batches(spec.model, spec.shape, degree=degree, stage=stage):
        if stage is Stage.DENOISE:
            us = costs.step_us(spec.model, spec.shape, degree=degree, batch=batch)
        else:
            us = costs.stage_us(spec.model, stage, spec.shape, batch=batch)
        if us / batch < cheapest:
            cheapest = us / batch
            ways.append((us, degree / batch))
    return ways


def _finite(value: float) -> float:
    return math.copysign(highspy.kHighsInf, value) if math.isinf(value) else value


def _points(requests: Sequence[RequestSpec], costs: CostTable, max_cells: int) -> list[int]:
    """Where intervals begin and end; of a long trace only some: windows widen to the next, which keeps it a bound."""
    points: set[int] = set()
    for spec in requests:
        encode, decode = (costs.stage_us(spec.model, s, spec.shape) for s in (Stage.ENCODE, Stage.DECODE))
        points |= {spec.arrival_us + encode, spec.deadline_us - decode, spec.deadline_us}
    ordered = sorted(points)
    every = -(-len(ordered) * len(requests) // max_cells)
    return sorted({*ordered[::every], ordered[-1]}) if every > 1 else ordered


def clairvoyant(scenario: Scenario, bound: Bound, *, rounds: int = 4) -> int:
    """Requests on time in the best schedule found: our policy, told whom to give up by the relaxed optimum.

    Those given up are never run, which the objective allows. Each round gives up whoever was late in the best run and
    takes back whoever the bound would save.
    """
    keep = {r.request_id for r in scenario.requests}
    best = met = _run(scenario, keep)
    for share in (0.5, 0.05):
        trial = _run(scenario, {r for r, y in bound.saved.items() if y >= share})
        best = max(best, trial, key=len)
    for _ in range(rounds):
        met = _run(scenario, best)
        if len(met) <= len(best):
            back = sorted(set(bound.saved) - best, key=lambda r: (-bound.saved[r], r))[:1]
            met = _run(scenario, best | set(back))
        best = max(best, met, key=len)
    return len(best)


def _run(scenario: Scenario, keep: set[str]) -> set[str]:
    scorer = Scorer()
    kept = tuple(r for r in scenario.requests if r.request_id in keep)
    if not kept:
        return set()
    scenario = Scenario(kept, scenario.costs, scenario.gpus, scenario.gpus_per_node, seed=scenario.seed)
    simulate(Save(phi=0.0), scenario, observers=(scorer.watch,), keep_log=False)
    return {o.request_id for o in scorer.outcomes if o.is_met}
