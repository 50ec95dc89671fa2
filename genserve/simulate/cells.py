"""Many independent cells behind a two-choices router: what scaling past one decision loop costs; not one loop.

The router sends each request to the less loaded of two cells drawn at random. Load is the GPU time of what it sent
there, draining at the cell's capacity: what an ingress knows without asking. Cells share nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from msgspec.structs import replace

from genserve.domain.costs import CostTable
from genserve.domain.request import RequestSpec, Stage
from genserve.planners.registry import build_planner
from genserve.simulate import compare as c
from genserve.simulate.score import Score, Scorer, score
from genserve.simulate.simulation import simulate


def simulate_cells(
    setting: c.Setting,
    entrant: c.Entrant,
    *,
    cells: int,
    jobs: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Attainment over all cells, and the decision load of each: its share of wall time spent deciding."""
    scenario = c.build_scenario(setting, setting.first_seed)
    routed = route(scenario.requests, scenario.costs, cells=cells, gpus=setting.gpus, seed=setting.first_seed)
    tasks: list[tuple[Any, ...]] = [(_run_cell, setting, entrant, part) for part in routed if part]
    results: list[tuple[Scorer, tuple[int, ...], float]] = c.run_all(tasks, jobs, progress)
    whole = merge([r[0] for r in results], gpus=setting.gpus * cells, decision_us=[u for r in results for u in r[1]])
    span_s = max(1.0, (scenario.requests[-1].arrival_us - scenario.requests[0].arrival_us) / 1e6)
    busy = [sum(r[1]) / 1e6 / span_s for r in results]
    return {
        "parameters": {**c.describe(setting, [entrant]), "cells": cells, "total_gpus": cells * setting.gpus},
        "planners": {entrant.label: c.summarise([whole], against=[whole])},
        "cells": {
            "decision_load_mean": fmean(busy),
            "decision_load_max": max(busy),
            "requests_min": min(len(p) for p in routed),
            "requests_max": max(len(p) for p in routed),
            "wall_s": sum(r[2] for r in results),
        },
    }


def route(
    requests: Sequence[RequestSpec], costs: CostTable, *, cells: int, gpus: int, seed: int
) -> list[tuple[RequestSpec, ...]]:
    """The requests of each cell, by two random choices."""
    draw = random.Random(f"router/{seed}")
    backlog_us, seen_us = [0.0] * cells, [0] * cells
    routed: list[list[RequestSpec]] = [[] for _ in range(cells)]
    for spec in requests:
        pair = draw.sample(range(cells), 2) if cells > 1 else [0]
        for cell in pair:
            backlog_us[cell] = max(0.0, backlog_us[cell] - (spec.arrival_us - seen_us[cell]) * gpus)
            seen_us[cell] = spec.arrival_us
        chosen = min(pair, key=lambda cell: (backlog_us[cell], cell))
        backlog_us[chosen] += work_us(spec, costs)
        routed[chosen].append(spec)
    return [tuple(part) for part in routed]


def work_us(spec: RequestSpec, costs: CostTable) -> int:
    """GPU time of a request on one GPU."""
    stages = sum(costs.stage_us(spec.model, s, spec.shape) for s in (Stage.ENCODE, Stage.DECODE))
    return stages + spec.steps * costs.step_us(spec.model, spec.shape)


def _run_cell(
    setting: c.Setting, entrant: c.Entrant, requests: tuple[RequestSpec, ...]
) -> tuple[Scorer, tuple[int, ...], float]:
    scorer = Scorer()
    single = replace(setting, workload=replace(setting.workload, requests=1, duration_s=0.0))
    scenario = replace(c.build_scenario(single, setting.first_seed), requests=requests)
    began = time.perf_counter()
    planner = build_planner(entrant.name, entrant.parameters)
    run = simulate(planner, scenario, observers=(scorer.watch,), keep_log=False)
    return scorer, run.decision_us, time.perf_counter() - began


def merge(scorers: Sequence[Scorer], *, gpus: int, decision_us: Sequence[int]) -> Score:
    """One score over all cells."""
    whole = Scorer()
    for scorer in scorers:
        whole.absorb(scorer)
    return score(whole, gpus=gpus, decision_us=decision_us)
