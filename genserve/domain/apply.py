"""What a decision changes at once: segments are queued, stopped or given up, answers accepted; a part of evolve."""

from __future__ import annotations

from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import Segment
from genserve.domain.draft import Draft
from genserve.domain.plan import Accept, Cancel, Defer, Start, Yield
from genserve.domain.request import Stage, Status


def apply_plan(draft: Draft, event: e.PlanDecided) -> None:
    """Actions about what is already gone change nothing."""
    void: set[str] = set()
    for action in event.actions:
        if isinstance(action, Start):
            if action.after in void or _is_late(draft, action):
                void.add(action.segment_id)
            else:
                _apply_start(draft, action, event.clock_us)
        elif isinstance(action, Yield):
            segment = draft.segments.get(action.segment_id)
            if segment is not None:
                draft.segments[action.segment_id] = replace(segment, yielding=True)
        elif isinstance(action, Cancel):
            request = draft.requests.get(action.request_id)
            if request is not None:
                draft.requests[action.request_id] = replace(request, stopping=True)
        elif isinstance(action, Accept | Defer):
            _apply_answer(draft, action)
    for waiting in event.waiting:
        request = draft.requests.get(waiting.request_id)
        if request is not None:
            draft.requests[waiting.request_id] = replace(request, told=waiting.reason)


def _apply_answer(draft: Draft, action: Accept | Defer) -> None:
    """An accepted answer is the result; a deferred request waits again, as one for the heavy model."""
    request = draft.requests.get(action.request_id)
    if request is None or not request.is_answered:
        return
    request = replace(request, score_permille=-1)
    if isinstance(action, Defer):
        spec = request.spec
        spec = replace(spec, model=spec.heavy_model, steps=spec.heavy_steps or spec.steps, heavy_model="")
        request = replace(
            request,
            spec=spec,
            status=Status.WAITING,
            stage=Stage.ENCODE,
            step=0,
            degree=0,
            checkpoint=None,
            pace_permille=0,
            told="",
        )
    draft.requests[action.request_id] = request


def _is_late(draft: Draft, start: Start) -> bool:
    """Whether what an open segment was to go on from has stopped or ended since the decision was made."""
    if not start.is_open:
        return False
    requests = (draft.requests.get(request_id) for request_id in start.request_ids)
    return any(request is None or start.after not in request.segments for request in requests)


def _apply_start(draft: Draft, start: Start, clock_us: int) -> None:
    if not (draft.requests.keys() >= {*start.request_ids} and draft.workers.keys() >= {*start.workers}):
        return
    are_idle = not start.after and not any(draft.workers[w].queue for w in start.workers)
    segment = Segment(
        start.segment_id,
        start.request_ids,
        start.model,
        start.stage,
        start.workers,
        start.from_step,
        start.to_step,
        start.after,
        clock_us if are_idle else 0,
    )
    draft.segments[start.segment_id] = segment
    for request_id in start.request_ids:
        request = draft.requests[request_id]
        draft.requests[request_id] = replace(request, segments=(*request.segments, start.segment_id), told="")
    for worker_id in start.workers:
        worker = draft.workers[worker_id]
        draft.workers[worker_id] = replace(worker, queue=(*worker.queue, start.segment_id))
