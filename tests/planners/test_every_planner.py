"""The shared suite, for every planner that can be built by name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.errors import CallerError
from genserve.planners.registry import build_planner, planner_types
from genserve.simulate.simulation import Scenario, simulate
from genserve.simulate.suite import check_plan, check_planner, states_of
from tests.builders import SECOND, VIDEO, a_request, some_costs

NAMES = sorted(planner_types())
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


@pytest.mark.parametrize("name", ["save", "genserve_ideal", "tetriserve", "edf"])
@settings(max_examples=8, deadline=None)
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


@pytest.mark.parametrize("name", ["fifo", "save"])
def test_a_large_video_is_not_starved_by_a_stream_that_alone_fills_the_pool(name: str) -> None:
    """A trap: images for 300 s that take all of one GPU, and a video whose deadline is lost from the start."""
    images = [
        a_request(f"i{n:04}", arrival_us=n * SECOND // 2, deadline_us=n * SECOND // 2 + 2 * SECOND) for n in range(600)
    ]
    video = a_request("video", shape=VIDEO, steps=10, arrival_us=SECOND, deadline_us=2 * SECOND)
    log = simulate(build_planner(name), Scenario((video, *images), some_costs(), gpus=1)).log
    ends = {r.stream: r.recorded_us for r in log if isinstance(r.event, e.RequestCompleted)}
    assert ends["request/video"] < 290 * SECOND


def test_small_ones_that_pass_the_oldest_do_not_take_its_credit_for_ever() -> None:
    """Images of 0.86 s come for 630 s, faster than one GPU can serve, and the given-up ones age before the video."""
    gap_us = 7 * SECOND // 10
    images = [
        a_request(f"i{n:04}", steps=8, arrival_us=n * gap_us, deadline_us=n * gap_us + 2 * SECOND) for n in range(900)
    ]
    video = a_request("video", shape=VIDEO, steps=20, arrival_us=SECOND, deadline_us=2 * SECOND)
    log = simulate(build_planner("save", {"phi": 0.2}), Scenario((video, *images), some_costs(), gpus=1)).log
    ends = {r.stream: r.recorded_us for r in log if isinstance(r.event, e.RequestCompleted)}
    assert ends["request/video"] < 550 * SECOND
