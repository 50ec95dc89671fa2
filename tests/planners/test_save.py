"""SAVE part by part, on small cases made by hand."""

from __future__ import annotations

import pytest

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostTable, Prices
from genserve.domain.plan import Plan
from genserve.planners.memory import Memory, remember
from genserve.planners.save import Save
from genserve.simulate.compare import Entrant, Setting, run_one
from genserve.simulate.workloads import Workload
from tests.planners.states import TABLES, Scene, a_scene, a_spec, free_of_charge, started, stopped


def plan(state: ClusterState, **parts: object) -> Plan:
    planner = Save(**parts)  # type: ignore[arg-type]
    return planner.plan(state, Memory())


def priced(seconds: float) -> CostTable:
    return CostTable(
        type(TABLES.costs)(TABLES.costs.name, TABLES.costs.stages, Prices(round(seconds * 1e6), 0, 0, 0, 0))
    )


def test_need_is_the_degree_with_the_fewest_gpu_seconds_that_makes_it() -> None:
    state = a_scene(2).wait(a_spec("video-M", "v", within=25)).at(0)
    assert started(plan(state, expansion=False)) == {"v": 1}


def test_need_widens_when_the_deadline_asks_for_it() -> None:
    state = a_scene(8).wait(a_spec("video-M", "v", within=12)).at(0)
    assert started(plan(state, expansion=False)) == {"v": 2}


def test_a_change_that_costs_more_than_it_saves_is_not_made() -> None:
    """With 8 s for a change the running video keeps its width of 1 and makes it; widening would miss."""
    video = a_spec("video-M", "v", within=14)
    free, dear = (Scene().workers(4).costs(c) for c in (free_of_charge(), priced(8)))
    for scene in (free, dear):
        scene.now_us = 1
        scene.run(video, "w0", step=10)
    assert plan(free.at(0), expansion=True).actions != ()
    assert plan(dear.at(0)).actions == ()


def test_selection_gives_up_the_largest_work_when_not_all_can_be_saved() -> None:
    small = [a_spec("video-M", f"s{i}", within=20) for i in range(2)]
    state = a_scene(2).wait(a_spec("video-L", "big", within=60), *small).at(0)
    widths = started(plan(state, expansion=False, forecast=False))
    assert set(widths) == {"s0", "s1"}


def test_without_selection_the_earliest_deadlines_get_their_need() -> None:
    specs = [
        a_spec("video-L", "first", within=32),
        a_spec("video-M", "a", within=33),
        a_spec("video-M", "b", within=33),
    ]
    state = a_scene(2).wait(*specs).at(0)
    assert list(started(plan(state, selection=False, expansion=False))) == ["first"]
    assert set(started(plan(state, expansion=False))) == {"a", "b"}


def test_requests_told_to_wait_are_told_why() -> None:
    specs = [
        a_spec("video-L", "first", within=32),
        a_spec("video-M", "a", within=33),
        a_spec("video-M", "b", within=33),
    ]
    reasons = {w.request_id: w.reason for w in plan(a_scene(2).wait(*specs).at(0)).waiting}
    assert reasons == {"first": "given up for now: others need its GPU time"}


def test_idle_gpus_are_filled_by_doubling_the_saved_while_that_is_efficient() -> None:
    state = a_scene(4).wait(a_spec("video-L", "v", within=70)).at(0)
    assert started(plan(state, expansion=False)) == {"v": 1}
    assert started(plan(state)) == {"v": 4}


def test_late_requests_run_on_gpus_that_would_idle() -> None:
    state = a_scene(1).wait(a_spec("video-M", "late", within=1)).at(0)
    assert started(plan(state)) == {"late": 1}
    assert started(plan(state, expansion=False)) == {}


def test_a_saved_image_stops_the_runner_with_the_nearest_boundary_that_has_no_target() -> None:
    scene = a_scene(2)
    scene.run(a_spec("video-L", "late1", within=10), "w0", step=1).run(
        a_spec("video-M", "late2", within=3), "w1", step=1
    )
    state = scene.wait(a_spec("image-S", "i")).at(0)
    assert stopped(plan(state)) == ["late2"]


def test_a_saved_runner_below_its_need_makes_others_give_way() -> None:
    scene = a_scene(2).run(a_spec("video-L", "needy", within=29), "w0", step=0)
    state = scene.run(a_spec("video-L", "late", within=5), "w1", step=0).at(0)
    assert stopped(plan(state)) == ["late"]
    assert stopped(plan(state, forced_room=False)) == []


def test_growth_uses_only_gpus_that_are_free_now() -> None:
    scene = a_scene(4).run(a_spec("video-L", "v", within=70), "w0", step=0)
    actions = plan(scene.at(0)).actions
    assert [a.reason for a in actions] == ["grows to 4"]


def test_images_may_use_two_gpus_unless_that_is_switched_off() -> None:
    state = a_scene(2).wait(a_spec("image-L", "i", within=6)).at(0)
    assert started(plan(state, expansion=False)) == {"i": 2}
    assert started(plan(state, image_sp=False)) == {"i": 1}


def test_a_forecast_of_cheap_arrivals_gives_up_a_dear_video_earlier() -> None:
    memory = Memory()
    for n in range(120):
        spec = a_spec("image-M", f"i{n}")
        memory = remember(memory, e.Recorded(n + 1, f"request/i{n}", 1, n * 500_000, e.RequestSubmitted(spec)))
    state = a_scene(2).wait(a_spec("video-L", "big", within=120)).at(60)
    told = {w.request_id for w in Save(expansion=False).plan(state, memory).waiting}
    assert told == {"big"}
    assert Save(expansion=False, forecast=False).plan(state, memory).waiting == ()


def test_an_old_hopeless_request_is_bought_with_the_credit_it_has_waited_for() -> None:
    scene = a_scene(1).wait(
        a_spec("video-S", "old", within=1), *(a_spec("image-L", f"i{n}", within=60) for n in range(5))
    )
    state, planner = scene.at(45), Save(phi=0.5)
    first = planner.plan(state, Memory())
    told = {w.request_id: w.reason for w in first.waiting}
    assert told["old"].startswith("aged")
    decided = e.PlanDecided(1, 45_000_000, "save", "", "", "", (), first.waiting)
    memory = remember(Memory(), e.Recorded(2, "scheduler", 1, 45_000_000, decided))
    later = planner.plan(scene.at(58), memory)
    assert started(later) == {"old": 1}


def test_groups_never_cross_nodes_and_singles_move_to_make_room() -> None:
    scene = a_scene(4, per_node=2)
    scene.run(a_spec("video-M", "a", within=40), "w0", step=1).run(a_spec("video-M", "b", within=40), "w2", step=1)
    state = scene.wait(a_spec("video-L", "wide", within=29)).at(0)
    assert len(stopped(plan(state, expansion=False))) == 1


def test_a_plan_needs_no_memory_of_earlier_plans() -> None:
    state = a_scene(8).wait(a_spec("video-L", "v")).at(0)
    assert plan(state) == plan(state)


@pytest.mark.parametrize("part", ["selection", "pausing", "sp", "forced_room", "expansion"])
def test_each_part_earns_its_place_on_the_skewed_mix(part: str) -> None:
    setting = Setting(Workload(sizes="skewed"))
    seeds = (3, 7, 11)
    whole = sum(run_one(setting, Entrant("save"), s).attainment["all"] for s in seeds)
    without = sum(run_one(setting, Entrant("save", {part: False}), s).attainment["all"] for s in seeds)
    assert whole > without
