"""The loop: fold what was committed, act on decisions, decide anew; not where events are stored or GPUs driven.

There is one. With a journal and workers behind it, it is production; with a heap and a cost table, the simulator;
with yesterday's events and a comparison in place of ``observe``, the auditor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.evolve import fold
from genserve.domain.ids import REQUEST_STREAM, SCHEDULER_STREAM
from genserve.domain.placement import endings
from genserve.domain.plan import Defer, Plan, Waiting
from genserve.domain.request import Stage
from genserve.errors import InvariantBroken
from genserve.planners.admission import Admission
from genserve.planners.interface import Planner
from genserve.planners.validate import find_faults
from genserve.scheduling.digest import state_digest
from genserve.scheduling.settle import accepts, cancels, verdicts
from genserve.scheduling.verdicts import next_verdict_us, settle_undecided

_NO_TRIGGER = (
    e.StageStarted,
    e.StepsFinished,
    e.LatentsCheckpointed,
    e.ArtifactStored,
    e.RequestDeleted,
)
"""Facts that give no reason to decide anew: a boundary passed as planned is no news."""

MAX_TOLD = 64
"""Waiting reasons told per decision; the rest is told by the next ones, so a decision's size is bounded."""

MAX_REASON = 500
"""Characters of why a planner was replaced."""


class Dispatcher(Protocol):
    """Carries committed decisions to workers."""

    def dispatch(self, recorded: e.Recorded) -> None:
        """Act on a PlanDecided that is committed; must not block and must not fail."""


