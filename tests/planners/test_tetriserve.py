"""TetriServe: what a faithful implementation must show (list of the spec), on small cases made by hand.

Tests are named after the line they show. Lines 5, 7 and 10 to 13 need whole runs too, on the FLUX calibration.
"""

from __future__ import annotations

import itertools
import random
from statistics import fmean
from typing import Any

import pytest

from genserve.domain import events as e
from genserve.domain.plan import Start
from genserve.domain.request import Stage
from genserve.planners.tetriserve import Option, Part, TetriServe, minimum_allocation, pack, reference_step_us
from genserve.simulate.calibration import load_calibration
from genserve.simulate.compare import Entrant, Setting, build_scenario, parse_entrant, run_one
from genserve.simulate.simulation import simulate
from genserve.simulate.workloads import Workload
from tests.planners.counting import lines_run
from tests.planners.states import a_scene, a_spec, a_task, free_of_charge, started, stopped

FLUX = load_calibration("tetriserve")
COSTS = free_of_charge(FLUX)
ROUNDS = TetriServe(round_ms=500)


def image(side: int, name: str, **changes: object):  # type: ignore[no-untyped-def]
    return a_spec(f"image-{side}", name, calibration=FLUX, **changes)


def test_1_widths_are_powers_of_two_and_never_exceed_the_pool() -> None:
    scene = a_scene(8, costs=COSTS).wait(*(image(s, f"r{s}") for s in (256, 512, 1024, 2048)))
    widths = started(ROUNDS.plan(scene.at(0.5), 0))
    assert set(widths.values()) <= {1, 2, 4, 8}
    assert sum(widths.values()) <= 8


def test_2_the_knapsack_equals_brute_force_over_the_same_options() -> None:
    draw = random.Random(1)
    for _ in range(50):
        options = [
            [Option(0, draw.random() < 0.5), *(Option(w, draw.random() < 0.7) for w in draw.sample((1, 2, 4), 2))]
            for _ in range(4)
        ]
        widths = pack(options, 4)
        got = sum(next(o.survives for o in row if o.width == w) for row, w in zip(options, widths, strict=True))
        combos = (c for c in itertools.product(*options) if sum(o.width for o in c) <= 4)
        assert got == max(sum(o.survives for o in c) for c in combos)


def test_3_the_split_meets_the_deadline_and_no_cheaper_two_degree_split_does() -> None:
    task = a_task(a_scene(8, costs=COSTS).wait(image(1024, "r")).at(0), "r")
    budget_us = 2_900_000.0
    parts = minimum_allocation(task, budget_us)
    assert parts == [Part(22, 2), Part(28, 4)]
    time_us = sum(p.steps * task.step_us(p.degree) for p in parts)
    cost = sum(p.steps * p.degree * task.step_us(p.degree) for p in parts)
    assert time_us <= budget_us
    for j, k in itertools.pairwise(task.degrees):
        for wide in range(51):
            other_us = (50 - wide) * task.step_us(j) + wide * task.step_us(k)
            other = (50 - wide) * j * task.step_us(j) + wide * k * task.step_us(k)
            assert other_us > budget_us or other >= cost - 1e-6


def test_3_a_deadline_that_no_degree_meets_has_no_allocation() -> None:
    task = a_task(a_scene(8, costs=COSTS).wait(image(2048, "r")).at(0), "r")
    assert minimum_allocation(task, 1_000_000) == []


def test_4_the_smallest_resolution_runs_on_one_gpu_when_that_meets_its_deadline() -> None:
    task = a_task(a_scene(8, costs=COSTS).wait(image(256, "r")).at(0), "r")
    assert minimum_allocation(task, 1_400_000) == [Part(50, 1)]


def test_5_an_arrival_during_a_round_is_first_considered_at_the_next_round_start() -> None:
    planner = TetriServe(round_ms=500)
    scene = a_scene(8, costs=COSTS).wait(image(256, "r", arrival_us=600_000))
    plan = planner.plan(scene.at(0.6), 1)
    assert (plan.actions, plan.wake_at_us) == ((), 1_000_000)
    assert started(planner.plan(scene.at(1.0), 1)) == {"r": 2}


def test_5_in_a_run_every_first_start_comes_at_or_after_the_round_start_that_follows_the_arrival() -> None:
    planner = TetriServe(round_ms=500)
    scenario = build_scenario(Setting(Workload("tetriserve", rate=12, requests=30)), 0)
    arrived: dict[str, int] = {}
    for r in simulate(planner, scenario).log:
        if isinstance(r.event, e.RequestSubmitted):
            arrived[r.stream] = r.recorded_us
        elif isinstance(r.event, e.StageStarted) and r.stream in arrived:
            assert r.recorded_us // 500_000 > arrived.pop(r.stream) // 500_000


def test_6_a_late_request_takes_no_gpu_that_a_surviving_one_could_use() -> None:
    scene = a_scene(1, costs=COSTS).wait(image(256, "late", within=0.1), image(256, "able", within=1.9))
    assert list(started(ROUNDS.plan(scene.at(0.5), 0))) == ["able"]


def test_7_a_continuing_request_keeps_its_gpus() -> None:
    scene = a_scene(2, costs=COSTS).run(image(1024, "a", within=9), "w0", "w1", step=10)
    plan = ROUNDS.plan(scene.at(0.5), 0)
    assert plan.actions == ()


