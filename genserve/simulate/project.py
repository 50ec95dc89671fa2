"""When will every live request be done if nothing more arrives? The simulator run forward from a live state.

This is the ETA of the API. It is the planner's own projection: same loop, same planner, costs as believed now.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.estimate import pace_permille
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.request import RequestSpec
from genserve.planners.interface import Planner
from genserve.simulate.agenda import Agenda
from genserve.simulate.fleet import Fleet
from genserve.simulate.simulation import Simulation
from genserve.simulate.truth import Truth

MAX_FACTS = 20_000
"""Bound on the work of one projection; what is not done by then has no ETA."""


def project(
    state: ClusterState, planner: Planner, memory: Any, *, now_us: int = 0, max_facts: int = MAX_FACTS
) -> dict[str, int]:
    """Finish time in microseconds by request id, for the requests that finish within ``max_facts`` facts.

    ``state`` is a live one, between decisions; ``memory`` the planner's at that position.
    """
    now_us = max(now_us, state.recorded_us)
    state = replace(state, clock_us=now_us)
    agenda = Agenda()
    fleet = Fleet(agenda, _Belief(state))
    finished: dict[str, int] = {}

    def watch(recorded: e.Recorded) -> None:
        if type(recorded.event) is e.RequestCompleted:
            finished[recorded.stream[len(REQUEST_STREAM) :]] = recorded.recorded_us

    simulation = Simulation(
        planner,
        agenda=agenda,
        fleet=fleet,
        state=state,
        memory=memory,
        observers=(watch,),
        keep_log=False,
        position=state.position,
        now_us=now_us,
    )
    fleet.now_us = now_us
    fleet.adopt(state)
    simulation.settle()
    simulation.run(max_facts=max_facts)
    return finished


class _Belief(Truth):
    """Costs as the planner believes them: the state's table, corrected by the paces it has measured."""

    def __init__(self, state: ClusterState) -> None:
        super().__init__(state.costs)
        self._paces = {r.request_id: pace_permille(state, r) for r in state.requests.values()}

    def step_us(self, spec: RequestSpec, *, degree: int, batch: int) -> int:
        table = self.costs.step_us(spec.model, spec.shape, degree=degree, batch=batch)
        return max(1, table * self._paces.get(spec.request_id, 1000) // 1000)
