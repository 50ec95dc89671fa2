"""evolve(state, recorded) -> state: the only way the cluster changes; not a place for decisions.

Total over every event: facts about requests, segments or workers that are already gone change nothing,
because late messages are normal. One handler per fact, in the order of events.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.apply import apply_plan
from genserve.domain.cluster import ClusterState, Pace, Request, Undecided, Worker
from genserve.domain.costs import CostTable
from genserve.domain.draft import Draft, leave, leave_all, next_attempt, split_at_stop, without
from genserve.domain.losses import cut_short, drop_worker
from genserve.domain.request import Checkpoint, Stage, Status

FOLD_VERSION = 6
"""Raised whenever folding an old log gives another state: snapshots of other versions are not used."""

LONGEST_DISPATCH_US = 200_000


def evolve(state: ClusterState, recorded: e.Recorded) -> ClusterState:
    """The state after one more event."""
    return fold(state, (recorded,))


def fold(state: ClusterState, batch: Iterable[e.Recorded]) -> ClusterState:
    """The state after a batch of events, in order; equal to evolving one by one, with one copy of the maps."""
    draft = Draft(state)
    recorded = None
    for recorded in batch:
        handler = _HANDLERS.get(type(recorded.event))
        if handler is not None:
            draft.now_us = recorded.recorded_us
            handler(draft, recorded.event, recorded)
    return state if recorded is None else draft.freeze(recorded)


# ── request facts ────────────────────────────────────────────────────────────────────────────────────────


def _request_submitted(draft: Draft, event: e.RequestSubmitted, recorded: e.Recorded) -> None:
    spec, now = event.request, recorded.recorded_us
    if spec.request_id in draft.requests or spec.request_id in draft.undecided:
        return
    if event.verdict_by_us:
        draft.undecided = {**draft.undecided, spec.request_id: Undecided(spec, now, event.verdict_by_us)}
    else:
        draft.requests[spec.request_id] = Request(spec=spec, submitted_us=now, changed_us=now)


def _request_admitted(draft: Draft, event: e.RequestAdmitted, recorded: e.Recorded) -> None:
    """From here on it is a live request like any other."""
    asked = draft.close_verdict(recorded)
    if asked is not None:
        live = Request(spec=asked.spec, submitted_us=asked.submitted_us, changed_us=recorded.recorded_us)
        draft.requests[live.request_id] = replace(live, cancelling=asked.cancelling)


def _cancel_requested(draft: Draft, event: e.CancelRequested, recorded: e.Recorded) -> None:
    request = draft.find(recorded)
    if request is not None:
        draft.requests[request.request_id] = replace(request, cancelling=True)
        return
    asked = draft.close_verdict(recorded)
    if asked is not None:
        draft.undecided = {**draft.undecided, asked.spec.request_id: replace(asked, cancelling=True)}


def _stage_started(draft: Draft, event: e.StageStarted, recorded: e.Recorded) -> None:
    request = draft.find(recorded)
    if request is None or event.attempt != request.attempt:
        return
    now = recorded.recorded_us
    segment = draft.segments.get(event.segment_id)
    if segment is not None and not segment.started_us:
        _learn_dispatch(draft, segment.decided_us, now)
        at = recorded.happened_us
        draft.segments[event.segment_id] = replace(segment, started_us=at, boundary_us=at, from_step=event.from_step)
    degree = len(event.workers)
    is_denoise = event.stage is Stage.DENOISE
    draft.requests[request.request_id] = replace(
        request,
        status=Status.RUNNING,
        started_us=request.started_us or now,
        changed_us=now,
        home=event.workers[0] if is_denoise else request.home,
        regroups=request.regroups + (is_denoise and request.degree not in (0, degree)),
        degree=degree if is_denoise else request.degree,
    )


def _learn_dispatch(draft: Draft, decided_us: int, now_us: int) -> None:
    """What took very long had weights to load or latents to fetch."""
    took_us = now_us - decided_us
    if decided_us and took_us <= LONGEST_DISPATCH_US:
        old = draft.dispatch_us
        draft.dispatch_us = (9 * old + took_us) // 10 if old else took_us


def _steps_finished(draft: Draft, event: e.StepsFinished, recorded: e.Recorded) -> None:
    request = draft.find(recorded)
    if request is None or event.attempt != request.attempt:
        return
    segment = draft.segments.get(event.segment_id)
    if segment is not None:
        draft.segments[event.segment_id] = replace(segment, boundary_us=recorded.happened_us)
    permille = _learn_pace(draft, request, event)
    draft.requests[request.request_id] = replace(
        request, step=max(request.step, event.to_step), changed_us=recorded.recorded_us, pace_permille=permille
    )


def _learn_pace(draft: Draft, request: Request, event: e.StepsFinished) -> int:
    """Measured over estimated, kept for the request and, as a running mean, for its class."""
    steps = event.to_step - event.from_step
    if steps <= 0:
        return request.pace_permille
    spec = request.spec
    expected = draft.costs.step_us(spec.model, spec.shape, degree=event.degree, batch=event.batch) * steps
    permille = max(1, event.took_us * 1000 // max(1, expected))
    key = f"{spec.model}/{spec.shape}"
    old = draft.pace.get(key, Pace(1000, 0))
    weight = max(10, 100 // (old.samples + 1))
    mean = (old.permille * (100 - weight) + permille * weight) // 100
    draft.pace = {**draft.pace, key: Pace(mean, old.samples + 1)}
    return permille


def _stage_finished(draft: Draft, event: e.StageFinished, recorded: e.Recorded) -> None:
    request = draft.find(recorded)
    if request is None or event.attempt != request.attempt:
        return
    segment = draft.segments.get(event.segment_id)
    home = segment.leader if segment is not None else request.home
    kept = request.segments
    if event.stage is Stage.DENOISE:
        kept, void = split_at_stop(draft, request, event.segment_id)
        leave_all(draft, void, request.request_id)
    leave(draft, event.segment_id, request.request_id)
    draft.requests[request.request_id] = replace(
        _advanced(request, event.stage, home),
        segments=without(kept, event.segment_id),
        changed_us=recorded.recorded_us,
    )


def _advanced(request: Request, finished: Stage, home: str) -> Request:
    if finished is Stage.ENCODE:
        return replace(request, stage=Stage.DENOISE, home=home)
    if finished is Stage.DENOISE:
        return replace(request, stage=Stage.DECODE, step=request.spec.steps, home=home)
    return replace(request, status=Status.FINISHING, stage=Stage.DECODE, home="")


def _request_paused(draft: Draft, event: e.RequestPaused, recorded: e.Recorded) -> None:
    request = draft.find(recorded)
    if request is None or event.attempt != request.attempt:
        return
    void, kept = split_at_stop(draft, request, event.segment_id)
    leave_all(draft, void, request.request_id)
    ran = request.status is Status.RUNNING
    has_begun = event.home != "" or request.checkpoint is not None
    is_denoised = event.step >= request.spec.steps
    draft.requests[request.request_id] = replace(
        request,
        status=Status.PAUSED if has_begun else Status.WAITING,
        stage=Stage.DECODE if is_denoised else request.stage,
        step=event.step,
        home=event.home,
        segments=kept,
        pauses=request.pauses + ran,
        changed_us=recorded.recorded_us,
    )


def _latents_checkpointed(draft: Draft, event: e.LatentsCheckpointed, recorded: e.Recorded) -> None:
    request = draft.find(recorded)
    if request is not None:
        checkpoint = Checkpoint(event.step, event.attempt, event.uri, event.size_bytes, event.sha256)
        draft.requests[request.request_id] = replace(request, checkpoint=checkpoint)


def _answer_scored(draft: Draft, event: e.AnswerScored, recorded: e.Recorded) -> None:
    request = draft.find(recorded)
    if request is not None and event.attempt == request.attempt and request.status is Status.FINISHING:
        draft.requests[request.request_id] = replace(request, score_permille=event.score_permille)


def _attempt_failed(draft: Draft, event: e.AttemptFailed, recorded: e.Recorded) -> None:
    request = draft.find(recorded)
    if request is not None and event.attempt == request.attempt:
        if event.spoils_checkpoint:
            request = replace(request, checkpoint=None)
        fault = f"{event.code}: {event.message}"
        next_attempt(draft, request, failures=1, fault=fault, fatal="" if event.retryable else event.code)


def _request_ended(draft: Draft, event: e.AnyEvent, recorded: e.Recorded) -> None:
    request = draft.find(recorded)
    if request is None:
        draft.close_verdict(recorded)
    else:
        leave_all(draft, request.segments, request.request_id)
        del draft.requests[request.request_id]


# ── worker facts ─────────────────────────────────────────────────────────────────────────────────────────


def _worker_joined(draft: Draft, event: e.WorkerJoined, recorded: e.Recorded) -> None:
    old = draft.workers.get(event.worker_id)
    if old is not None and event.incarnation <= old.incarnation:
        return
    drop_worker(draft, event.worker_id)
    draft.workers[event.worker_id] = Worker(
        event.worker_id,
        event.incarnation,
        event.node,
        event.device,
        event.memory_bytes,
        event.resident,
        displaced=event.displaced or UNSET,
    )


def _worker_lost(draft: Draft, event: e.WorkerLost, recorded: e.Recorded) -> None:
    worker = draft.workers.get(event.worker_id)
    if worker is not None and worker.incarnation <= event.incarnation:
        drop_worker(draft, event.worker_id)


def _stage_loaded(draft: Draft, event: e.StageLoaded, recorded: e.Recorded) -> None:
    worker = draft.workers.get(event.worker_id)
    if worker is not None and (event.model, event.stage) not in worker.resident:
        key = (event.model, event.stage)
        displaced = tuple(other for other in worker.displaced or () if other != key)
        resident = tuple(sorted((*worker.resident, key)))
        draft.workers[event.worker_id] = replace(worker, resident=resident, displaced=displaced or UNSET)


def _stage_unloaded(draft: Draft, event: e.StageUnloaded, recorded: e.Recorded) -> None:
    worker = draft.workers.get(event.worker_id)
    if worker is not None:
        key = (event.model, event.stage)
        resident = tuple(other for other in worker.resident if other != key)
        displaced = {*(worker.displaced or ())} - {key} | ({key} if event.displaced else set())
        draft.workers[event.worker_id] = replace(worker, resident=resident, displaced=tuple(sorted(displaced)) or UNSET)


# ── scheduler facts ──────────────────────────────────────────────────────────────────────────────────────


def _leader_elected(draft: Draft, event: e.LeaderElected, recorded: e.Recorded) -> None:
    draft.epoch = event.epoch


def _planner_changed(draft: Draft, event: e.PlannerChanged, recorded: e.Recorded) -> None:
    draft.planner_digest = event.digest


def _costs_updated(draft: Draft, event: e.CostsUpdated, recorded: e.Recorded) -> None:
    draft.costs = CostTable(event.costs)


def _plan_decided(draft: Draft, event: e.PlanDecided, recorded: e.Recorded) -> None:
    apply_plan(draft, event)


def _action_refused(draft: Draft, event: e.ActionRefused, recorded: e.Recorded) -> None:
    """What comes before the refused segment goes on; a request with nothing before it starts over from disk."""
    segment = draft.segments.get(event.segment_id)
    for request_id in segment.request_ids if segment else ():
        request = draft.requests[request_id]
        kept = request.segments[: request.segments.index(event.segment_id)]
        if not kept:
            next_attempt(draft, request, failures=1, fault=f"{event.code}: {event.message}")
            continue
        cut_short(draft, replace(request, failures=request.failures + 1), kept)


_HANDLERS: dict[type[e.Event], Callable[[Draft, Any, e.Recorded], None]] = {
    e.RequestSubmitted: _request_submitted,
    e.RequestAdmitted: _request_admitted,
    e.CancelRequested: _cancel_requested,
    e.StageStarted: _stage_started,
    e.StepsFinished: _steps_finished,
    e.StageFinished: _stage_finished,
    e.RequestPaused: _request_paused,
    e.LatentsCheckpointed: _latents_checkpointed,
    e.AnswerScored: _answer_scored,
    e.AttemptFailed: _attempt_failed,
    e.RequestCompleted: _request_ended,
    e.RequestCancelled: _request_ended,
    e.RequestFailed: _request_ended,
    e.WorkerJoined: _worker_joined,
    e.WorkerLost: _worker_lost,
    e.StageLoaded: _stage_loaded,
    e.StageUnloaded: _stage_unloaded,
    e.LeaderElected: _leader_elected,
    e.PlannerChanged: _planner_changed,
    e.CostsUpdated: _costs_updated,
    e.PlanDecided: _plan_decided,
    e.ActionRefused: _action_refused,
}