def test_7_a_run_counts_its_moves_and_few_steps_are_followed_by_one() -> None:
    """A move is a denoising segment that shares no GPU with the request's last one."""
    scenario = build_scenario(Setting(Workload("tetriserve", rate=12, requests=40)), 0)
    last: dict[str, tuple[str, ...]] = {}
    moves = 0
    for r in simulate(TetriServe(), scenario).log:
        if isinstance(r.event, e.StageStarted) and r.event.stage is Stage.DENOISE:
            moves += r.stream in last and not set(last[r.stream]) & set(r.event.workers)
            last[r.stream] = r.event.workers
    assert len(last) == 40
    assert moves / 40 < 0.5


def test_8_after_scale_up_no_gpu_is_idle_while_somebody_could_run_faster_on_it() -> None:
    state = a_scene(8, costs=COSTS).wait(image(2048, "r", within=30)).at(0.5)
    assert started(ROUNDS.plan(state, 0)) == {"r": 8}
    assert started(TetriServe(round_ms=500, scale_up=False).plan(state, 0))["r"] < 8


def test_9_the_knapsack_grows_linearly_in_requests_and_looks_at_each_option_once_per_budget() -> None:
    def work(requests: int) -> int:
        row = [Option(0, True), Option(1, True), Option(2, False)]
        return lines_run(pack, [row] * requests, 8)

    assert work(48) < 2.05 * work(24)
    assert work(48) < 10 * (48 * 3 * 9)


def test_a_running_request_is_widened_at_a_round_start_only_where_that_is_faster() -> None:
    scene = a_scene(8, costs=COSTS).run(image(256, "a", within=9), "w0", "w1", step=10)
    assert stopped(ROUNDS.plan(scene.at(0.5), 0)) == []


def test_the_round_is_five_steps_of_the_largest_shape_at_its_usual_degree() -> None:
    assert reference_step_us(COSTS) == COSTS.step_us("flux.1-dev", image(2048, "r").shape, degree=8)
    assert TetriServe().round_us(COSTS) == 491_240


def on_time(planner: str, *, seeds: int = 2, **fields: Any) -> float:
    workload = Workload("tetriserve", **{"rate": 12.0, "requests": 60, **fields})
    entrant = parse_entrant(planner)
    return fmean(run_one(Setting(workload), entrant, seed).attainment["all"] for seed in range(seeds))


def by_granularity(steps: int) -> float:
    return on_time(f"tetriserve:granularity={steps}", rate=18.0, sigma=1.2, sizes="skewed")


def test_10_rounds_of_ten_and_fifteen_steps_are_too_coarse_under_load() -> None:
    assert by_granularity(5) > by_granularity(10) > by_granularity(15)


@pytest.mark.xfail(
    strict=True,
    reason="a round of one step is the best here (50% against 46 for five, 38 and 33 for ten and fifteen): the paper's "
    "cost of a round is that of its scheduler and launches, for which no number is published and ours charges none",
)
def test_10_rounds_of_one_step_are_worse_than_of_five() -> None:
    assert by_granularity(1) < by_granularity(5)


@pytest.mark.parametrize("sizes", ["uniform", "skewed"])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_11_placement_preservation_helps_and_the_full_system_is_the_highest(sizes: str, scale: float) -> None:
    bare, preserving = "tetriserve:scale_up=false:placement_preservation=false", "tetriserve:scale_up=false"
    column = [on_time(p, sigma=scale, sizes=sizes) for p in (bare, preserving, "tetriserve")]
    assert column == sorted(set(column))


def test_12_attainment_rises_with_the_deadline_scale_and_falls_with_the_rate() -> None:
    def on_time(**changes: float) -> float:
        fields = {"rate": 12.0, "sigma": 1.0, **changes}
        setting = Setting(Workload("tetriserve", requests=100, **fields))  # type: ignore[arg-type]
        return run_one(setting, Entrant("tetriserve"), 0).attainment["all"]

    assert on_time(sigma=1.5) > on_time() > on_time(rate=30.0)


def test_13_one_gpu_is_best_for_256_and_fails_2048_and_eight_gpus_the_reverse() -> None:
    def by_side(degree: int) -> dict[str, float]:
        setting = Setting(Workload("tetriserve", rate=12, requests=120, sigma=1.1))
        return run_one(setting, Entrant("static_sp", {"rule": "fixed", "degree": degree}), 0).attainment

    one, eight = by_side(1), by_side(8)
    assert one["image-256"] > eight["image-256"]
    assert (one["image-2048"], eight["image-2048"] > 0) == (0.0, True)


def test_14_at_scale_1_a_2048_image_is_feasible_only_with_all_gpus() -> None:
    task = a_task(a_scene(8, costs=COSTS).wait(image(2048, "r")).at(0), "r")
    able = [k for k in task.degrees if task.slack_us(0, k) >= 0]
    assert able == []
    assert task.slack_us(0, 8) > -0.1 * task.deadline_us


def test_starts_and_ends_of_a_round_are_told_apart_by_the_log_alone() -> None:
    decided = e.PlanDecided(1, 0, "tetriserve", "", "", "", (), note="round 7")
    assert TetriServe().remember(3, e.Recorded(1, "scheduler", 1, 0, decided)) == 7


def test_every_start_names_a_whole_chain() -> None:
    plan = ROUNDS.plan(a_scene(8, costs=COSTS).wait(image(256, "r")).at(0.5), 0)
    assert [a.stage for a in plan.actions if isinstance(a, Start)] == ["encode", "denoise", "decode"]
