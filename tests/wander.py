"""A policy without sense: requests stop at every other boundary and go on, here or elsewhere, from that stop."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from genserve.domain.cluster import ClusterState, Request, Segment
from genserve.domain.estimate import steps_done
from genserve.domain.plan import AnyAction, Plan, Waiting, Yield
from genserve.domain.request import Stage
from genserve.planners import registry
from genserve.planners.assign import SegmentIds, chain
from genserve.planners.interface import Policy

SOON_US = 30_000


class Wander(Policy, frozen=True):
    """What it goes on with is queued before the stop takes effect, and may come too late or to a worker that dies."""

    title: ClassVar[str] = "wander"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        ids, actions, waiting = SegmentIds(state), [], []
        idle = sorted(w for w, worker in state.workers.items() if not worker.queue)
        for request in sorted(state.requests.values(), key=lambda r: r.request_id):
            if request.cancelling or request.fatal:
                continue
            found = _next(state, request, idle, ids)
            actions += found
            if request.is_idle and not found:
                waiting.append(Waiting(request.request_id, "no worker is idle"))
        wake_at_us = state.clock_us + SOON_US if state.requests else 0
        return Plan(tuple(actions), tuple(waiting), "" if actions else "nothing to do", wake_at_us)


def _next(state: ClusterState, request: Request, idle: list[str], ids: SegmentIds) -> list[AnyAction]:
    live = [state.segments[s] for s in request.segments]
    if request.is_idle and idle:
        return [*chain([request], (idle.pop(0),), ids=ids, after="", reason="begins")]
    if not live or not live[0].is_running or live[0].stage is not Stage.DENOISE or any(s.is_open for s in live[1:]):
        return []
    head = live[0]
    if head.yielding:
        return [*chain([request], _place(head, request, idle), ids=ids, after="", reason="goes on")]
    return [Yield(head.segment_id, "wanders")] if steps_done(state, request) + 1 < head.to_step else []


def _place(head: Segment, request: Request, idle: list[str]) -> tuple[str, ...]:
    return (idle.pop(0),) if idle and request.pauses % 2 else (head.leader,)


@pytest.fixture
def wander(monkeypatch: pytest.MonkeyPatch) -> Wander:
    """Known to the registry by its name."""
    monkeypatch.setitem(registry._OURS, Wander.title, Wander)
    return Wander()
