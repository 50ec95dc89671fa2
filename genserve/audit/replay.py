"""Yesterday's log through today's loop: is every decision made again? Not a simulation, nothing is invented here.

The loop is the one of production. Facts are folded as recorded, also after a divergence, so that one different
decision does not make all later ones different; each decision is asked for again from the state it saw.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import StrEnum
from itertools import takewhile
from typing import Any, ClassVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from genserve.domain.cluster import ClusterState
from genserve.domain.events import PlanDecided, PlannerChanged, Recorded
from genserve.domain.laws import LawBook, Violation
from genserve.domain.plan import Plan
from genserve.errors import GenServeError
from genserve.planners.interface import Planner, Policy
from genserve.planners.registry import build_planner
from genserve.scheduling.digest import state_digest
from genserve.scheduling.loop import Loop

MAX_SHOWN = 100
"""Law violations that a report lists; all are counted."""

_BATCH = 512
_SIDE_CHARS = 600


class Broken(StrEnum):
    """What broke, in the order in which it is looked for."""

    INPUT = "INPUT"
    """The decision was made at another position or by another planner than the log says."""
    STATE = "STATE"
    """The fold of the log is not the state that the planner saw."""
    PLAN = "PLAN"
    """Same state, same planner, other decision."""


_FIELDS = {
    Broken.INPUT: ("input_position", "clock_us", "planner", "planner_digest"),
    Broken.STATE: ("costs_digest", "state_digest"),
    Broken.PLAN: ("actions", "waiting", "wake_at_us", "note"),
}


class Divergence(Struct, frozen=True):
    """A decision that was not made again: the fields that differ, as recorded and as replayed."""

    broken: Broken
    position: int
    recorded: dict[str, Any]
    replayed: dict[str, Any]
    detail: str = ""

    def __str__(self) -> str:
        lines = [f"{self.broken} differs at position {self.position}" + (f": {self.detail}" if self.detail else "")]
        for name, recorded in self.recorded.items():
            lines.append(f"  {name} recorded: {_shown(recorded)}")
            if name in self.replayed:
                lines.append(f"  {name} replayed: {_shown(self.replayed[name])}")
        return "\n".join(lines)


class ReplayReport(Struct, frozen=True):
    """What a replay found; ``first`` is the first divergence. Times are seconds of wall time."""

    events: int
    last_position: int
    decisions: int
    equal: int
    first: Divergence | None
    violations: tuple[Violation, ...]
    violation_count: int
    took_s: float

    @property
    def is_clean(self) -> bool:
        """Whether every decision was made again and every law holds."""
        return self.equal == self.decisions and self.violation_count == 0


def replay(history: Iterable[Recorded], *, planner: Planner | None = None) -> ReplayReport:
    """Fold a log from its beginning and make every decision again.

    The log's PlannerChanged facts say who decides from there on; ``planner`` decides before the first of them. A
    planner's memory is the fold of the whole log, so a change of planner reads ``history`` again from its beginning;
    where that is a one-shot iterator, the new planner's memory begins with the change. Memory is bounded by the live
    requests and a few bytes for each one that ended, since the laws have to know them. Raises what ``history`` raises.
    """
    began = time.perf_counter()
    auditor = _Auditor(planner or _Nobody(), () if iter(history) is history else history)
    for recorded in history:
        auditor.take(recorded)
    return auditor.report(time.perf_counter() - began)


class _Auditor:
    """The loop with a comparison in place of workers and a clock."""

    def __init__(self, planner: Planner, past: Iterable[Recorded]) -> None:
        self._past = past
        self._loop = Loop(planner, dispatcher=_NoDispatch(), digest=self._digest, fallback=lambda _: _Nobody())
        self._laws = LawBook()
        self._pending: list[Recorded] = []
        self._has_digest = True
        self._planner_error = ""
        self._events = self._last = self._decisions = self._equal = 0
        self._first: Divergence | None = None

    def take(self, recorded: Recorded) -> None:
        self._events += 1
        self._last = recorded.position
        self._laws.watch(recorded)
        if isinstance(recorded.event, PlanDecided):
            self._fold()
            self._compare(recorded.position, recorded.event)
        elif isinstance(recorded.event, PlannerChanged):
            self._fold()
            self._adopt(recorded.position, recorded.event)
        self._pending.append(recorded)
        if len(self._pending) >= _BATCH:
            self._fold()

    def report(self, took_s: float) -> ReplayReport:
        violations = self._laws.violations
        return ReplayReport(
            events=self._events,
            last_position=self._last,
            decisions=self._decisions,
            equal=self._equal,
            first=self._first,
            violations=tuple(violations[:MAX_SHOWN]),
            violation_count=len(violations),
            took_s=took_s,
        )

    def _fold(self) -> None:
        if self._pending:
            self._loop.fold(self._pending)
            self._pending = []

    def _adopt(self, position: int, event: PlannerChanged) -> None:
        """The planner that the log names, remembering all that went before, as after a restart in production."""
        if event.digest == self._loop.planner.digest:
            return
        try:
            planner = build_planner(event.name, event.parameters)
            memory = planner.begin()
            for recorded in takewhile(lambda r: r.position < position, self._past):
                memory = planner.remember(memory, recorded)
        except Exception as error:
            self._planner_error = error.message if isinstance(error, GenServeError) else repr(error)
            planner, memory = _Nobody(), None
        self._loop.adopt(planner, memory)

    def _compare(self, position: int, recorded: PlanDecided) -> None:
        self._decisions += 1
        self._has_digest = recorded.state_digest != ""
        try:
            replayed = self._loop.decide(recorded.clock_us)
        except GenServeError as error:
            self._diverged(Divergence(Broken.PLAN, position, _fields(recorded, _FIELDS[Broken.PLAN]), {}, str(error)))
            return
        if replace(replayed, took_us=recorded.took_us) == recorded:
            self._equal += 1
        elif self._first is None:
            self._diverged(self._explain(position, recorded, replayed))

    def _diverged(self, divergence: Divergence) -> None:
        self._first = self._first or divergence

    def _explain(self, position: int, recorded: PlanDecided, replayed: PlanDecided) -> Divergence:
        for broken, names in _FIELDS.items():
            differing = tuple(name for name in names if getattr(recorded, name) != getattr(replayed, name))
            if differing:
                detail = self._planner_error if broken is Broken.INPUT else ""
                return Divergence(broken, position, _fields(recorded, differing), _fields(replayed, differing), detail)
        raise AssertionError("decisions differ in a field that is not compared")

    def _digest(self, state: ClusterState) -> str:
        """Nothing where nothing was recorded, as in a simulation."""
        return state_digest(state) if self._has_digest else ""


class _NoDispatch:
    def dispatch(self, recorded: Recorded) -> None:
        """What was done is in the log."""


class _Nobody(Policy, frozen=True):
    """Stands in until the log names a planner; whatever it decides differs from what anybody decided."""

    title: ClassVar[str] = "nobody"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        return Plan()


def _fields(event: PlanDecided, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: msgspec.to_builtins(getattr(event, name)) for name in names}


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SIDE_CHARS else f"{text[:_SIDE_CHARS]}... ({len(text)} characters)"
