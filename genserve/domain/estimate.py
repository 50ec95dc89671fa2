"""How long live work still takes, by the state's costs corrected by what was measured; not a decision."""

from __future__ import annotations

from collections.abc import Sequence

from genserve.domain.cluster import ClusterState, Request, Segment, Worker
from genserve.domain.request import Stage, Status


def pace_permille(state: ClusterState, request: Request) -> int:
    """Measured over estimated step time: the request's own once it has run, else its class's."""
    if request.pace_permille:
        return request.pace_permille
    spec = request.spec
    pace = state.pace.get(f"{spec.model}/{spec.shape}")
    return pace.permille if pace else 1000


def step_us(state: ClusterState, request: Request, *, degree: int = 1, batch: int = 1) -> int:
    """One denoising step of this request, as expected now."""
    spec = request.spec
    table = state.costs.step_us(spec.model, spec.shape, degree=degree, batch=batch)
    return max(1, table * pace_permille(state, request) // 1000)


def remaining_us(state: ClusterState, request: Request, *, degree: int = 1) -> int:
    """Run time until its pixels exist if it had ``degree`` GPUs from now on: encode, steps left and decode."""
    if request.status is Status.FINISHING:
        return 0
    spec = request.spec
    left = state.costs.stage_us(spec.model, Stage.DECODE, spec.shape)
    if request.stage is not Stage.DECODE:
        steps_left = spec.steps - steps_done(state, request)
        left += steps_left * step_us(state, request, degree=degree)
    if request.stage is Stage.ENCODE:
        left += state.costs.stage_us(spec.model, Stage.ENCODE, spec.shape)
    return left


def total_us(state: ClusterState, request: Request, *, degree: int = 1) -> int:
    """Run time of the whole request alone on ``degree`` GPUs."""
    spec = request.spec
    stages = sum(state.costs.stage_us(spec.model, s, spec.shape) for s in (Stage.ENCODE, Stage.DECODE))
    return stages + spec.steps * step_us(state, request, degree=degree)


def steps_done(state: ClusterState, request: Request) -> int:
    """Steps finished by the state's clock: what the log knows plus what must have passed since."""
    segment = running_segment(state, request)
    if segment is None or segment.stage is not Stage.DENOISE:
        return request.step
    return min(request.step + _steps_passed(state, segment, request), segment.to_step)


def running_segment(state: ClusterState, request: Request) -> Segment | None:
    """The segment that runs this request right now, if any."""
    for segment_id in request.segments:
        segment = state.segments.get(segment_id)
        if segment is not None and segment.is_running:
            return segment
    return None


def left_us(state: ClusterState, segment: Segment) -> int:
    """A segment from its last known boundary on; the whole of one that is queued."""
    request, batch = state.requests[segment.request_ids[0]], len(segment.request_ids)
    if segment.stage is not Stage.DENOISE:
        return state.costs.stage_us(segment.model, segment.stage, request.spec.shape, batch=batch)
    steps = segment.to_step - max(request.step, segment.from_step or 0)
    return max(0, steps) * step_us(state, request, degree=segment.degree, batch=batch)


def boundary_us(state: ClusterState, segment: Segment) -> int:
    """When a running denoising segment next passes a boundary, by the state's clock."""
    request, batch = state.requests[segment.request_ids[0]], len(segment.request_ids)
    period = step_us(state, request, degree=segment.degree, batch=batch)
    return segment.boundary_us + (_steps_passed(state, segment, request) + 1) * period


def release_us(state: ClusterState, worker: Worker) -> int:
    """When all that is queued on a worker will have run, or stopped; 0 where that depends on other workers."""
    queue = [state.segments[s] for s in worker.queue]
    if queue and is_stopping(state, queue[0]) and is_of_head(queue):
        return boundary_us(state, queue[0])
    at_us, ahead = 0, set()
    for segment in queue:
        if segment.yielding or not (segment.is_running or segment.after in ahead):
            return 0
        at_us = (segment.boundary_us if segment.is_running else at_us) + left_us(state, segment)
        ahead.add(segment.segment_id)
    return at_us


def is_stopping(state: ClusterState, segment: Segment) -> bool:
    """Whether a request that runs alone will stop at the next boundary, for all we know, rather than end there."""
    if not (segment.yielding and segment.is_running and segment.stage is Stage.DENOISE):
        return False
    if len(segment.request_ids) > 1:
        return False
    request = state.requests[segment.request_ids[0]]
    return request.step + _steps_passed(state, segment, request) + 1 < segment.to_step


def _steps_passed(state: ClusterState, segment: Segment, request: Request) -> int:
    """Steps that must have passed since the last boundary known to the log."""
    period = step_us(state, request, degree=segment.degree, batch=len(segment.request_ids))
    return max(0, state.clock_us - segment.boundary_us) // period


def is_of_head(queue: Sequence[Segment]) -> bool:
    """Whether all that is queued belongs to those who are at its head, and nothing goes on from a stop of theirs."""
    members = set(queue[0].request_ids)
    return all(members.issuperset(segment.request_ids) and not segment.is_open for segment in queue[1:])
