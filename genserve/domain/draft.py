"""A cluster state under construction, and the moves that several facts share: leave a segment, start over."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET
from msgspec.structs import replace

from genserve.domain.cluster import ClusterState, Request, Segment, Undecided
from genserve.domain.events import Recorded
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.request import Checkpoint, Stage, Status

MAX_FAULT = 300
"""Characters of a fault that the state keeps; its event has all of it."""


class Draft:
    """A state under construction: maps copied once, values still frozen."""

    __slots__ = (
        "costs", "dispatch_us", "epoch", "now_us", "pace", "planner_digest", "requests", "segments", "undecided",
        "workers",
    )  # fmt: skip

    def __init__(self, state: ClusterState) -> None:
        self.requests = dict(state.requests)
        self.segments = dict(state.segments)
        self.workers = dict(state.workers)
        self.pace = state.pace
        self.costs = state.costs
        self.epoch = state.epoch
        self.planner_digest = state.planner_digest
        self.now_us = state.recorded_us
        self.undecided = state.undecided or {}
        self.dispatch_us = state.dispatch_us or 0

    def freeze(self, last: Recorded) -> ClusterState:
        return ClusterState(
            last.position,
            last.recorded_us,
            last.recorded_us,
            self.epoch,
            self.planner_digest,
            self.requests,
            self.segments,
            self.workers,
            self.pace,
            self.costs,
            self.undecided or UNSET,
            self.dispatch_us or UNSET,
        )

    def find(self, recorded: Recorded) -> Request | None:
        """The live request whose stream this is."""
        return self.requests.get(recorded.stream[len(REQUEST_STREAM) :])

    def close_verdict(self, recorded: Recorded) -> Undecided | None:
        """Take the request whose stream this is out of those that wait for a verdict."""
        asked = self.undecided.get(recorded.stream[len(REQUEST_STREAM) :])
        if asked is not None:
            self.undecided = {r: u for r, u in self.undecided.items() if u is not asked}
        return asked


def leave(draft: Draft, segment_id: str, request_id: str) -> None:
    """Take a request out of a segment; the last one out frees the group."""
    segment = draft.segments.get(segment_id)
    if segment is None:
        return
    rest = tuple(r for r in segment.request_ids if r != request_id)
    if rest:
        draft.segments[segment_id] = replace(segment, request_ids=rest)
    else:
        _remove_segment(draft, segment)


def _remove_segment(draft: Draft, segment: Segment) -> None:
    del draft.segments[segment.segment_id]
    for worker_id in segment.workers:
        worker = draft.workers.get(worker_id)
        if worker is not None:
            queue = tuple(s for s in worker.queue if s != segment.segment_id)
            draft.workers[worker_id] = replace(worker, queue=queue)


def leave_all(draft: Draft, segment_ids: Iterable[str], request_id: str) -> None:
    for segment_id in segment_ids:
        leave(draft, segment_id, request_id)


def split_at_stop(draft: Draft, request: Request, segment_id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A request's segments that run if that one does not stop, and those that go on from its stop."""
    segments = request.segments
    if segment_id in segments:
        for index in range(segments.index(segment_id) + 1, len(segments)):
            if draft.segments[segments[index]].is_open:
                return segments[:index], segments[index:]
    return segments, ()


def without(segments: tuple[str, ...], segment_id: str) -> tuple[str, ...]:
    return tuple(s for s in segments if s != segment_id)


def rolled_back(request: Request, now_us: int) -> Request:
    """Back to what disk holds: the checkpoint, else the beginning; memory is gone."""
    checkpoint = request.checkpoint
    return replace(
        request,
        status=Status.WAITING if checkpoint is None else Status.PAUSED,
        stage=_stage_at(request, checkpoint),
        step=0 if checkpoint is None else checkpoint.step,
        segments=(),
        home="",
        changed_us=now_us,
    )


def _stage_at(request: Request, checkpoint: Checkpoint | None) -> Stage:
    if checkpoint is None:
        return Stage.ENCODE
    return Stage.DECODE if checkpoint.step >= request.spec.steps else Stage.DENOISE


def next_attempt(draft: Draft, request: Request, *, failures: int, fault: str, fatal: str = "") -> None:
    """``fault`` is why the attempt is over, ``fatal`` the code of what no further one can mend."""
    leave_all(draft, request.segments, request.request_id)
    back = rolled_back(request, draft.now_us)
    draft.requests[request.request_id] = replace(
        back, attempt=request.attempt + 1, failures=request.failures + failures, fault=fault[:MAX_FAULT], fatal=fatal
    )
