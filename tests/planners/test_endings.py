"""GPUs that are about to be free are planned with: the next segment is queued behind the last one that runs there."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.estimate import is_stopping
from genserve.domain.plan import Plan, Start
from genserve.domain.request import RequestSpec, Stage
from genserve.planners.registry import build_planner
from genserve.planners.validate import find_faults
from genserve.planners.view import View
from genserve.simulate.compare import parse_entrant
from tests.planners.states import Scene, a_scene, a_spec, started, stopped

PLANNERS = ("save", "genserve", "genserve_ideal", "tetriserve:continuous=true", "tridentserve", "edf_best_fit")
LEAD_US = 20_000
FIRST, SECOND = a_spec("video-S", "first"), a_spec("video-S", "second")


def plan(state: ClusterState, name: str = "save") -> Plan:
    entrant = parse_entrant(name)
    planner = build_planner(entrant.name, entrant.parameters)
    found = planner.plan(state, planner.begin())
    assert find_faults(state, found) == []
    return found


def decode(scene: Scene, spec: RequestSpec, *workers: str) -> Scene:
    """It has denoised on these workers and begins to decode on the first one."""
    scene.run(spec, *workers, step=spec.steps)
    denoise, decode = (f"{spec.request_id}-{stage}" for stage in (Stage.DENOISE, Stage.DECODE))
    scene.of(spec.request_id, e.StageFinished(denoise, Stage.DENOISE, 0, 1))
    return scene.of(spec.request_id, e.StageStarted(decode, Stage.DECODE, 0, workers[:1]))


def just_before(scene: Scene, took_us: int) -> ClusterState:
    """The state half a lead before what began now will be over."""
    clock_us = scene.now_us + took_us - LEAD_US // 2
    return replace(scene.state, dispatch_us=LEAD_US // 2, clock_us=clock_us)


def decode_us(scene: Scene, spec: RequestSpec) -> int:
    return scene.state.costs.stage_us(spec.model, Stage.DECODE, spec.shape)


@pytest.mark.parametrize("name", PLANNERS)
def test_the_next_request_is_queued_behind_a_decode_that_is_about_to_end(name: str) -> None:
    scene = decode(a_scene(1), FIRST, "w0").wait(SECOND)
    found = plan(just_before(scene, decode_us(scene, FIRST)), name)
    first = next(a for a in found.actions if isinstance(a, Start))
    assert (first.request_ids, first.workers, first.after) == (("second",), ("w0",), "first-decode")


@pytest.mark.parametrize("name", PLANNERS)
def test_nobody_is_queued_behind_a_decode_that_still_takes_a_while(name: str) -> None:
    scene = decode(a_scene(1), FIRST, "w0").wait(SECOND)
    early = just_before(scene, decode_us(scene, FIRST) - LEAD_US)
    assert started(plan(early, name)) == {}


def test_whoever_only_shared_the_steps_takes_the_next_request_before_they_end() -> None:
    scene = a_scene(2).run(FIRST, "w0", "w1").wait(SECOND)
    steps_us = FIRST.steps * scene.state.costs.step_us(FIRST.model, FIRST.shape, degree=2)
    found = plan(just_before(scene, steps_us))
    assert next((a.workers, a.after) for a in found.actions if isinstance(a, Start)) == (("w1",), "first-denoise")
    assert stopped(found) == []


def test_a_group_may_be_made_of_an_idle_gpu_and_one_that_is_about_to_be_free() -> None:
    large = a_spec("video-L", "large", within=33)
    scene = decode(a_scene(2), FIRST, "w1").wait(large)
    assert started(plan(just_before(scene, decode_us(scene, FIRST)))) == {"large": 2}


def test_a_gpu_about_to_be_free_is_counted_once() -> None:
    scene = decode(a_scene(2), FIRST, "w0").run(a_spec("video-S", "runs"), "w1").wait(SECOND)
    view = View(just_before(scene, decode_us(scene, FIRST)))
    assert (view.open_gpus, view.free_count) == (2, 1)
    found = plan(view.state)
    assert (started(found), stopped(found)) == ({"second": 1}, [])


def test_a_plan_that_queues_behind_what_runs_without_saying_so_is_refused() -> None:
    scene = decode(a_scene(1), FIRST, "w0").wait(SECOND)
    state = just_before(scene, decode_us(scene, FIRST))
    found = plan(state)
    silent = tuple(replace(a, after="") if isinstance(a, Start) else a for a in found.actions)
    assert "busy" in find_faults(state, replace(found, actions=silent))[0]


URGENT = a_spec("image-S", "urgent")


def within_a_step(scene: Scene) -> ClusterState:
    """The state now, with decisions that take as long as a step."""
    state = scene.state
    step_us = max(state.costs.step_us(s.spec.model, s.spec.shape) for s in state.requests.values())
    return replace(state, dispatch_us=step_us, clock_us=scene.now_us)


def stopping(scene: Scene) -> ClusterState:
    """The state once the stops that were just decided are in the log, still within a lead of their boundary."""
    found = plan(within_a_step(scene))
    assert stopped(found)
    assert started(found) == {}
    return within_a_step(scene.decide(*found.actions))


def first_start(found: Plan) -> Start:
    return next(a for a in found.actions if isinstance(a, Start))


def test_whoever_another_gives_way_to_is_queued_behind_its_stop() -> None:
    first = first_start(plan(stopping(a_scene(1).run(FIRST, "w0").wait(URGENT))))
    assert (first.request_ids, first.after) == (("urgent",), "first-decode")


def test_nobody_is_queued_behind_a_stop_that_still_takes_a_while() -> None:
    scene = a_scene(1).run(FIRST, "w0").wait(URGENT)
    scene.decide(*plan(replace(scene.state, dispatch_us=1, clock_us=scene.now_us)).actions)
    assert plan(replace(scene.state, dispatch_us=1, clock_us=scene.now_us)).actions == ()


def test_only_one_is_queued_behind_a_stop() -> None:
    scene = a_scene(1).run(FIRST, "w0").wait(URGENT)
    scene.decide(*plan(stopping(scene)).actions).wait(a_spec("image-S", "another"))
    view = View(within_a_step(scene))
    assert (view.open_gpus, view.free_count) == (0, 0)
    assert plan(view.state).actions == ()


def narrowed() -> tuple[Scene, Plan]:
    """A large video that is asked to make room for an image, and what is decided once it is about to stop."""
    scene = a_scene(2).run(a_spec("video-L", "wide"), "w0", "w1").wait(URGENT)
    return scene, plan(stopping(scene))


def test_a_video_that_shrinks_goes_on_from_its_own_stop_beside_whom_it_made_room_for() -> None:
    _, found = narrowed()
    starts = {a.request_ids[0]: a for a in reversed(found.actions) if isinstance(a, Start)}
    wide = starts["wide"]
    assert (wide.workers, wide.from_step, wide.after) == (("w0",), None, "wide-denoise")
    assert starts["urgent"].workers == ("w1",)


def test_a_video_that_goes_on_from_its_own_stop_is_not_planned_again() -> None:
    scene, found = narrowed()
    scene.decide(*found.actions)
    view = View(within_a_step(scene))
    assert all(task.is_bound for task in view.tasks)
    assert (view.free_count, view.held) == (0, {"w0", "w1"})
    assert plan(view.state).actions == ()


def test_a_second_start_from_one_stop_is_refused() -> None:
    scene, found = narrowed()
    again = next(a for a in found.actions if isinstance(a, Start) and a.from_step is None)
    scene.decide(*found.actions)
    assert find_faults(scene.state, Plan((replace(again, segment_id="again"),)))


def test_a_batch_goes_on_only_after_its_stop_is_told() -> None:
    scene = a_scene(1).run(FIRST, "w0").wait(URGENT)
    state = stopping(scene)
    batched = replace(state.segments["first-denoise"], request_ids=("first", "other"))
    assert not is_stopping(state, batched)
    assert is_stopping(state, state.segments["first-denoise"])


def test_what_ends_at_its_next_boundary_does_not_stop_there() -> None:
    scene = a_scene(1).run(FIRST, "w0", step=FIRST.steps - 1)
    segment = replace(scene.state.segments["first-denoise"], yielding=True)
    assert not is_stopping(within_a_step(scene), segment)
