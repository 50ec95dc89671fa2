"""TridentServe: what a faithful implementation must show (list of the spec), on small cases made by hand.

Tests are named after the line they show. Stages apart (11, 12) are shown under every planner in
``tests/simulate/test_residency``, and on live workers in ``tests/scheduling/test_residency``.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from msgspec.structs import replace

from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostData, CostTable, Prices
from genserve.domain.events import (
    AttemptFailed,
    RequestCompleted,
    RequestPaused,
    StageFinished,
    StageLoaded,
    StageStarted,
    StageUnloaded,
    StepsFinished,
)
from genserve.domain.plan import Plan, Start, Unload
from genserve.domain.request import Stage
from genserve.planners.tridentserve import Choice, TridentServe, knapsack, min_degree
from genserve.planners.tridentserve_placement import Demand, imbalance, must_replan, optimal_type, place
from genserve.simulate.calibration import (
    Calibration,
    efficient_degree,
    load_calibration,
    paper_data,
    release_allowance_s,
)
from genserve.simulate.compare import Entrant, Setting, run_one
from genserve.simulate.simulation import Scenario, simulate
from genserve.simulate.workloads import Workload
from tests.planners.states import a_scene, a_spec, a_task, free_of_charge, started

COG, FLUX, SD3 = (load_calibration(f"tridentserve-{n}") for n in ("cogvideox", "flux", "sd3"))
NEVER = TridentServe().begin()
GB = 1_000_000_000


def a_request_of(calibration: Calibration, label: str, name: str = "r", **changes: object):  # type: ignore[no-untyped-def]
    return a_spec(label, name, calibration=calibration, **changes)


def test_1_the_degrees_of_the_paper_follow_from_its_table_by_the_80_percent_rule() -> None:
    for rows in paper_data("tridentserve_costs")["models"].values():
        for row in rows:
            times = {int(k): round(v * 1e6) for k, v in row["sp"].items()}
            assert efficient_degree(times) == row["max_degree_at_0.8"], row


@pytest.mark.parametrize(("diffuse_s", "allowance_s"), [(28.5, 127), (23.5, 105), (4.86, 22)])
def test_2_the_deadlines_come_out_of_the_release_formula(diffuse_s: float, allowance_s: int) -> None:
    assert release_allowance_s(diffuse_s) == allowance_s


@pytest.mark.parametrize(
    ("name", "rate", "busy"), [("flux", 1.5, 49.5), ("cogvideox", 1.5, 90), ("hunyuanvideo", 1.0, 182)]
)
def test_3_the_offered_loads_come_out_of_table_and_traces(name: str, rate: float, busy: float) -> None:
    made = load_calibration(f"tridentserve-{name}")
    work = [c.steps * made.table.step_us(c.model, c.shape) / 1e6 for c in made.classes]
    assert rate * sum(work) / len(work) == pytest.approx(busy, rel=0.01)


@pytest.mark.parametrize(("frames", "degree"), [(33, 4), (65, 8)])
def test_4_efficiency_and_memory_leave_nothing_without_the_fallback(frames: int, degree: int) -> None:
    spec = a_request_of(COG, f"video-768x1360x{frames}")
    task = a_task(a_scene(8, costs=free_of_charge(COG)).wait(spec).at(0), "r")
    released = TridentServe(memory_rules=True, filter_fix=False)
    assert min_degree(spec) == degree
    assert released.eligible(task) == []
    assert replace(released, filter_fix=True).eligible(task) == [degree]


def test_4_a_request_the_released_filter_never_serves_is_told_so() -> None:
    state = a_scene(8, costs=free_of_charge(COG)).wait(a_request_of(COG, "video-768x1360x33")).at(0)
    plan = TridentServe(memory_rules=True, filter_fix=False).plan(state, NEVER)
    assert [w.reason for w in plan.waiting] == ["no degree is both efficient and large enough for its memory"]


def test_5_with_spare_gpus_the_largest_eligible_degree_is_chosen() -> None:
    state = a_scene(8, costs=free_of_charge(COG)).wait(a_request_of(COG, "video-768x1360x81")).at(0)
    assert started(TridentServe().plan(state, NEVER)) == {"r": 8}


def test_5_with_a_long_queue_more_requests_start_at_smaller_degrees() -> None:
    queue = [a_request_of(COG, "video-768x1360x81", f"r{i}", within=400) for i in range(8)]
    state = a_scene(8, costs=free_of_charge(COG)).wait(*queue).at(0)
    assert started(TridentServe().plan(state, NEVER)) == {f"r{i}": 1 for i in range(8)}


def test_6_late_work_gains_with_lateness_but_never_reaches_work_on_time() -> None:
    def worth(within_s: float, at_s: float) -> list[int]:
        scene = a_scene(8, costs=free_of_charge(SD3)).wait(a_request_of(SD3, "image-1536x1536x1", within=within_s))
        task = a_task(scene.at(at_s), "r")
        return [c.worth for c in TridentServe().choices(task, at_s * 1e6)]

    assert worth(60, 0) == [1000, 1000]
    assert worth(5, 5)[0] > 100
    assert max(worth(5, 5)) < max(worth(5, 20)) < max(worth(5, 500)) == 999


def test_6_at_the_cap_late_work_takes_its_smallest_degree() -> None:
    task = a_task(a_scene(8, costs=free_of_charge(SD3)).wait(a_request_of(SD3, "image-1536x1536x1")).at(900), "r")
    assert [c.degree for c in TridentServe().choices(task, 900e6)] == [1]


def test_7_no_group_crosses_a_node() -> None:
    scene = a_scene(8, costs=free_of_charge(COG), per_node=2)
    plan = TridentServe().plan(scene.wait(a_request_of(COG, "video-768x1360x81", within=400)).at(0), NEVER)
    assert started(plan) == {"r": 2}


def test_8_the_dynamic_programme_equals_the_exact_solver_on_one_machine() -> None:
    draw = random.Random(3)
    for _ in range(50):
        options = [[Choice(k, draw.randrange(100, 1001)) for k in draw.sample((1, 2, 4), 2)] for _ in range(4)]
        degrees = knapsack(options, 4)
        combos = (c for c in itertools.product(*([None, *o] for o in options)) if sum(x.degree for x in c if x) <= 4)
        best = max(sum(x.worth for x in c if x) + sum(x.degree for x in c if x) for c in combos)
        got = sum(next(c.worth for c in o if c.degree == k) for o, k in zip(options, degrees, strict=True) if k)
        assert got + sum(degrees) == best


def a_demand(encode: float, diffuse: float, decode: float, *, sizes: tuple[int, int, int] = (10, 20, 10)) -> Demand:
    e, d, c = (s * GB for s in sizes)
    return Demand(1.0, encode, diffuse, decode, {"EDC": e + d + c, "ED": e + d, "DC": d + c, "E": e, "D": d, "C": c})


def test_9_everything_together_is_preferred_where_memory_allows() -> None:
    assert optimal_type(a_demand(1, 1, 1), 48 * GB) == 0


@pytest.mark.parametrize(
    ("sizes", "kind"), [((30, 20, 10), 1), ((10, 30, 30), 2), ((40, 40, 40), 3), ((1, 60, 1), None)]
)
def test_9_what_does_not_fit_is_taken_apart_encode_first(sizes: tuple[int, int, int], kind: int | None) -> None:
    assert optimal_type(a_demand(1, 1, 1, sizes=sizes), 48 * GB) == kind


def test_10_stage_counts_balance_and_a_shift_of_the_mix_triggers_a_new_plan() -> None:
    light, heavy = (a_demand(*mix, sizes=(40, 40, 40)) for mix in ((10, 63, 27), (2, 88, 10)))
    before = place([light], gpus=64, capacity=48 * GB)
    after = place([heavy], gpus=64, capacity=48 * GB)
    assert sum(before.values()) == sum(after.values()) == 64
    assert imbalance(before, [light]) < 1.5
    assert imbalance(after, [heavy]) < 2.0
    assert must_replan([imbalance(before, [heavy])] * 3)
    assert after["D"] > before["D"]


def test_10_a_short_imbalance_or_a_recent_change_triggers_nothing() -> None:
    assert not must_replan([2.0, 1.0, 2.0])
    assert not must_replan([2.0, 2.0, 2.0], since_s=5)


class FakeMove(TridentServe, frozen=True):
    """The released dispatcher, with a placement plan that takes the denoiser from gpu-0000 as soon as nobody needs it.

    Sooner would be an illegal plan: "leaves gpu-0000, whose queue needs it".
    """

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        plan = super().plan(state, memory)
        model = SD3.classes[0].model
        first = state.workers.get("gpu-0000")
        is_needed = first is None or first.queue or plan.actions or state.clock_us < 2_000_000
        if is_needed or (model, Stage.DENOISE) not in first.resident:
            return plan
        return replace(plan, actions=(*plan.actions, Unload("gpu-0000", model, Stage.DENOISE, "the mix has shifted")))


def test_11_a_switch_of_placement_stops_nobody_and_the_first_use_of_a_missing_stage_pays_the_load() -> None:
    model, kind = SD3.classes[0].model, "image-1536x1536x1"
    specs = [a_request_of(SD3, kind, f"r{i}", arrival_us=at, within=200) for i, at in enumerate((0, 60_000_000))]
    everything = tuple(f"{model}/{stage}" for stage in Stage)
    placement = (("gpu-0000", everything), ("gpu-0001", (f"{model}/encode",)))
    data = CostData("test", SD3.costs.stages, Prices(load_us=3_000_000))
    run = simulate(FakeMove(), Scenario(tuple(specs), CostTable(data), gpus=2, placement=placement))
    seen = [(r.recorded_us, r.stream, r.event) for r in run.log]
    switched = next(at for at, _, v in seen if isinstance(v, StageUnloaded))
    ran_over = [(v.from_step, v.to_step) for at, s, v in seen if s == "request/r0" and isinstance(v, StepsFinished)]
    first_end = next(at for at, s, v in seen if s == "request/r0" and isinstance(v, RequestCompleted))
    assert [s for a, b in ran_over for s in range(a, b)] == list(range(specs[0].steps))
    assert not any(isinstance(v, RequestPaused | AttemptFailed) for _, _, v in seen)
    assert first_end <= switched < 60_000_000
    loads = [(s, v.took_us) for _, s, v in seen if isinstance(v, StageLoaded) and v.stage is Stage.DENOISE]
    began = next(at for at, s, v in seen if s == "request/r1" and isinstance(v, StageStarted) and v.stage == "denoise")
    encoded = next(at for at, s, v in seen if s == "request/r1" and isinstance(v, StageFinished))
    assert [took for _, took in loads][:1] == [3_000_000]
    assert began == encoded + 3_000_000


def test_12_decode_runs_on_one_gpu_and_the_others_are_not_in_it() -> None:
    state = a_scene(8, costs=free_of_charge(COG)).wait(a_request_of(COG, "video-768x1360x81")).at(0)
    actions = TridentServe().plan(state, NEVER).actions
    assert [len(a.workers) for a in actions if isinstance(a, Start) and a.stage is Stage.DECODE] == [1]


def test_13_the_dynamic_policy_beats_the_static_one_on_all_three_metrics() -> None:
    load = Workload("tridentserve-sd3", rate=130, sizes="skewed", requests=400, arrivals="constant")
    setting = Setting(load, gpus=16)
    dynamic, static = (run_one(setting, Entrant(*e), 0) for e in (("tridentserve",), ("static_sp", {"rule": "hetu"})))
    assert dynamic.attainment["all"] > static.attainment["all"]
    assert dynamic.latency_s["all"]["mean"] < static.latency_s["all"]["mean"]
    assert dynamic.latency_s["all"]["p95"] < static.latency_s["all"]["p95"]
