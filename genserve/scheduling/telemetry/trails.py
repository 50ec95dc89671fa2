"""Every live request's trail, by folding events in log order; not what is said about them (spans, meters, lines).

The same facts are accepted and ignored as in ``genserve.domain.evolve`` (stale attempts, lost workers), which a test
holds against it. A trail is dropped with its request's end, so memory is bounded by the live requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genserve.domain import events as e
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.plan import Start
from genserve.domain.request import Stage, Status
from genserve.scheduling.telemetry.trail import (
    Change,
    Decided,
    Run,
    Trail,
    close,
    depends_on,
    event_key,
    refuse,
    roll_back,
    wait,
)
from observability.tracing import continue_trace

_FINAL: dict[type[e.Event], Status] = {
    e.RequestCompleted: Status.COMPLETED,
    e.RequestCancelled: Status.CANCELLED,
    e.RequestFailed: Status.FAILED,
}


class Trails:
    """Every live request's trail and the workers that are up, by folding events in log order."""

    def __init__(self) -> None:
        self.live: dict[str, Trail] = {}
        self.workers: dict[str, int] = {}

    def watch(self, recorded: e.Recorded) -> list[Change]:
        """Take one more event in; the changes it made, none for what came too late or changes nothing."""
        handler = _HANDLERS.get(type(recorded.event))
        return handler(self, recorded, recorded.event) if handler else []

    def find(self, recorded: e.Recorded) -> Trail | None:
        """The live request whose stream this is."""
        return self.live.get(recorded.stream[len(REQUEST_STREAM) :])

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────

    def _submitted(self, recorded: e.Recorded, event: e.RequestSubmitted) -> list[Change]:
        spec = event.request
        if spec.request_id in self.live:
            return []
        root, caller = continue_trace(spec.traceparent, spec.request_id)
        now = recorded.recorded_us
        trail = self.live[spec.request_id] = Trail(spec, root, caller, now, now, event_key(recorded))
        return [Change(trail, None, Status.WAITING)]

    def _started(self, recorded: e.Recorded, event: e.StageStarted) -> list[Change]:
        trail = self.find(recorded)
        if trail is None or event.attempt != trail.attempt or (trail.run and trail.run.segment_id == event.segment_id):
            return []
        before, now = trail.status, recorded.recorded_us
        closed = close(trail, now, "superseded" if trail.run else "started")
        degree = len(event.workers)
        is_denoise = event.stage is Stage.DENOISE
        regrouped = is_denoise and trail.degree not in (0, degree)
        decided = trail.segments.get(event.segment_id)
        start, step = event.from_step, event.from_step
        trail.run = Run(
            event.segment_id, event.stage, event.workers, event.batch, event.attempt, now, start, step, decided
        )
        trail.queued_us = trail.queued_us if trail.runs else now - trail.submitted_us
        trail.runs += 1
        trail.status = Status.RUNNING
        trail.degree = degree if is_denoise else trail.degree
        trail.home = event.workers[0] if is_denoise else trail.home
        trail.regroups += regrouped
        return [Change(trail, before, trail.status, closed, regrouped)]

    def _stepped(self, recorded: e.Recorded, event: e.StepsFinished) -> list[Change]:
        trail = self.find(recorded)
        if trail is None or event.attempt != trail.attempt:
            return []
        if trail.run is not None and trail.run.segment_id == event.segment_id:
            trail.run.to_step = max(trail.run.to_step, event.to_step)
        return [Change(trail, trail.status, trail.status)]

    def _finished(self, recorded: e.Recorded, event: e.StageFinished) -> list[Change]:
        trail = self.find(recorded)
        if trail is None or event.attempt != trail.attempt:
            return []
        before = trail.status
        decided = trail.segments.pop(event.segment_id, None)
        closed = None
        if trail.run is not None and trail.run.segment_id == event.segment_id:
            closed = close(trail, recorded.recorded_us, "finished")
        if event.stage is Stage.DECODE:
            trail.status, trail.home = Status.FINISHING, ""
        elif decided is not None:
            trail.home = decided.workers[0]
        return [Change(trail, before, trail.status, closed)]

    def _paused(self, recorded: e.Recorded, event: e.RequestPaused) -> list[Change]:
        trail = self.find(recorded)
        if trail is None or event.attempt != trail.attempt:
            return []
        before = trail.status
        has_begun = event.home != "" or trail.has_checkpoint
        trail.home = event.home
        trail.pauses += before is Status.RUNNING
        closed = wait(trail, recorded, Status.PAUSED if has_begun else Status.WAITING, "paused")
        return [Change(trail, before, trail.status, closed)]

    def _checkpointed(self, recorded: e.Recorded, event: e.LatentsCheckpointed) -> list[Change]:
        trail = self.find(recorded)
        if trail is None:
            return []
        trail.has_checkpoint = True
        return [Change(trail, trail.status, trail.status)]

    def _attempt_failed(self, recorded: e.Recorded, event: e.AttemptFailed) -> list[Change]:
        trail = self.find(recorded)
        if trail is None or event.attempt != trail.attempt:
            return []
        return [roll_back(trail, recorded, "failed", event.code)]

    def _ended(self, recorded: e.Recorded, event: e.AnyEvent) -> list[Change]:
        trail = self.live.pop(recorded.stream[len(REQUEST_STREAM) :], None)
        if trail is None:
            return []
        before, after = trail.status, _FINAL[type(event)]
        code = event.code if isinstance(event, e.RequestFailed) else ""
        closed = close(trail, recorded.recorded_us, after.value, code)
        trail.status = after
        return [Change(trail, before, trail.status, closed)]

    # ── workers and decisions ────────────────────────────────────────────────────────────────────────────

    def _joined(self, recorded: e.Recorded, event: e.WorkerJoined) -> list[Change]:
        known = self.workers.get(event.worker_id)
        if known is not None and event.incarnation <= known:
            return []
        self.workers[event.worker_id] = event.incarnation
        return self._drop_worker(recorded, event.worker_id) if known is not None else []

    def _lost(self, recorded: e.Recorded, event: e.WorkerLost) -> list[Change]:
        known = self.workers.get(event.worker_id)
        if known is None or event.incarnation < known:
            return []
        del self.workers[event.worker_id]
        return self._drop_worker(recorded, event.worker_id)

    def _drop_worker(self, recorded: e.Recorded, worker_id: str) -> list[Change]:
        hit = [t for t in self.live.values() if depends_on(t, worker_id)]
        return [roll_back(t, recorded, "lost", "worker_lost") for t in hit]

    def _refused(self, recorded: e.Recorded, event: e.ActionRefused) -> list[Change]:
        hit = [t for t in self.live.values() if event.segment_id in t.segments]
        return [change for t in hit if (change := refuse(t, recorded, event))]

    def _decided(self, recorded: e.Recorded, event: e.PlanDecided) -> list[Change]:
        key = event_key(recorded)
        for action in event.actions:
            if not isinstance(action, Start):
                continue
            known = all(r in self.live for r in action.request_ids) and all(w in self.workers for w in action.workers)
            for request_id in action.request_ids if known else ():
                decided = Decided(key, recorded.position, action.workers, action.reason)
                self.live[request_id].segments[action.segment_id] = decided
        return []


_HANDLERS: dict[type[e.Event], Callable[[Trails, e.Recorded, Any], list[Change]]] = {
    e.RequestSubmitted: Trails._submitted,
    e.StageStarted: Trails._started,
    e.StepsFinished: Trails._stepped,
    e.StageFinished: Trails._finished,
    e.RequestPaused: Trails._paused,
    e.LatentsCheckpointed: Trails._checkpointed,
    e.AttemptFailed: Trails._attempt_failed,
    e.RequestCompleted: Trails._ended,
    e.RequestCancelled: Trails._ended,
    e.RequestFailed: Trails._ended,
    e.WorkerJoined: Trails._joined,
    e.WorkerLost: Trails._lost,
    e.ActionRefused: Trails._refused,
    e.PlanDecided: Trails._decided,
}
