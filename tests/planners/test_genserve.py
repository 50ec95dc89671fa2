"""GenServe: what a faithful implementation must show (list of the spec), on small cases made by hand.

Tests are named after the line they show: ``test_4_...`` shows line 4. What needs whole runs (2, 3, 11 to 14) is in
``test_genserve_runs``. That the pixels of line 3 do not change is shown where there are pixels: by
``tests/elastic/test_live`` (widened, narrowed, paused, moved) and ``tests/diffusion/test_latents`` (paused at any step
and resumed in another process).
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.domain import events as e
from genserve.domain.plan import Start
from genserve.domain.request import Stage
from genserve.planners.genserve import Candidate, GenServe, GenServeIdeal, best_widths, worth
from genserve.planners.interface import Policy
from genserve.simulate.compare import Entrant, Setting, run_one
from genserve.simulate.workloads import Workload
from tests.planners.counting import lines_run
from tests.planners.states import TABLES, Scene, a_scene, a_spec, a_task, started, stopped

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


def test_5_shrunk_to_2_it_leaves_exactly_two_gpus_and_goes_on_at_the_step_time_of_2() -> None:
    video = a_spec("video-L", "v0", within=9)
    scene = a_scene(4).run(video, "w0", "w1", "w2", "w3", step=40)
    scene.of("v0", e.RequestPaused("v0-denoise", 0, 40, "w0"))
    state = scene.wait(a_spec("image-S", "i0", within=3), a_spec("image-M", "i1", within=6)).at(0)
    plan = GenServeIdeal().plan(state, None)
    assert started(plan) == {"v0": 2, "i0": 1, "i1": 1}
    assert a_task(state, "v0").run_us(2) == 10 * TABLES.table.step_us(video.model, video.shape, degree=2)


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
def test_6_an_image_that_runs_is_not_interrupted_by_a_round(planner: Policy) -> None:
    scene = a_scene(2).run(a_spec("image-M", "i0"), "w0", step=10).run(a_spec("video-L", "v0"), "w1", step=10)
    state = scene.wait(a_spec("video-S", "v1"), a_spec("image-S", "i1")).at(0)
    assert "i0" not in stopped(planner.plan(state, planner.begin()))


def test_7_the_fast_path_calls_no_solver_when_gpus_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    def solver(*_: object) -> None:
        raise AssertionError("the solver was called")

    monkeypatch.setattr("genserve.planners.genserve.best_widths", solver)
    idle = a_scene(8).wait(a_spec("image-S", "i0")).at(0)
    assert started(GenServe().plan(idle, None)) == {"i0": 1}
    beside = a_scene(8).run(a_spec("video-L", "v0"), "w0", step=1).wait(a_spec("image-S", "i0")).at(0)
    assert started(GenServe().plan(beside, None)) == {"i0": 1}
    contended = a_scene(1).run(a_spec("video-L", "v0"), "w0", step=1).wait(a_spec("image-S", "i0")).at(0)
    with pytest.raises(AssertionError, match="the solver was called"):
        GenServe().plan(contended, None)


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


@given(st.lists(st.lists(st.tuples(st.sampled_from((1, 2, 4)), st.integers(0, 2**8 - 1)), max_size=3), max_size=4))
def test_8_the_exact_knapsack_is_never_worse_than_fixed_placement(drawn: list[list[tuple[int, int]]]) -> None:
    """Drawn: for each video the widths of its candidates, and where in the pool their GPUs begin."""
    fixed = [options(*((w, 1, frozenset(f"w{(at + i) % 8}" for i in range(w))) for w, at in row)) for row in drawn]
    counts = [options(*((w, 1, frozenset()) for w, _ in row)) for row in drawn]
    assert max(best_widths(counts, 8).values) >= max(best_widths(fixed, 8).values)


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


def test_10_the_knapsack_grows_linearly_in_videos_and_evaluates_each_candidate_once_per_budget() -> None:
    def work(videos: int) -> int:
        row = [Candidate(0, (0, 0.0)), *(Candidate(k, (1, 0.5)) for k in (1, 2, 4))]
        return lines_run(best_widths, [row] * videos, 8)

    assert work(12) < 2.05 * work(6)
    assert work(12) < 10 * (12 * 4 * 9)


def test_15_with_decode_in_the_estimate_a_recoverable_video_finishes_on_time() -> None:
    setting = Setting(Workload(rate=1, mix="1.0", requests=3), gpus=8)
    assert run_one(setting, Entrant("genserve_ideal"), 0).attainment["all"] == 1.0


def test_decode_runs_on_one_gpu_of_the_group() -> None:
    state = a_scene(8).wait(a_spec("video-L", "v0")).at(0)
    actions = GenServeIdeal().plan(state, None).actions
    decode = next(a for a in actions if isinstance(a, Start) and a.stage is Stage.DECODE)
    assert len(decode.workers) == 1
