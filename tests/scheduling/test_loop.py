"""The loop wakes itself when a worker is about to end that somebody waits for, once for each end."""

from __future__ import annotations

from typing import ClassVar

from genserve.domain import events as e
from genserve.domain.plan import Plan
from genserve.planners.interface import Policy
from genserve.scheduling.loop import Loop
from tests.builders import History
from tests.domain.test_endings import DECODE, DISPATCH_US, STAGES, decoding

ENDING_US = 500_000 + STAGES[DECODE] - 2 * DISPATCH_US


class Patient(Policy, frozen=True):
    """Starts nothing, and counts how often it is asked."""

    title: ClassVar[str] = "patient"
    clocks: ClassVar[list[int]] = []

    def plan(self, state: object, memory: object) -> Plan:
        self.clocks.append(state.clock_us)  # type: ignore[attr-defined]
        return Plan()


class Nobody:
    def dispatch(self, recorded: e.Recorded) -> None:
        raise AssertionError("nothing was decided")


def a_loop(history: History) -> Loop:
    """One that has decided on all there is."""
    Patient.clocks.clear()
    loop = Loop(Patient(), dispatcher=Nobody(), state=history.state)
    loop.react(history.now_us)
    return loop


def test_it_wakes_when_the_decode_that_somebody_waits_for_is_about_to_end() -> None:
    assert a_loop(decoding()).wake_at_us == ENDING_US


def test_it_decides_then_and_does_not_wake_for_the_same_end_again() -> None:
    loop = a_loop(decoding())
    loop.react(ENDING_US - 1)
    loop.react(ENDING_US)
    assert Patient.clocks == [500_000, ENDING_US]
    assert loop.wake_at_us == 0


def test_it_sleeps_on_while_nobody_waits() -> None:
    assert a_loop(decoding().of("r2", e.RequestCancelled())).wake_at_us == 0


def test_a_worker_that_was_told_of_late_wakes_it_at_once() -> None:
    """The decision at 545 ms did not know yet that r1 had begun to decode at 500 ms."""
    history = decoding()
    told = history.log.pop()
    history.now_us = 545_000
    loop = a_loop(history)
    assert loop.wake_at_us == 0
    loop.fold([e.Recorded(told.position, told.stream, told.version, 546_000, e.StageStarted(
        "r1-decode", DECODE, 0, ("w0",), at_us=500_000))])  # fmt: skip
    loop.react(546_000)
    assert Patient.clocks == [545_000, 546_000]
