"""Planners of other packages that do not keep their word: what their author is told."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

from genserve.domain.cluster import ClusterState
from genserve.domain.plan import Plan, Start, Waiting
from genserve.domain.request import Stage
from genserve.errors import CallerError, InvariantBroken
from genserve.planners import registry
from genserve.planners.interface import Policy
from genserve.simulate.compare import Entrant, Setting, compare
from genserve.simulate.report import render
from genserve.simulate.simulation import Scenario, simulate
from genserve.simulate.suite import check_planner
from genserve.simulate.workloads import Workload
from tests.builders import a_request, some_costs


class Idle(Policy, frozen=True):
    title: ClassVar[str] = "idle"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        return Plan(note="not today")


class Silent(Policy, frozen=True):
    title: ClassVar[str] = "silent"

    def plan(self, state: ClusterState, memory: Any) -> Any:
        return None


class Stranger(Policy, frozen=True):
    title: ClassVar[str] = "stranger"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        return Plan(waiting=(Waiting("ghost", "is not there"),))


class Elsewhere(Policy, frozen=True):
    title: ClassVar[str] = "elsewhere"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        return Plan(tuple(Start(r, (r,), "t2i", Stage.ENCODE, ("nobody",), "why not") for r in state.requests))


def install(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = tuple(EntryPoint(name, value, registry.GROUP) for name, value in values.items())
    monkeypatch.setattr(registry, "entry_points", lambda **_: points)


@pytest.mark.parametrize(
    ("planner", "says"),
    [
        (Silent(), "silent at 4: None is no plan"),
        (Stranger(), "ghost is told to wait but is not a live request"),
        (Elsewhere(), "nobody is not a worker of this cluster"),
    ],
)
def test_a_plan_that_is_none_is_told_by_name(planner: Any, says: str) -> None:
    with pytest.raises(InvariantBroken, match=says) as caught:
        simulate(planner, Scenario((a_request(),), some_costs(), gpus=1))
    assert caught.value.code == "illegal_plan"
    assert any(says.split(" at ")[0] in fault for fault in check_planner(planner, seeds=range(1)))


def test_a_planner_that_starts_nothing_is_late_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, idle="tests.planners.test_foreign:Idle")
    result = compare(Setting(Workload(requests=3), seeds=1), [Entrant("idle")], jobs=1)
    assert result["planners"]["idle"]["attainment"]["mean"] == 0
    assert "Nothing was finished" in render(result)


def test_a_package_that_cannot_be_imported_does_not_take_the_others_away(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, absent="no_such_package:Planner", wrong="tests.planners.test_foreign:install")
    assert registry.build_planner("fifo").name == "fifo"
    assert "absent" in registry.planner_names()
    for name in ("absent", "wrong"):
        with pytest.raises(CallerError, match=name) as caught:
            registry.build_planner(name)
        assert caught.value.code == "broken_planner"
