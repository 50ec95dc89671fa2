"""Several planners on the same seeds: means with 95% intervals, paired gains, the bound; not printing (see report)."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from statistics import fmean, stdev
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from genserve.domain.costs import CostTable, Prices
from genserve.domain.request import Media
from genserve.planners.admission import Admission
from genserve.planners.interface import Parameter
from genserve.planners.registry import build_planner
from genserve.simulate.avoidable import Avoidable, avoidable_refusals
from genserve.simulate.bound import Bound, clairvoyant, upper_bound
from genserve.simulate.calibration import Calibration, load_calibration
from genserve.simulate.score import Score, Scorer, score
from genserve.simulate.simulation import Scenario, simulate
from genserve.simulate.truth import NO_ERRORS, Errors, true_costs
from genserve.simulate.workloads import Workload, draw_requests

T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 14: 2.14, 19: 2.09, 29: 2.05}


class Entrant(Struct, frozen=True):
    """A planner in a comparison; ``label`` is how the result names it."""

    name: str
    parameters: dict[str, Parameter] = {}

    @property
    def label(self) -> str:
        """As it is written on the command line."""
        return ":".join([self.name, *(f"{k}={_written(v)}" for k, v in sorted(self.parameters.items()))])


class Setting(Struct, frozen=True):
    """Everything the runs have in common.

    ``switch_s`` replaces the price of a change of degree and resume together. ``is_told``: planners know the true
    step times, which is what a run with errors is to be compared with.
    """

    workload: Workload = Workload()
    gpus: int = 8
    gpus_per_node: int = 8
    seeds: int = 20
    first_seed: int = 0
    switch_s: float | None = None
    errors: Errors = NO_ERRORS
    admission: Admission | None = None
    is_told: bool = False


def _written(value: Parameter) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def parse_entrant(text: str) -> Entrant:
    """``name`` or ``name:parameter=value:parameter=value``; values are JSON, else text."""
    name, *pairs = text.strip().split(":")
    return Entrant(name, dict(map(_parse_parameter, pairs)))


def _parse_parameter(pair: str) -> tuple[str, Parameter]:
    key, _, value = pair.partition("=")
    try:
        parsed: Parameter = msgspec.json.decode(value, type=bool | int | float)
    except msgspec.DecodeError:
        parsed = value
    return key.strip(), parsed


def build_scenario(setting: Setting, seed: int) -> Scenario:
    """The scenario of one seed; equal for every planner."""
    calibration = load_calibration(setting.workload.calibration)
    costs = calibration.costs
    if setting.switch_s is not None:
        total_us = round(setting.switch_s * 1e6)
        prices = Prices(total_us * 9 // 10, 0, total_us // 10, 0, costs.prices.load_us)
        costs = replace(costs, prices=prices)
    requests = draw_requests(setting.workload, calibration, seed=seed)
    errors = setting.errors
    if setting.is_told:
        costs, errors = true_costs(costs, errors, seed=seed), Errors(noise=errors.noise)
    pool = (setting.gpus, setting.gpus_per_node, errors)
    return Scenario(
        requests, CostTable(costs), *pool, seed=seed, deferral=calibration.deferral, admission=setting.admission
    )


def run_one(setting: Setting, entrant: Entrant, seed: int) -> Score:
    """One planner on one seed."""
    scorer = Scorer()
    scenario = build_scenario(setting, seed)
    planner = build_planner(entrant.name, entrant.parameters)
    run = simulate(planner, scenario, observers=(scorer.watch,), keep_log=False)
    return score(scorer, gpus=setting.gpus, decision_us=run.decision_us)


class Door(Struct, frozen=True):
    """What admission did on one seed: requests on time with it and with an open door, and refusals in requests."""

    met: int
    met_open: int
    images_refused: int
    avoidable: Avoidable


def door_one(setting: Setting, entrant: Entrant, seed: int) -> Door:
    """One planner on one seed, with admission and with an open door, where nothing was promised."""
    scorer, scenario = Scorer(), build_scenario(setting, seed)
    planner = build_planner(entrant.name, entrant.parameters)
    simulate(planner, scenario, observers=(scorer.watch,), keep_log=False)
    outcomes = scorer.outcomes
    met = {o.request_id for o in outcomes if o.is_met}
    refused = {o.request_id for o in outcomes if o.is_refused}
    return Door(
        met=len(met),
        met_open=round(
            run_one(replace(setting, admission=None), _open(entrant), seed).attainment["all"] * len(outcomes)
        ),
        images_refused=sum(o.is_refused for o in outcomes if o.media is Media.IMAGE),
        avoidable=avoidable_refusals(_as_it_is(scenario), met=met, refused=refused),
    )


def _open(entrant: Entrant) -> Entrant:
    """The same planner without the promise that everything in the pool fits."""
    return Entrant(entrant.name, {k: v for k, v in entrant.parameters.items() if k != "admitted"})


def bound_one(setting: Setting, seed: int) -> tuple[float, float]:
    """The proven upper bound and the best schedule found, as shares of the requests of one seed."""
    scenario, bound = prove_one(setting, seed)
    count = max(1, len(scenario.requests))
    return bound.on_time / count, clairvoyant(scenario, bound) / count


def prove_one(setting: Setting, seed: int) -> tuple[Scenario, Bound]:
    """The scenario of one seed as it really is, but for noise, and the proven bound of it."""
    scenario = _as_it_is(build_scenario(setting, seed))
    largest = 1 << (min(setting.gpus, setting.gpus_per_node).bit_length() - 1)
    return scenario, upper_bound(scenario.requests, scenario.costs, gpus=setting.gpus, largest=largest)


def _as_it_is(scenario: Scenario) -> Scenario:
    costs = true_costs(scenario.costs.data, scenario.errors, seed=scenario.seed)
    return replace(scenario, costs=CostTable(costs), errors=NO_ERRORS)


def compare(
    setting: Setting,
    entrants: Sequence[Entrant],
    *,
    with_bound: bool = False,
    jobs: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """The whole result as it goes to JSON. Runs use ``jobs`` processes, by default one per core."""
    for entrant in entrants:
        build_planner(entrant.name, entrant.parameters)
    build_scenario(setting, setting.first_seed)
    seeds = range(setting.first_seed, setting.first_seed + setting.seeds)
    tasks: list[tuple[Any, ...]] = [(run_one, setting, e, s) for e in entrants for s in seeds]
    if with_bound:
        tasks += [(bound_one, setting, s) for s in seeds]
    if setting.admission is not None:
        tasks += [(door_one, setting, e, s) for e in entrants for s in seeds]
    results = run_all(tasks, jobs, progress)
    scores = {e.label: results[i * len(seeds) : (i + 1) * len(seeds)] for i, e in enumerate(entrants)}
    outcome: dict[str, Any] = {"parameters": describe(setting, entrants), "planners": {}}
    first = next(iter(scores.values()), [])
    for label, of in scores.items():
        outcome["planners"][label] = summarise(of, against=first)
    if with_bound:
        bounds = results[len(entrants) * len(seeds) : (len(entrants) + 1) * len(seeds)]
        outcome["bound"] = _summarise_bound(bounds, scores)
    if setting.admission is not None:
        doors = results[-len(entrants) * len(seeds) :]
        for i, (label, of) in enumerate(scores.items()):
            row = _summarise_doors(doors[i * len(seeds) : (i + 1) * len(seeds)], of)
            outcome["planners"][label]["admission"] = row
    return outcome


def run_all(tasks: list[tuple[Any, ...]], jobs: int, progress: Callable[[int, int], None]) -> list[Any]:
    """The results of (function, arguments...) in order, on all cores."""
    jobs = jobs or multiprocessing.cpu_count()
    if jobs == 1 or len(tasks) == 1:
        return list(_counted((task[0](*task[1:]) for task in tasks), len(tasks), progress))
    results: list[Any] = [None] * len(tasks)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(task[0], *task[1:]): i for i, task in enumerate(tasks)}
        for done, future in enumerate(as_completed(futures), start=1):
            results[futures[future]] = future.result()
            progress(done, len(tasks))
    return results


def _counted(items: Iterator[Any], total: int, progress: Callable[[int, int], None]) -> Iterator[Any]:
    for done, item in enumerate(items, start=1):
        progress(done, total)
        yield item


def describe(setting: Setting, entrants: Sequence[Entrant]) -> dict[str, Any]:
    """Every parameter of a run, for the result file."""
    calibration = load_calibration(setting.workload.calibration)
    prices = setting.switch_s
    built: dict[str, Any] = msgspec.to_builtins(setting)
    built["calibration"] = {"name": calibration.name, "note": calibration.note}
    built["largest_class"] = _largest_class(calibration)
    built["prices"] = asdict(calibration.costs.prices) if prices is None else {"switch_and_resume_s": prices}
    built["planners"] = {e.label: dict(build_planner(e.name, e.parameters).parameters()) for e in entrants}
    return built


def _largest_class(calibration: Calibration) -> str:
    """The class with the most work: where a planner that starves somebody shows first."""
    table = calibration.table
    return max(calibration.classes, key=lambda c: c.steps * table.step_us(c.model, c.shape)).label


# ── summaries ────────────────────────────────────────────────────────────────────────────────────────────


def mean_ci(values: Sequence[float]) -> dict[str, float]:
    """Mean and half width of its 95% interval (Student's t)."""
    if not values:
        return {"mean": 0.0, "ci95": 0.0}
    if len(values) < 2:
        return {"mean": values[0], "ci95": 0.0}
    freedom = len(values) - 1
    t = next((v for k, v in sorted(T_95.items()) if k >= freedom), 1.98)
    return {"mean": fmean(values), "ci95": t * stdev(values) / math.sqrt(len(values))}


def summarise(scores: Sequence[Score], *, against: Sequence[Score]) -> dict[str, Any]:
    """One planner over all seeds; ``gain_of_first`` is the first planner's attainment minus this one's, paired."""
    groups = sorted({g for s in scores for g in s.attainment})
    shares = {g: mean_ci([s.attainment[g] for s in scores if g in s.attainment]) for g in groups}
    gains = [a.attainment["all"] - b.attainment["all"] for a, b in zip(against, scores, strict=True)]
    return {
        "attainment": shares.pop("all"),
        "image": shares.pop("image", None),
        "video": shares.pop("video", None),
        "classes": shares,
        "served": {g: fmean(s.served[g] for s in scores if g in s.served) for g in groups},
        "gain_of_first": mean_ci(gains),
        "latency_s": {g: _mean_maps([s.latency_s.get(g, {}) for s in scores]) for g in groups},
        "heavy_share": mean_ci([s.heavy_share for s in scores]),
        "refused": fmean(s.refused for s in scores),
        "admitted_on_time": fmean(s.admitted_on_time for s in scores),
        "completed": fmean(s.completed for s in scores),
        "worst_lateness": max(s.worst_lateness for s in scores),
        "pauses_per_request": fmean(s.pauses for s in scores),
        "switches_per_request": fmean(s.switches for s in scores),
        "utilization": fmean(s.utilization for s in scores),
        "decisions_per_request": fmean(s.decisions / max(1, s.requests) for s in scores),
        "decision_us": {
            k: max(s.decision_us[k] for s in scores) if k == "max" else fmean(s.decision_us[k] for s in scores)
            for k in ("p50", "p99", "max")
        },
        "per_seed": [s.attainment["all"] for s in scores],
    }


def _mean_maps(maps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    full = [m for m in maps if m]
    return {k: fmean(m[k] for m in full) for k in full[0]} if full else {}


def _summarise_bound(pairs: Sequence[tuple[float, float]], scores: Mapping[str, Sequence[Score]]) -> dict[str, Any]:
    uppers, found = [p[0] for p in pairs], [p[1] for p in pairs]
    reached = {label: fmean(s.attainment["all"] for s in of) / max(1e-9, fmean(uppers)) for label, of in scores.items()}
    return {**mean_ci(uppers), "found": mean_ci(found), "reached": reached, "per_seed": uppers}


def _summarise_doors(doors: Sequence[Door], scores: Sequence[Score]) -> dict[str, Any]:
    """``goodput`` is against an open door; shares of refusals are of all arrivals, of images those of images."""
    arrived = sum(s.requests for s in scores)
    images = sum(s.images for s in scores)
    return {
        "admitted": 1 - sum(s.refused * s.requests for s in scores) / arrived,
        "images_admitted": 1 - sum(d.images_refused for d in doors) / max(1, images),
        "goodput": sum(d.met for d in doors) / max(1, sum(d.met_open for d in doors)),
        "admitted_on_time_worst": min(s.admitted_on_time for s in scores),
        "avoidable_refusals": sum(d.avoidable.found for d in doors) / arrived,
        "avoidable_refusals_at_most": sum(d.avoidable.at_most for d in doors) / arrived,
    }
