"""A planner that fails is replaced, on the record; the cell serves on, and the next leader tries the planner anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.plan import Plan
from genserve.planners import registry
from genserve.planners.fifo import Fifo
from genserve.planners.interface import Policy
from tests.actors.cell import LocalCell, a_video, an_image, told
from tests.planners.test_foreign import Stranger


class Raising(Fifo, frozen=True):
    """Cannot cope with two requests."""

    title: ClassVar[str] = "raising"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        if len(state.requests) > 1:
            raise ZeroDivisionError("float division by zero")
        return super().plan(state, memory)


class Forgetful(Fifo, frozen=True):
    """Fails at what it hears, not at what it is asked."""

    title: ClassVar[str] = "forgetful"

    def remember(self, memory: Any, recorded: e.Recorded) -> Any:
        if isinstance(recorded.event, e.StageStarted):
            raise KeyError(recorded.event.segment_id)
        return memory


def replacements(cell: LocalCell) -> list[e.PlannerChanged]:
    return [event for event in cell.all_events(e.PlannerChanged) if event.reason]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Raising, "ZeroDivisionError: float division by zero"),
        (Stranger, "ghost is told to wait but is not a live request"),
        (Forgetful, "KeyError: "),
    ],
)
def test_a_planner_that_fails_is_replaced_and_everything_is_served(
    policy: type[Policy], reason: str, in_cell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._OURS, policy.title, policy)

    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1"), an_image("i1"))
        await cell.finish("v1", "i1")
        assert [cell.status(name) for name in ("v1", "i1")] == ["completed", "completed"], told(cell.log)
        (changed,) = replacements(cell)
        assert changed.name == "edf"
        assert changed.reason.startswith(f"{policy.title} failed at ")
        assert reason in changed.reason

    in_cell(test, planner=policy.title)


def test_the_next_leader_tries_the_planner_anew(in_cell: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._OURS, Raising.title, Raising)

    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1"), an_image("i1"))
        await cell.finish("v1", "i1")
        cell.runtime.crash("scheduler")
        await cell.scheduler.start()
        await cell.submit(an_image("i2"))
        await cell.finish("i2")
        decided = [event.planner for event in cell.all_events(e.PlanDecided)]
        assert "edf" in decided
        assert decided[-1] == Raising.title
        assert len(replacements(cell)) == 1

    in_cell(test, planner=Raising.title)
