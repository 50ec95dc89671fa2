"""Every live request's trail beside the real state; not what is said about them (spans, meters, lines).

The state is advanced by ``genserve.domain.evolve`` event by event, and what changed is seen by comparing each request
before and after. Trails end with their requests, so memory is bounded by the live ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState, Request
from genserve.domain.evolve import evolve
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.plan import Start
from genserve.domain.request import Status
from genserve.scheduling.telemetry.trail import (
    RUN,
    WAITS,
    Change,
    Decided,
    Interval,
    Remains,
    Run,
    Trail,
    event_key,
)
from observability.tracing import continue_trace

_OUTCOMES: dict[type[e.Event], str] = {
    e.StageStarted: "started",
    e.StageFinished: "finished",
    e.RequestPaused: "paused",
    e.AttemptFailed: "failed",
    e.WorkerJoined: "lost",
    e.WorkerLost: "lost",
    e.ActionRefused: "refused",
    e.RequestCompleted: Status.COMPLETED.value,
    e.RequestCancelled: Status.CANCELLED.value,
    e.RequestFailed: Status.FAILED.value,
}
"""How a wait or a run has ended, by the event that ended it."""


class Trails:
    """The state after every event so far, and a trail for every live request."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.live: dict[str, Trail] = {}

    def freeze(self) -> tuple[Remains, ...]:
        """What ``thaw`` needs beside the state."""
        return tuple(trail.remains for trail in self.live.values())

    def thaw(self, state: ClusterState, remains: Iterable[Remains]) -> list[Change]:
        """Go on from there; every live request as a change from nothing."""
        self.state = state
        requests = {r.request_id: _find(state, r.request_id) for r in remains}
        self.live = {r.request_id: _recall(r, request) for r in remains if (request := requests[r.request_id])}
        return [Change(trail, None, requests[request_id]) for request_id, trail in self.live.items()]

    def watch(self, recorded: e.Recorded) -> list[Change]:
        """Take one more event in; the changes it made, none for what came too late or changes no request."""
        before, self.state = self.state, evolve(self.state, recorded)
        pairs = ((r, _find(before, r), _find(self.state, r)) for r in _touched(recorded, before.requests))
        return [self._change(recorded, *pair) for pair in pairs if pair[1] is not pair[2]]

    def _change(self, recorded: e.Recorded, request_id: str, before: Request | None, after: Request | None) -> Change:
        if before is None:
            trail = self.live[request_id] = _begin(recorded, request_id, after)
            return Change(trail, before, after)
        trail = self.live[request_id] if after is not None else self.live.pop(request_id)
        closed = _close(trail, before, after, recorded)
        if after is not None:
            _go_on(trail, before, after, recorded)
        return Change(trail, before, after, closed)


def outcome(event: e.Event) -> str:
    """How the event ends what it ends, in a word."""
    return _OUTCOMES.get(type(event), "")


def _find(state: ClusterState, request_id: str) -> Request | None:
    """A live request; one that waits for admission's verdict is told of as waiting like any other."""
    asked = (state.undecided or {}).get(request_id)
    if asked is None:
        return state.requests.get(request_id)
    return Request(spec=asked.spec, submitted_us=asked.submitted_us, changed_us=asked.submitted_us)


def _touched(recorded: e.Recorded, requests: Iterable[str]) -> Iterable[str]:
    """A fact of a request's stream is about that request; any other may be about all."""
    if recorded.stream.startswith(REQUEST_STREAM):
        return (recorded.stream[len(REQUEST_STREAM) :],)
    return requests


def _begin(recorded: e.Recorded, request_id: str, request: Request | None) -> Trail:
    root, caller = continue_trace(request.spec.traceparent if request else "", request_id)
    return Trail(request_id, root, caller, recorded.recorded_us, event_key(recorded))


def _recall(remains: Remains, request: Request) -> Trail:
    root, caller = continue_trace(request.spec.traceparent, remains.request_id)
    return Trail(remains.request_id, root, caller, remains.since_us, remains.since, remains.run, remains.decided)


def _close(trail: Trail, before: Request, after: Request | None, recorded: e.Recorded) -> Interval | None:
    """The run or wait that is over now, if there is one: between two segments of a chain there is neither."""
    run, event = trail.run, recorded.event
    if run is not None:
        if not _has_left(run, before, after, event):
            return None
        trail.run = None
        how = "superseded" if isinstance(event, e.StageStarted) else outcome(event)
        done = run._replace(to_step=max(run.began.from_step, before.step))
        context, since_us = trail.run_context(run.began.segment_id), run.started_us
        return Interval(RUN, context, since_us, recorded.recorded_us, how, _error(event), done)
    name = WAITS.get(before.status)
    if name is None or (after is not None and after.status is before.status):
        return None
    context, since_us = trail.wait_context(name), trail.since_us
    return Interval(name, context, since_us, recorded.recorded_us, outcome(event), _error(event))


def _has_left(run: Run, before: Request, after: Request | None, event: e.Event) -> bool:
    if after is None or after.status is not Status.RUNNING:
        return True
    segment_id = run.began.segment_id
    if isinstance(event, e.StageStarted):
        return event.segment_id != segment_id
    return segment_id in before.segments and segment_id not in after.segments


def _go_on(trail: Trail, before: Request, after: Request, recorded: e.Recorded) -> None:
    """Remember the run or wait that begins now, and where its segments come from."""
    event = recorded.event
    if after.segments != before.segments:
        known = {s: trail.decided[s] for s in after.segments if s in trail.decided}
        trail.decided = known | _decided(recorded, after.segments[len(known) :])
    if isinstance(event, e.StageStarted) and trail.run is None:
        trail.run = Run(event, recorded.recorded_us, trail.decided.get(event.segment_id))
    if after.status in WAITS and after.status is not before.status:
        trail.since_us, trail.since = recorded.recorded_us, event_key(recorded)


def _decided(recorded: e.Recorded, segments: tuple[str, ...]) -> dict[str, Decided]:
    if not segments or not isinstance(recorded.event, e.PlanDecided):
        return {}
    reasons = {action.segment_id: action.reason for action in recorded.event.actions if isinstance(action, Start)}
    return {s: Decided(event_key(recorded), recorded.position, reasons[s]) for s in segments}


def _error(event: e.Event) -> str:
    """Why what the event ends has failed, "" where it has not."""
    if isinstance(event, e.AttemptFailed | e.ActionRefused | e.RequestFailed):
        return event.code
    return "worker_lost" if isinstance(event, e.WorkerLost | e.WorkerJoined) else ""
