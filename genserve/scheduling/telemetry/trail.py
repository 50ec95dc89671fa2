"""What telemetry remembers of one live request, and the moves of its life; not which fact moves it (see trails)."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from genserve.domain import events as e
from genserve.domain.request import RequestSpec, Stage, Status
from observability.tracing import SpanContext, span_in

QUEUED, PAUSED, RUN = "queued", "paused", "run"


class Decided(NamedTuple):
    """A segment that a decision gave to a request."""

    decision: str
    position: int
    workers: tuple[str, ...]
    reason: str


class Run(Struct):
    """The segment that a request is in right now; steps count from the beginning of the request."""

    segment_id: str
    stage: Stage
    workers: tuple[str, ...]
    batch: int
    attempt: int
    started_us: int
    from_step: int
    to_step: int
    decided: Decided | None


class Trail(Struct):
    """One live request. ``since_us`` and ``since`` say when and with which event its present wait began."""

    spec: RequestSpec
    root: SpanContext
    caller: SpanContext | None
    submitted_us: int
    since_us: int
    since: str
    status: Status = Status.WAITING
    waits: bool = True
    attempt: int = 0
    run: Run | None = None
    runs: int = 0
    segments: dict[str, Decided] = {}
    home: str = ""
    degree: int = 0
    has_checkpoint: bool = False
    pauses: int = 0
    regroups: int = 0
    queued_us: int = 0

    def run_context(self, segment_id: str) -> SpanContext:
        """The span of a segment, known from the moment it is decided."""
        return span_in(self.root, f"{self.spec.request_id}/{RUN}/{segment_id}")


class Interval(NamedTuple):
    """A finished stretch of a request's life: queued, paused, or a run of one segment, and how it ended."""

    name: str
    context: SpanContext
    start_us: int
    end_us: int
    outcome: str
    run: Run | None = None
    error: str = ""


class Change(NamedTuple):
    """What one event changed for one request; ``before`` is None at its submission."""

    trail: Trail
    before: Status | None
    after: Status
    closed: Interval | None = None
    regrouped: bool = False


def event_key(recorded: e.Recorded) -> str:
    """What ids derive from: the event's id, or its position in a log that was written by hand."""
    return recorded.event_id or str(recorded.position)


def depends_on(trail: Trail, worker_id: str) -> bool:
    if trail.home == worker_id and trail.status is not Status.FINISHING:
        return True
    return any(worker_id in decided.workers for decided in trail.segments.values())


def roll_back(trail: Trail, recorded: e.Recorded, outcome: str, error: str) -> Change:
    """Memory is gone; the request goes on from its checkpoint as its next attempt."""
    before = trail.status
    trail.attempt += 1
    trail.home = ""
    closed = wait(trail, recorded, Status.PAUSED if trail.has_checkpoint else Status.WAITING, outcome, error)
    return Change(trail, before, trail.status, closed)


def refuse(trail: Trail, recorded: e.Recorded, event: e.ActionRefused) -> Change | None:
    """What comes before the refused segment goes on; with nothing before it the request starts over."""
    names = list(trail.segments)
    index = names.index(event.segment_id)
    if index == 0:
        return roll_back(trail, recorded, "refused", event.code)
    for later in names[index:]:
        del trail.segments[later]
    return None


def wait(trail: Trail, recorded: e.Recorded, status: Status, outcome: str, error: str = "") -> Interval | None:
    """Out of all segments and waiting for GPUs; a wait of the same kind simply goes on."""
    trail.segments.clear()
    if trail.waits and trail.status is status:
        return None
    closed = close(trail, recorded.recorded_us, outcome, error)
    trail.status = status
    trail.waits = True
    trail.since_us, trail.since = recorded.recorded_us, event_key(recorded)
    return closed


def close(trail: Trail, now_us: int, outcome: str, error: str = "") -> Interval | None:
    """End the present run or wait, if there is one: between two segments of a chain there is neither."""
    run, trail.run = trail.run, None
    waited, trail.waits = trail.waits, False
    if run is not None:
        return Interval(RUN, trail.run_context(run.segment_id), run.started_us, now_us, outcome, run, error)
    if not waited:
        return None
    name = PAUSED if trail.status is Status.PAUSED else QUEUED
    context = span_in(trail.root, f"{trail.spec.request_id}/{name}/{trail.since}")
    return Interval(name, context, trail.since_us, now_us, outcome, None, error)
