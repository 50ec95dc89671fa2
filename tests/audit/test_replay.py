"""The same loop makes every recorded decision again, and says which side broke where it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from genserve.audit.replay import Broken, ReplayReport, replay
from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.plan import Plan, Start
from genserve.domain.request import Stage
from genserve.planners.interface import Policy
from genserve.planners.registry import build_planner
from tests.audit.logs import Log, a_simulated_log
from tests.scheduling.chaos import Chaos


def altered(log: Log, index: int, **changes: Any) -> Log:
    """The log with fields of one event changed."""
    old = log[index]
    return [*log[:index], replace(old, event=replace(old.event, **changes)), *log[index + 1 :]]


def index_of(log: Log, kind: type[e.Event], *, skip: int = 0) -> int:
    return [i for i, r in enumerate(log) if isinstance(r.event, kind)][skip]


def a_decision_with_actions(log: Log) -> int:
    return next(i for i, r in enumerate(log) if isinstance(r.event, e.PlanDecided) and r.event.actions)


def broken(report: ReplayReport) -> tuple[Broken, int]:
    assert report.first is not None
    return report.first.broken, report.first.position


@pytest.mark.parametrize("planner", ["fifo", "sjf", "srtf", "edf"])
def test_every_decision_of_a_simulated_log_is_made_again(planner: str) -> None:
    log = a_simulated_log(planner)
    report = replay(log)
    assert report.first is None
    assert report.violations == ()
    assert report.equal == report.decisions == sum(isinstance(r.event, e.PlanDecided) for r in log) > 20
    assert report.is_clean


@pytest.mark.parametrize("seed", range(5))
def test_every_decision_of_an_unkind_log_is_made_again(seed: int) -> None:
    report = replay(Chaos(seed).run(300))
    assert report.first is None
    assert report.equal == report.decisions > 20


def test_a_change_of_planner_in_the_log_changes_who_is_asked() -> None:
    chaos = Chaos(3, planner="fifo")
    chaos.run(100)
    chaos.change_planner(build_planner("edf"))
    log = chaos.run(100)
    assert {r.event.planner for r in log if isinstance(r.event, e.PlanDecided)} == {"fifo", "edf"}
    assert replay(log).first is None
    without = [r for r in log if not isinstance(r.event, e.PlannerChanged) or r.event.name == "fifo"]
    first = replay(without).first
    assert first is not None
    assert (first.broken, first.recorded["planner"], first.replayed["planner"]) == (Broken.INPUT, "edf", "fifo")


@pytest.mark.parametrize("seed", range(5))
def test_a_new_planner_remembers_what_went_before_it(seed: int) -> None:
    chaos = Chaos(seed, planner="fifo")
    chaos.run(100)
    chaos.change_planner(build_planner("super_p95", {"every": 2, "share": 0.1}))
    report = replay(chaos.run(100))
    assert report.first is None
    assert report.equal == report.decisions


def test_a_changed_measurement_is_a_broken_state_at_the_next_decision() -> None:
    log = a_simulated_log()
    index = index_of(log, e.StepsFinished, skip=5)
    next_decision = next(r.position for r in log[index:] if isinstance(r.event, e.PlanDecided))
    report = replay(altered(log, index, took_us=123))
    assert broken(report) == (Broken.STATE, next_decision)
    assert report.first is not None
    assert set(report.first.recorded) == {"state_digest"}
    assert 0 < report.equal < report.decisions


def test_a_changed_action_is_a_broken_plan_with_both_sides() -> None:
    log = a_simulated_log()
    index = a_decision_with_actions(log)
    lie = Start("s9", ("r00",), "t2v", Stage.ENCODE, ("w1",), "forged")
    report = replay(altered(log, index, actions=(lie,)))
    assert broken(report) == (Broken.PLAN, log[index].position)
    first = report.first
    assert first is not None
    assert first.recorded["actions"][0]["reason"] == "forged"
    assert first.replayed["actions"][0]["reason"] == "earliest deadline first"
    assert "recorded: " in str(first)
    assert "forged" in str(first)


@pytest.mark.parametrize("field", ["wake_at_us", "note"])
def test_the_rest_of_a_plan_counts_too(field: str) -> None:
    log = a_simulated_log()
    index = a_decision_with_actions(log)
    report = replay(altered(log, index, **{field: 77 if field == "wake_at_us" else "forged"}))
    assert broken(report) == (Broken.PLAN, log[index].position)
    assert report.equal == report.decisions - 1, "the facts are folded as recorded: nothing after it differs"


def test_a_decision_on_another_position_is_a_broken_input() -> None:
    log = a_simulated_log()
    index = a_decision_with_actions(log)
    report = replay(altered(log, index, input_position=1))
    assert broken(report) == (Broken.INPUT, log[index].position)


def test_how_long_planning_took_is_no_part_of_the_decision() -> None:
    log = a_simulated_log()
    assert replay(altered(log, a_decision_with_actions(log), took_us=987_654)).is_clean


def test_a_planner_that_is_not_here_is_named() -> None:
    log = a_simulated_log()
    report = replay(altered(log, index_of(log, e.PlannerChanged), name="foresight", digest="other"))
    assert report.first is not None
    assert report.first.broken is Broken.INPUT
    assert "foresight" in str(report.first)
    assert report.equal == 0


class Wild(Policy, frozen=True):
    """Calls itself edf and starts what does not exist."""

    title: ClassVar[str] = "edf"

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        return Plan((Start("s1", ("nobody",), "t2i", Stage.ENCODE, ("w0",), "wild"),))


def test_a_planner_that_now_plans_nonsense_is_a_broken_plan() -> None:
    report = replay(a_simulated_log(), planner=Wild())
    assert report.first is not None
    assert report.first.broken is Broken.PLAN
    assert "nobody is started but is not a live request" in str(report.first)


def test_a_log_without_state_digests_is_compared_by_its_plans() -> None:
    log = [
        replace(r, event=replace(r.event, state_digest="")) if isinstance(r.event, e.PlanDecided) else r
        for r in a_simulated_log()
    ]
    assert replay(log).is_clean


def test_broken_laws_are_reported_with_their_position() -> None:
    log = a_simulated_log()
    again = replace(log[index_of(log, e.RequestCompleted)], position=len(log) + 1, recorded_us=log[-1].recorded_us)
    report = replay([*log, again])
    assert [(v.law, v.position) for v in report.violations] == [("conservation", len(log) + 1)]
    assert not report.is_clean


def test_the_log_is_read_once_and_need_not_fit_in_memory() -> None:
    log = a_simulated_log()

    def stream() -> Iterator[e.Recorded]:
        yield from log

    report = replay(stream())
    assert (report.events, report.last_position) == (len(log), log[-1].position)
    assert report.is_clean


def test_an_empty_log_is_clean() -> None:
    assert replay([]).is_clean


def test_replay_cannot_emit_telemetry_because_it_does_not_even_import_it() -> None:
    code = "import sys, genserve.audit.replay; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "genserve.audit.replay" in done.stdout.split()
    assert not [m for m in done.stdout.split() if m.split(".")[0] in ("observability", "opentelemetry", "structlog")]
