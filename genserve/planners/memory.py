"""What SAVE remembers: arrivals by class and the ageing credit, as a fold over the log; nothing else."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.request import Shape
from genserve.planners.view import View

WINDOW_US = 120_000_000
ADMISSION_WINDOW_US = 300_000_000
DAMPING_US = 10_000_000
"""Rate = arrivals of the window / (the time it has been watched + this), so that one arrival is no flood."""

AGED = "aged"
BOUGHT = "ageing credit buys it"
AHEAD = "ahead of its turn"


class ClassKey(NamedTuple):
    model: str
    shape: Shape
    steps: int


class Seen(Struct, frozen=True):
    """Arrival times of a class within the longer window, and the last allowance asked for."""

    allowance_us: int
    times: tuple[int, ...]


class Memory(Struct, frozen=True):
    """``aged`` holds requests told that they wait for credit; while there are any, time earns credit."""

    began_us: int = 0
    seen: dict[ClassKey, Seen] = {}
    aged: frozenset[str] = frozenset()
    bought: frozenset[str] = frozenset()
    earned_for_us: int = 0
    since_us: int = 0
    spent_us: int = 0
    passed_us: int = 0
    """Of that, by those who passed the head since one was last bought in its turn."""

    def queued_for(self, now_us: float) -> float:
        """How long credit has been accruing."""
        return self.earned_for_us + (now_us - self.since_us if self.aged else 0.0)


def remember(memory: Memory, recorded: e.Recorded) -> Memory:
    event = recorded.event
    if isinstance(event, e.RequestSubmitted):
        return _arrived(memory, event, recorded.recorded_us)
    if isinstance(event, e.PlanDecided):
        return _told(memory, event, recorded.recorded_us) if event.waiting else memory
    if type(event) in e.REQUEST_ENDS and (memory.aged or memory.bought):
        return _left(memory, recorded.stream[len(REQUEST_STREAM) :], recorded.recorded_us)
    return memory


def _arrived(memory: Memory, event: e.RequestSubmitted, now_us: int) -> Memory:
    spec = event.request
    key = ClassKey(spec.model, spec.shape, spec.steps)
    old = memory.seen.get(key)
    times = () if old is None else old.times
    if times and times[0] < now_us - ADMISSION_WINDOW_US:
        times = times[bisect_left(times, now_us - ADMISSION_WINDOW_US) :]
    seen = {**memory.seen, key: Seen(spec.deadline_us - spec.arrival_us, (*times, now_us))}
    return replace(memory, seen=seen, began_us=memory.began_us or now_us)


def _told(memory: Memory, event: e.PlanDecided, now_us: int) -> Memory:
    aged, bought, spent_us, passed_us = set(memory.aged), set(memory.bought), memory.spent_us, memory.passed_us
    for waiting in event.waiting:
        if waiting.reason.startswith(BOUGHT):
            price = int(waiting.reason.split()[-2])
            spent_us += price
            passed_us = passed_us + price if AHEAD in waiting.reason else 0
            bought.add(waiting.request_id)
            aged.discard(waiting.request_id)
        elif waiting.reason.startswith(AGED):
            aged.add(waiting.request_id)
    memory = _settled(memory, frozenset(aged), frozenset(bought), spent_us, now_us)
    return memory if memory.passed_us == passed_us else replace(memory, passed_us=passed_us)


def _left(memory: Memory, request_id: str, now_us: int) -> Memory:
    gone = {request_id}
    return _settled(memory, memory.aged - gone, memory.bought - gone, memory.spent_us, now_us)


def _settled(memory: Memory, aged: frozenset[str], bought: frozenset[str], spent_us: int, now_us: int) -> Memory:
    """The credit clock runs while somebody waits for credit."""
    if (aged, bought, spent_us) == (memory.aged, memory.bought, memory.spent_us):
        return memory
    earned = memory.earned_for_us + (now_us - memory.since_us if memory.aged else 0)
    return replace(memory, aged=aged, bought=bought, earned_for_us=earned, since_us=now_us, spent_us=spent_us)


class Arrivals(Struct, frozen=True, gc=False):
    """A class still to come: GPUs that it keeps busy, GPU time of one on one GPU, and its relative deadline."""

    load: float
    cost_us: float
    allowance_us: int


def forecast_classes(memory: Memory, view: View, *, window_us: int = WINDOW_US) -> list[Arrivals]:
    """Rates of the last two minutes (or another window), cheapest class first."""
    watched_us = min(max(0.0, view.now_us - memory.began_us), window_us) + DAMPING_US
    classes = []
    for key, seen in memory.seen.items():
        recent = len(seen.times) - bisect_left(seen.times, view.now_us - window_us)
        if recent:
            profile, pace = view.class_of(key.model, key.shape)
            cost = key.steps * profile.step_us[1] * pace + profile.decode_us + profile.encode_us
            classes.append(Arrivals(recent / watched_us * cost, cost, seen.allowance_us))
    return sorted(classes, key=lambda c: (c.cost_us, c.allowance_us))
