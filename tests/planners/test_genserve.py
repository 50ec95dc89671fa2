"""GenServe: what a faithful implementation must show (list of the spec), on small cases made by hand."""

from __future__ import annotations

import itertools

import pytest

from genserve.domain.plan import Start
from genserve.domain.request import Stage
from genserve.planners.genserve import Candidate, GenServe, GenServeIdeal, best_widths, worth
from genserve.planners.interface import Policy
from genserve.simulate.compare import Entrant, Setting, run_one
from genserve.simulate.workloads import Workload
from tests.planners.states import Scene, a_scene, a_spec, started, stopped

BOTH = pytest.mark.parametrize("planner", [GenServe(), GenServeIdeal()], ids=["literal", "ideal"])


def eight_videos(scene: Scene, *, within: tuple[float, ...] = (300,) * 8) -> Scene:
    for i, seconds in enumerate(within):
        scene.run(a_spec("video-L", f"v{i}", within=seconds), f"w{i}", step=10)
    return scene


@BOTH
def test_1_widths_are_powers_of_two_an_image_has_one_gpu_and_no_more_than_all_are_used(planner: Policy) -> None:
    scene = a_scene(8).wait(*(a_spec("video-M", f"v{i}") for i in range(3)), a_spec("image-S", "i0"))
    widths = started(planner.plan(scene.at(0), planner.begin()))
    assert widths["i0"] == 1
    assert set(widths.values()) <= {1, 2, 4, 8}
    assert sum(widths.values()) <= 8


@BOTH
def test_2_a_waiting_image_stops_one_video_and_starts_once_its_boundary_has_passed(planner: Policy) -> None:
    state = eight_videos(a_scene(8)).wait(a_spec("image-S", "i0", within=3)).at(0)
    plan = planner.plan(state, planner.begin())
    assert len(stopped(plan)) == 1
    assert started(plan) == {}


def test_2_a_gpu_that_already_keeps_a_paused_video_pauses_no_second_one() -> None:
    scene = a_scene(1).pause(a_spec("video-S", "old", within=900), "w0", step=5)
    scene.run(a_spec("video-S", "v0", within=900), "w0", step=5)
    state = scene.wait(a_spec("image-S", "i0", within=3)).at(0)
    assert stopped(GenServe().plan(state, None)) == []


def test_4_victims_are_taken_in_order_of_decreasing_slack() -> None:
    state = eight_videos(a_scene(8), within=(300, 310, 320, 330, 340, 350, 360, 370))
    state.wait(a_spec("image-S", "i0", within=3))
    assert stopped(GenServe(dp_solver=False).plan(state.at(0), None)) == ["v7"]


def test_4_a_video_without_slack_is_never_paused_for_an_image() -> None:
    state = eight_videos(a_scene(8), within=(30,) * 8).wait(a_spec("image-S", "i0", within=3)).at(0)
    for planner in (GenServe(), GenServe(dp_solver=False)):
        assert stopped(planner.plan(state, None)) == []


def test_5_shrinking_from_4_to_2_frees_two_gpus_for_images() -> None:
    scene = a_scene(4).run(a_spec("video-L", "v0", within=60), "w0", "w1", "w2", "w3", step=40)
    state = scene.wait(a_spec("image-S", "i0", within=3), a_spec("image-S", "i1", within=3)).at(0)
    plan = GenServeIdeal().plan(state, None)
    assert stopped(plan) == ["v0"]
    assert plan.actions[0].reason == "shrinks"


def test_6_a_batch_mixes_no_resolutions_and_makes_no_member_late() -> None:
    scene = a_scene(1).wait(
        a_spec("image-S", "a", within=30), a_spec("image-M", "b", within=31), a_spec("image-S", "c", within=32)
    )
    batches = [a.request_ids for a in GenServe().plan(scene.at(0), None).actions if isinstance(a, Start)]
    assert batches[0] == ("a", "c")


