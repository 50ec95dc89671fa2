"""How long live work still takes, by the state's costs corrected by what was measured; not a decision."""

from __future__ import annotations

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
    elapsed = max(0, state.clock_us - segment.boundary_us)
    passed = elapsed // step_us(state, request, degree=segment.degree, batch=len(segment.request_ids))
    return min(request.step + passed, segment.to_step)


def running_segment(state: ClusterState, request: Request) -> Segment | None:
    """The segment that runs this request right now, if any."""
    for segment_id in request.segments:
        segment = state.segments.get(segment_id)
        if segment is not None and segment.is_running:
            return segment
    return None


def run_us(state: ClusterState, segment: Segment) -> int:
    """A whole segment, once it has begun."""
    request, batch = state.requests[segment.request_ids[0]], len(segment.request_ids)
    if segment.stage is not Stage.DENOISE:
        return state.costs.stage_us(segment.model, segment.stage, request.spec.shape, batch=batch)
    steps = segment.to_step - (request.step if segment.from_step is None else segment.from_step)
    return steps * step_us(state, request, degree=segment.degree, batch=batch)


def release_us(state: ClusterState, worker: Worker) -> int:
    """When all that is queued on a worker will have run; 0 where that depends on a stop or on other workers."""
    at_us, ahead = 0, set()
    for segment_id in worker.queue:
        segment = state.segments[segment_id]
        if segment.yielding or not (segment.is_running or segment.after in ahead):
            return 0
        at_us = (segment.started_us if segment.is_running else at_us) + run_us(state, segment)
        ahead.add(segment_id)
    return at_us
