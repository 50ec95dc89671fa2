"""Going on from stops passes the suite that every planner has to pass, with losses, cancels and slow dispatches."""

from __future__ import annotations

import pytest

from genserve.domain import events as e
from genserve.domain.laws import check_laws
from genserve.simulate.simulation import simulate
from genserve.simulate.suite import a_scenario, check_planner
from tests.wander import Wander


def test_a_policy_that_stops_everything_at_every_other_boundary_passes_the_shared_suite() -> None:
    assert check_planner(Wander(), seeds=range(8)) == []


@pytest.mark.parametrize("seed", range(8))
def test_no_law_is_broken_on_the_way(seed: int) -> None:
    log = simulate(Wander(), a_scenario(seed)).log
    assert check_laws(log) == []
    assert sum(isinstance(r.event, e.RequestPaused) for r in log) > 30
