"""The shared suite on a planner from outside, and its being found by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from most_slack_last import MostSlackLast

from genserve.planners import registry
from genserve.simulate.suite import check_planner


def test_it_passes_the_suite_that_every_planner_passes() -> None:
    assert check_planner(MostSlackLast(), seeds=range(3)) == []


def test_an_installed_entry_point_makes_it_a_planner_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("most_slack_last", "most_slack_last:MostSlackLast", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **_: (point,))
    assert registry.build_planner("most_slack_last", {"margin_ms": 5}) == MostSlackLast(margin_ms=5)
