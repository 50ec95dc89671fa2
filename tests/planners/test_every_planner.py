"""The shared suite, for every planner that can be built by name.

``check_planner`` shows that plans are legal, repeatable, independent of the order of maps, and give a reason for every
action and everyone left waiting; that doing nothing is a plan; and that everything is served once arrivals end. Here:
random states, parameters in the digest, bounds on starving, and ids as the last word in every order. The papers' lists
are in ``test_genserve`` and ``test_genserve_runs``, ``test_tetriserve``, ``test_tridentserve`` and ``test_diffserve``.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.plan import Start
from genserve.errors import CallerError
from genserve.planners.registry import build_planner, planner_names
from genserve.simulate.simulation import Scenario, simulate
from genserve.simulate.suite import check_plan, check_planner, states_of
from tests.builders import SECOND, VIDEO, a_cluster, a_request, some_costs

NAMES = planner_names()
VARIANTS = {
    "tetriserve": {"continuous": True},
    "genserve": {"dp_solver": False},
    "edf_best_fit": {"late_takes_fastest": True},
    "static_sp": {"rule": "efficient", "backfill": True},
    "tridentserve": {"memory_rules": True},
    "save": {"aligned_only": True},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_planner_passes_the_shared_suite(name: str) -> None:
    assert check_planner(build_planner(name), seeds=range(4)) == []


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variant_passes_the_shared_suite(name: str) -> None:
    assert check_planner(build_planner(name, VARIANTS[name]), seeds=range(2)) == []


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(100, 10_000))
def test_plans_on_random_states_are_legal_repeatable_and_explained(name: str, seed: int) -> None:
    planner = build_planner(name)
    for state, memory in states_of(planner, seed, count=4):
        assert check_plan(planner, state, memory) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_digest_changes_with_every_parameter(name: str) -> None:
    planner = build_planner(name)
    for key, value in planner.parameters().items():
        other = (not value) if isinstance(value, bool) else f"{value}x" if isinstance(value, str) else value + 1
        assert replace(planner, **{key: other}).digest != planner.digest  # type: ignore[type-var]


def test_planners_have_different_digests() -> None:
    assert len({build_planner(n).digest for n in NAMES}) == len(NAMES)


def test_an_unknown_planner_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(CallerError, match="edf, edf_best_fit, fifo"):
        build_planner("best")


def test_an_unknown_parameter_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(CallerError, match="granularity"):
        build_planner("tetriserve", {"speed": 1})


LAST_S = 300
BOUND_S = {"fifo": 15, "static_sp": 15, "diffserve": 15, "edf": 15, "super_p95": 15, "save": 290}
"""Stated bounds, in the trap below: arrival or deadline order lets nobody younger pass for long; SAVE buys it after
6 L1 plus its price at 5% of the pool, 60 + 200 s. The others state none: everything is served once arrivals end."""


@pytest.mark.parametrize("name", NAMES)
def test_a_large_video_is_not_starved_beyond_the_planners_stated_bound(name: str) -> None:
    """A trap: images for 300 s that take nearly all of one GPU, and a video whose deadline is lost from the start."""
    images = [
        a_request(f"i{n:04}", arrival_us=n * SECOND // 2, deadline_us=n * SECOND // 2 + 2 * SECOND)
        for n in range(2 * LAST_S)
    ]
    video = a_request("video", shape=VIDEO, steps=10, arrival_us=SECOND, deadline_us=2 * SECOND)
    log = simulate(build_planner(name), Scenario((video, *images), some_costs(), gpus=1)).log
    ends = {r.stream: r.recorded_us for r in log if isinstance(r.event, e.RequestCompleted)}
    assert ends["request/video"] < BOUND_S.get(name, LAST_S + 15) * SECOND


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_equals_ends_in_their_ids(name: str) -> None:
    """Of requests alike in everything else, their ids say who is started, and not the order they came in."""
    planner = build_planner(name)
    first = set()
    for order in itertools.permutations(("a", "b", "c")):
        state = replace(a_cluster(1, requests=[a_request(r) for r in order]).state, clock_us=SECOND)
        starts = [a for a in planner.plan(state, planner.begin()).actions if isinstance(a, Start)]
        first.add(starts[0].request_ids)
    assert len(first) == 1
