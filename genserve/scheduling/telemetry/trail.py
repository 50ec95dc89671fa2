"""What telemetry alone remembers of one live request: its spans; not its status, which the state knows (see trails)."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from genserve.domain import events as e
from genserve.domain.cluster import Request
from genserve.domain.request import Status
from observability.tracing import SpanContext, span_in

QUEUED, PAUSED, RUN = "queued", "paused", "run"
WAITS = {Status.WAITING: QUEUED, Status.PAUSED: PAUSED}
"""The statuses in which a request waits for GPUs, and the names of their spans."""


class Decided(NamedTuple):
    """The decision that gave a segment to a request."""

    decision: str
    position: int
    reason: str


class Run(NamedTuple):
    """A segment as it began for one request; ``to_step`` is known when it is over."""

    began: e.StageStarted
    started_us: int
    decided: Decided | None
    to_step: int = 0


class Remains(Struct, frozen=True):
    """What of a trail cannot be derived from its request again: see Trail."""

    request_id: str
    since_us: int
    since: str
    run: Run | None
    decided: dict[str, Decided]


class Trail(Struct):
    """One live request. ``since_us`` and ``since`` say when and with which event its last wait began."""

    request_id: str
    root: SpanContext
    caller: SpanContext | None
    since_us: int
    since: str
    run: Run | None = None
    decided: dict[str, Decided] = {}

    @property
    def remains(self) -> Remains:
        return Remains(self.request_id, self.since_us, self.since, self.run, self.decided)

    def run_context(self, segment_id: str) -> SpanContext:
        """The span of a segment, known from the moment it is decided."""
        return span_in(self.root, f"{self.request_id}/{RUN}/{segment_id}")

    def wait_context(self, name: str) -> SpanContext:
        return span_in(self.root, f"{self.request_id}/{name}/{self.since}")


class Interval(NamedTuple):
    """A finished stretch of a request's life: queued, paused, or a run of one segment, and how it ended."""

    name: str
    context: SpanContext
    start_us: int
    end_us: int
    outcome: str
    error: str = ""
    run: Run | None = None


class Change(NamedTuple):
    """One request before and after one event: ``before`` is None at its submission, ``after`` at its end."""

    trail: Trail
    before: Request | None
    after: Request | None
    closed: Interval | None = None

    @property
    def request(self) -> Request:
        """The newest there is to know."""
        request = self.after or self.before
        assert request is not None, "a change is of something"
        return request

    @property
    def has_ended(self) -> bool:
        return self.after is None

    @property
    def has_started(self) -> bool:
        """Whether this is its first segment."""
        return self.before is not None and not self.before.started_us and self.request.started_us > 0

    @property
    def has_regrouped(self) -> bool:
        return self.before is not None and self.request.regroups > self.before.regroups

    @property
    def has_paused(self) -> bool:
        """Whether it was running until now."""
        return self.before is not None and self.request.pauses > self.before.pauses

    @property
    def has_rolled_back(self) -> bool:
        return self.before is not None and self.request.attempt > self.before.attempt


def event_key(recorded: e.Recorded) -> str:
    """What ids derive from: the event's id, or its position in a log that was written by hand."""
    return recorded.event_id or str(recorded.position)


def queued_us(request: Request) -> int:
    """Submitted to first segment; 0 for what has never run."""
    return request.started_us - request.submitted_us if request.started_us else 0
