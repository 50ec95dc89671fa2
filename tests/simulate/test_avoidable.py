"""Avoidable refusals, on traces where the answer is known."""

from __future__ import annotations

import pytest

from genserve.domain.request import RequestSpec
from genserve.errors import InvariantBroken
from genserve.planners.admission import Admission
from genserve.simulate.avoidable import Avoidable, avoidable_refusals
from genserve.simulate.bound import upper_bound
from genserve.simulate.compare import Entrant, Setting, compare
from genserve.simulate.simulation import Scenario
from genserve.simulate.workloads import Workload
from tests.builders import a_request, some_costs


def within(name: str, seconds: float, *, at_s: float = 0.0) -> RequestSpec:
    """An image that takes 0.46 s; the deadline counts from 0."""
    return a_request(name, arrival_us=round(at_s * 1e6), deadline_us=round(seconds * 1e6))


def avoidable(*specs: RequestSpec, met: set[str], refused: set[str], gpus: int = 1) -> Avoidable:
    return avoidable_refusals(Scenario(specs, some_costs(), gpus), met=met, refused=refused)


def test_nothing_was_avoidable_where_nothing_was_refused() -> None:
    assert avoidable(within("a", 1), met={"a"}, refused=set()) == Avoidable(0, 0)


def test_a_refused_request_that_fits_beside_what_was_served_was_avoidable() -> None:
    assert avoidable(within("a", 0.6), within("b", 1.1), met={"a"}, refused={"b"}) == Avoidable(1, 1)


def test_a_refused_request_that_fits_nowhere_was_not_avoidable() -> None:
    assert avoidable(within("a", 0.5), within("b", 0.6), met={"a"}, refused={"b"}) == Avoidable(0, 0)


def test_of_two_that_fit_one_by_one_only_one_was_avoidable() -> None:
    specs = within("a", 0.5), within("b", 1.1), within("c", 1.1)
    assert avoidable(*specs, met={"a"}, refused={"b", "c"}) == Avoidable(1, 1)


@pytest.mark.parametrize(("until_s", "fits"), [(1.9, 3), (1.6, 2), (0.9, 0)])
def test_as_many_were_avoidable_as_fit_into_the_gap_that_was_left(until_s: float, fits: int) -> None:
    """The GPU is free from 0.46 to 2 s, and three came at 0.5 s in vain."""
    refused = [within(f"r{i}", until_s, at_s=0.5) for i in range(3)]
    served = within("a", 0.5), within("z", 2.5, at_s=2.0)
    found = avoidable(*served, *refused, met={"a", "z"}, refused={"r0", "r1", "r2"})
    assert found == Avoidable(fits, fits)


def test_what_was_served_but_cannot_be_is_a_contradiction_and_said_so() -> None:
    with pytest.raises(InvariantBroken, match="bound_not_solved"):
        upper_bound((within("a", 0.2),), some_costs(), gpus=1, must={"a"})


def test_a_comparison_with_admission_says_what_the_door_cost() -> None:
    setting = Setting(Workload(rate=39, requests=60), seeds=1, admission=Admission(0.75))
    result = compare(setting, [Entrant("save", {"admitted": True})], jobs=1)
    door = result["planners"]["save:admitted=true"]["admission"]
    assert 0.5 < door["admitted"] < 1.0
    assert 0.8 < door["goodput"] <= 1.05
    assert 0 <= door["avoidable_refusals"] <= door["avoidable_refusals_at_most"] <= 1 - door["admitted"]


def test_a_comparison_without_admission_says_nothing_about_a_door() -> None:
    result = compare(Setting(Workload(requests=5), seeds=1), [Entrant("fifo")], jobs=1)
    assert "admission" not in result["planners"]["fifo"]