class Loop:
    """Holds the state, the planner and its memory.

    ``observe`` is called with each committed batch, in log order, and answers with facts to be recorded
    right behind it, ahead of anybody else's. Decide, record, act: always in that order. A planner that
    fails is replaced by the ``fallback``; without one, its error is raised.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        dispatcher: Dispatcher,
        state: ClusterState | None = None,
        memory: Any = None,
        digest: Callable[[ClusterState], str] = state_digest,
        admission: Admission | None = None,
        fallback: Callable[[Exception], Planner] | None = None,
    ) -> None:
        self.planner = planner
        self.state = state or ClusterState()
        self.memory = planner.begin() if memory is None else memory
        self._planned_wake_us = 0
        self._counted: frozenset[str] = frozenset()
        self._ends: tuple[ClusterState, dict[str, int]] = self.state, endings(self.state)
        self._admission = admission
        self._dispatcher = dispatcher
        self._digest = digest
        self._fallback = fallback
        self._failure: Exception | None = None
        self._is_due = True

    @property
    def wake_at_us(self) -> int:
        """When to be called even if nothing happens: the plan's wish, the next open verdict, or when a worker is about
        to end or to stop that others wait for, or its own request; 0 for never.
        """
        wishes = (self._planned_wake_us, next_verdict_us(self.state), self._next_ending_us())
        return min(filter(None, wishes), default=0)

    def _next_ending_us(self) -> int:
        """Of those workers that did not count as ending in the last decision."""
        endings = self._endings()
        if not endings:
            return 0
        waits = any(r.is_idle for r in self.state.requests.values())
        if not waits and not any(s.yielding for s in self.state.segments.values()):
            return 0
        return min((at_us for last, at_us in endings.items() if last not in self._counted), default=0)

    def _endings(self) -> dict[str, int]:
        """Worked out once for each state."""
        if self._ends[0] is not self.state:
            self._ends = self.state, endings(self.state)
        return self._ends[1]

    def observe(self, batch: Sequence[e.Recorded], now_us: int) -> list[tuple[str, e.AnyEvent]]:
        """Fold a committed batch, act on the decisions in it, and answer what follows from it."""
        self.fold(batch)
        for recorded in batch:
            if type(recorded.event) is e.PlanDecided:
                self._dispatcher.dispatch(recorded)
        return self.react(now_us)

    def fold(self, batch: Sequence[e.Recorded]) -> None:
        """Take committed events in without acting on them: recovery and replay begin here."""
        self.state = fold(self.state, batch)
        for recorded in batch:
            self._remember(recorded)
            self._is_due = self._is_due or self._is_news(recorded)

    def adopt(self, planner: Planner, memory: Any) -> None:
        """Another planner decides from here on."""
        self.planner, self.memory, self._failure = planner, memory, None

    def _remember(self, recorded: e.Recorded) -> None:
        """A planner that has failed is asked nothing any more."""
        if self._failure is not None:
            return
        try:
            self.memory = self.planner.remember(self.memory, recorded)
        except Exception as error:
            if self._fallback is None:
                raise
            self._failure, self._is_due = error, True

    def _is_news(self, recorded: e.Recorded) -> bool:
        """A reason to decide: not what goes as planned, nor an encode's end with its next segment queued.

        Unless somebody waits: what encodes cannot be interrupted, so its end may be the first chance to. A decision is
        none, unless it sends a request on to its heavy model, where it waits again.
        """
        event = recorded.event
        if isinstance(event, e.PlanDecided):
            return any(isinstance(action, Defer) for action in event.actions)
        if isinstance(event, e.StageFinished) and event.stage is Stage.ENCODE:
            request = self.state.requests.get(recorded.stream[len(REQUEST_STREAM) :])
            return request is None or not request.segments or any(r.is_idle for r in self.state.requests.values())
        return type(event) not in _NO_TRIGGER

    def react(self, now_us: int) -> list[tuple[str, e.AnyEvent]]:
        """Ends and verdicts that are due; else a decision, if there is a reason to decide and something came of it."""
        if not self._is_due and not 0 < self.wake_at_us <= now_us:
            return []
        ends = verdicts(self.state) or self._settle_undecided(now_us)
        if ends:
            return ends
        self._is_due = False
        try:
            decided = self._decide_unless_failed(now_us)
        except Exception as error:
            if self._fallback is None:
                raise
            return [(SCHEDULER_STREAM, self._replace_planner(error))]
        self._counted = frozenset(s for s, at_us in self._endings().items() if at_us <= decided.clock_us)
        self._planned_wake_us = decided.wake_at_us
        return [(SCHEDULER_STREAM, decided)] if decided.actions or decided.waiting else []

    def _decide_unless_failed(self, now_us: int) -> e.PlanDecided:
        if self._failure is not None:
            raise self._failure
        return self.decide(now_us)

    def _replace_planner(self, error: Exception) -> e.PlannerChanged:
        """One that fails at this state would fail at it after every restart: the fallback decides from here on. If
        that fails too, nothing helps.
        """
        assert self._fallback is not None
        reason = f"{self.planner.name} failed at {self.state.position}: {type(error).__name__}: {error}"[:MAX_REASON]
        planner, self._fallback = self._fallback(error), None
        self.adopt(planner, planner.begin())
        return e.PlannerChanged(self.planner.name, self.planner.digest, self.planner.parameters(), reason)

    def _settle_undecided(self, now_us: int) -> list[tuple[str, e.AnyEvent]]:
        if not self.state.undecided:
            return []
        state = replace(self.state, clock_us=max(now_us, self.state.recorded_us))
        return settle_undecided(state, self.memory, self._admission)

    def decide(self, now_us: int) -> e.PlanDecided:
        """Ask the planner about the state as it is at ``now_us``.

        Raises InvariantBroken ``illegal_plan``: a planner that plans nonsense is a bug, found before it is recorded.
        """
        began_ns = time.perf_counter_ns()
        state = replace(self.state, clock_us=max(now_us, self.state.recorded_us))
        plan = self.planner.plan(state, self.memory)
        if not isinstance(plan, Plan):
            raise InvariantBroken("illegal_plan", f"{self.planner.name} at {state.position}: {plan!r} is no plan")
        plan = replace(plan, actions=(*cancels(state), *plan.actions, *accepts(state, plan)))
        faults = find_faults(state, plan)
        if faults:
            raise InvariantBroken("illegal_plan", f"{self.planner.name} at {state.position}: {'; '.join(faults)}")
        return e.PlanDecided(
            input_position=state.position,
            clock_us=state.clock_us,
            planner=self.planner.name,
            planner_digest=self.planner.digest,
            costs_digest=state.costs.digest,
            state_digest=self._digest(state),
            actions=plan.actions,
            waiting=self._news(plan),
            note=plan.note,
            wake_at_us=plan.wake_at_us,
            took_us=(time.perf_counter_ns() - began_ns) // 1000,
        )

    def _news(self, plan: Plan) -> tuple[Waiting, ...]:
        """Reasons that differ from what was last told."""
        requests = self.state.requests
        return tuple(w for w in plan.waiting if requests[w.request_id].told != w.reason)[:MAX_TOLD]