def test_6_an_image_that_a_batch_would_make_late_stays_out() -> None:
    scene = a_scene(1).wait(a_spec("image-S", "a"), a_spec("image-S", "c"))
    batches = [a.request_ids for a in GenServe().plan(scene.at(0), None).actions if isinstance(a, Start)]
    assert batches[0] == ("a",)


@BOTH
def test_7_an_image_on_an_idle_pool_starts_at_once(planner: Policy) -> None:
    state = a_scene(8).wait(a_spec("image-S", "i0")).at(0)
    assert started(planner.plan(state, planner.begin())) == {"i0": 1}


def options(*widths: tuple[int, int, frozenset[str]]) -> list[Candidate]:
    return [Candidate(0, (0, 0.0)), *(Candidate(w, (v, 0.0), g) for w, v, g in widths)]


def test_8_the_exact_knapsack_equals_brute_force() -> None:
    table = [
        [Candidate(0, (0, 0.0)), Candidate(1, (0, 0.4)), Candidate(2, (1, 0.3))],
        [Candidate(0, (0, 0.0)), Candidate(2, (1, 0.2)), Candidate(4, (1, 0.9))],
        [Candidate(1, (0, 0.7)), Candidate(2, (1, 0.1))],
    ]
    exact = best_widths(table, 4)
    for budget in range(5):
        combos = [c for c in itertools.product(*table) if sum(x.width for x in c) == budget]
        best = max((sum(worth(x.value) for x in c) for c in combos), default=-1.0)
        assert exact.values[budget] == pytest.approx(best)
        assert best < 0 or sum(exact.widths(budget)) == budget


def test_8_fixed_placement_misses_a_plan_that_counts_find() -> None:
    """Both videos were given the same idle GPU first, so the literal form can start only one of them."""
    a, b = frozenset({"w0"}), frozenset({"w0"})
    literal = best_widths([options((1, 1, a)), options((1, 1, b))], 2)
    exact = best_widths([options((1, 1, frozenset())), options((1, 1, frozenset()))], 2)
    assert max(literal.values) == worth((1, 0.0))
    assert max(exact.values) == worth((2, 0.0))


@BOTH
def test_9_no_small_or_medium_video_runs_at_eight(planner: Policy) -> None:
    for label in ("video-S", "video-M"):
        state = a_scene(8).wait(a_spec(label, "v0", within=2)).at(0)
        assert max(started(planner.plan(state, planner.begin())).values(), default=1) < 8


def test_15_with_decode_in_the_estimate_a_recoverable_video_finishes_on_time() -> None:
    setting = Setting(Workload(rate=1, mix="1.0", requests=3), gpus=8)
    assert run_one(setting, Entrant("genserve_ideal"), 0).attainment["all"] == 1.0


def test_13_changes_of_degree_stay_rare() -> None:
    switches = run_one(Setting(), Entrant("genserve"), 1).switches
    assert switches / 50 < 0.01


@pytest.mark.parametrize("seed", [1, 2])
def test_12_preemption_lifts_images_and_lowers_videos_and_the_solver_lifts_both(seed: int) -> None:
    setting = Setting(Workload(sizes="skewed"), gpus=8)
    off = {"dp_solver": False}
    fcfs = run_one(setting, Entrant("genserve", {"preemption": False, **off}), seed).attainment
    preempting = run_one(setting, Entrant("genserve", off), seed).attainment
    solver = run_one(setting, Entrant("genserve", {"elastic_sp": False}), seed).attainment
    assert preempting["image"] > fcfs["image"]
    assert solver["all"] > preempting["all"]


def test_decode_runs_on_one_gpu_of_the_group() -> None:
    state = a_scene(8).wait(a_spec("video-L", "v0")).at(0)
    actions = GenServeIdeal().plan(state, None).actions
    decode = next(a for a in actions if isinstance(a, Start) and a.stage is Stage.DECODE)
    assert len(decode.workers) == 1
