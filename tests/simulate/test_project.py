"""The projection is the simulator run forward from a live state."""

from __future__ import annotations

import pytest

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.evolve import fold
from genserve.domain.plan import Start
from genserve.domain.request import Stage
from genserve.planners.registry import build_planner
from genserve.simulate.project import project
from genserve.simulate.simulation import Scenario, simulate
from tests.builders import a_cluster, a_request, some_costs
from tests.simulate.test_simulation import BASELINES, a_mixed_load


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_with_true_costs_and_no_more_arrivals_the_projection_comes_true(name: str, share: float) -> None:
    planner = build_planner(name)
    scenario = Scenario(a_mixed_load(), some_costs(), gpus=2)
    log = simulate(planner, scenario).log
    last_arrival = max(i for i, r in enumerate(log) if isinstance(r.event, e.RequestSubmitted))
    cut = last_arrival + int((len(log) - last_arrival) * share)
    while log[cut].recorded_us == log[cut - 1].recorded_us:
        cut += 1
    state = fold(ClusterState(), log[:cut])
    done = {r.stream[8:]: r.recorded_us for r in log[cut:] if isinstance(r.event, e.RequestCompleted)}
    assert project(state, planner, planner.begin()) == done


def test_a_request_waiting_behind_another_is_projected_to_finish_after_it() -> None:
    state = a_cluster(1, requests=[a_request("a"), a_request("b", arrival_us=1)]).state
    planner = build_planner("fifo")
    assert project(state, planner, None) == {"a": 460_001, "b": 920_001}


def test_without_workers_nothing_is_projected() -> None:
    state = a_cluster(0, requests=[a_request("a")]).state
    assert project(state, build_planner("fifo"), None) == {}


def test_a_projection_does_no_more_work_than_it_is_allowed() -> None:
    state = a_cluster(1, requests=[a_request(f"r{i}") for i in range(50)]).state
    assert len(project(state, build_planner("fifo"), None, max_facts=100)) < 15


@pytest.mark.parametrize("name", ["save", "genserve", "tetriserve", "edf_best_fit", "tridentserve", "diffserve"])
def test_a_request_whose_pixels_are_being_stored_is_projected_to_be_done_now(name: str) -> None:
    history = a_cluster(1, requests=[a_request("a"), a_request("b")])
    history.decide(Start("s", ("a",), "t2i", Stage.DECODE, ("w0",), "test"))
    history.of("a", e.StageStarted("s", Stage.DECODE, 0, ("w0",)))
    history.of("a", e.StageFinished("s", Stage.DECODE, 0, 5), at_us=9)
    planner = build_planner(name)
    found = project(history.state, planner, planner.begin())
    assert found["a"] == 9
    assert found["b"] > 9


@pytest.mark.parametrize("name", ["genserve", "tetriserve", "edf_best_fit", "tridentserve"])
def test_a_projection_ends_where_nothing_can_run(name: str) -> None:
    planner = build_planner(name)
    state = a_cluster(0, requests=[a_request("a")]).state
    assert project(state, planner, planner.begin()) == {}
