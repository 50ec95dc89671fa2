"""What the loss of a worker means for the segments in its queue and for the latents that it held; a part of evolve."""

from __future__ import annotations

from msgspec.structs import replace

from genserve.domain.cluster import Request
from genserve.domain.draft import Draft, leave_all, next_attempt
from genserve.domain.request import Stage, Status


def drop_worker(draft: Draft, worker_id: str) -> None:
    """Take it out; what it ran begins a new attempt, what still runs elsewhere goes on."""
    worker = draft.workers.pop(worker_id, None)
    if worker is None:
        return
    fault = f"worker_lost: {worker_id} was lost"
    for segment_id in worker.queue:
        segment = draft.segments.get(segment_id)
        for request_id in segment.request_ids if segment else ():
            request = draft.requests[request_id]
            kept = _segments_elsewhere(draft, request, segment_id, worker_id)
            if kept:
                cut_short(draft, request, kept)
            else:
                next_attempt(draft, request, failures=int(request.status is Status.RUNNING), fault=fault)
    for request in tuple(draft.requests.values()):
        if request.home == worker_id and request.status is not Status.FINISHING and not _is_decoded(draft, request):
            next_attempt(draft, request, failures=0, fault=fault)


def _is_decoded(draft: Draft, request: Request) -> bool:
    """Whether its latents have moved on to the worker that decodes them now."""
    segments = (draft.segments.get(s) for s in request.segments)
    return any(s is not None and s.is_running and s.stage is Stage.DECODE for s in segments)


def _segments_elsewhere(draft: Draft, request: Request, segment_id: str, worker_id: str) -> tuple[str, ...]:
    """What comes before a lost encode, decode or open segment and runs on other workers: that goes on."""
    before = request.segments[: request.segments.index(segment_id)]
    lost = draft.segments[segment_id]
    if lost.stage is Stage.DENOISE and not lost.is_open:
        return ()
    return () if any(worker_id in draft.segments[s].workers for s in before) else before


def cut_short(draft: Draft, request: Request, kept: tuple[str, ...]) -> None:
    """Void the segments behind those that are kept; whoever is then idle is planned again."""
    leave_all(draft, request.segments[len(kept) :], request.request_id)
    draft.requests[request.request_id] = replace(request, segments=kept)
