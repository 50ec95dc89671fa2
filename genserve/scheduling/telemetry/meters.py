"""Committed facts as metric updates; not the metrics' definitions (see observability.metrics).

Gauges follow every event, those folded at start-up too; counters and histograms count what happened since start-up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import Gauge

from genserve.domain import events as e
from genserve.domain.cluster import Request
from genserve.domain.plan import Start
from genserve.domain.request import Stage, Status
from genserve.scheduling.telemetry.trail import Change, queued_us
from genserve.scheduling.telemetry.trails import Trails
from observability.metrics import Metrics

MAX_SLO_CLASSES = 16
"""Classes told apart; clients name them, and a label must not grow without bound: the rest counts as "other"."""

SECOND = 1_000_000


class Meters:
    """Turns one event and the changes it made into metric updates."""

    def __init__(self, metrics: Metrics, trails: Trails, clock_us: Callable[[], int]) -> None:
        self._metrics = metrics
        self._trails = trails
        self._clock_us = clock_us
        self._classes: set[str] = set()
        self._commit_us = 0

    def follow(self, changes: list[Change]) -> None:
        """Gauges only."""
        for change in changes:
            before, after = self._gauge(change.before), self._gauge(change.after)
            if before is not after:
                labels = self._labels(change.request)
                if before is not None:
                    before.labels(*labels).dec()
                if after is not None:
                    after.labels(*labels).inc()

    def tell(self, recorded: e.Recorded, changes: list[Change]) -> None:
        self.follow(changes)
        handler = _HANDLERS.get(type(recorded.event))
        if handler is not None:
            handler(self, recorded, recorded.event, changes)

    def settle(self, last: e.Recorded, *, events: int = 0, commit_us: int = 0) -> None:
        """Once per batch: how far the log has come, how late we hear of it, and the workers that are up.

        ``commit_us`` is the journal's running total, so a batch that it did not time is not counted as one of 0 s.
        """
        if commit_us > self._commit_us:
            self._metrics.observe_append(seconds=(commit_us - self._commit_us) / SECOND, events=events)
            self._commit_us = commit_us
        lag_us = max(0, self._clock_us() - last.recorded_us)
        self._metrics.journal_lag_seconds.set(lag_us / SECOND)
        self._metrics.journal_position.set(last.position)
        self._metrics.workers.set(len(self._trails.state.workers))

    def _gauge(self, request: Request | None) -> Gauge | None:
        if request is None:
            return None
        if request.status is Status.WAITING:
            return self._metrics.waiting
        return self._metrics.paused if request.status is Status.PAUSED else self._metrics.running

    def _labels(self, request: Request) -> tuple[str, str, str]:
        spec = request.spec
        if spec.slo_class not in self._classes and len(self._classes) < MAX_SLO_CLASSES:
            self._classes.add(spec.slo_class)
        return spec.model, spec.media.value, spec.slo_class if spec.slo_class in self._classes else "other"

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────

    def _submitted(self, recorded: e.Recorded, event: e.RequestSubmitted, changes: list[Change]) -> None:
        for change in changes:
            self._metrics.submitted.labels(*self._labels(change.request)).inc()

    def _completed(self, recorded: e.Recorded, event: e.RequestCompleted, changes: list[Change]) -> None:
        for change in changes:
            request, labels = change.request, self._labels(change.request)
            self._metrics.completed.labels(*labels).inc()
            self._metrics.e2e_seconds.labels(*labels).observe((recorded.recorded_us - request.submitted_us) / SECOND)
            is_met = recorded.recorded_us <= request.spec.deadline_us
            (self._metrics.slo_met if is_met else self._metrics.slo_missed).labels(*labels).inc()

    def _failed(self, recorded: e.Recorded, event: e.RequestFailed, changes: list[Change]) -> None:
        for change in changes:
            labels = self._labels(change.request)
            self._metrics.failed.labels(*labels, event.code).inc()
            self._metrics.slo_missed.labels(*labels).inc()

    def _cancelled(self, recorded: e.Recorded, event: e.RequestCancelled, changes: list[Change]) -> None:
        for change in changes:
            self._metrics.cancelled.labels(*self._labels(change.request)).inc()

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────

    def _started(self, recorded: e.Recorded, event: e.StageStarted, changes: list[Change]) -> None:
        for change in changes:
            if change.has_started:
                queue = self._metrics.queue_seconds.labels(*self._labels(change.request))
                queue.observe(queued_us(change.request) / SECOND)
            if change.has_regrouped:
                self._metrics.regroups.labels(*_run_labels(change.request, event.stage, len(event.workers))).inc()

    def _stepped(self, recorded: e.Recorded, event: e.StepsFinished, changes: list[Change]) -> None:
        steps = event.to_step - event.from_step
        for change in changes:
            histogram = self._metrics.step_seconds.labels(*_run_labels(change.request, Stage.DENOISE, event.degree))
            for _ in range(steps):
                histogram.observe(event.took_us / steps / SECOND)
            run = change.trail.run
            if run is not None and run.began.segment_id == event.segment_id:
                self._busy(run.began.workers, Stage.DENOISE, event.took_us / max(1, event.batch))

    def _finished(self, recorded: e.Recorded, event: e.StageFinished, changes: list[Change]) -> None:
        """Denoising is already counted as busy by its steps."""
        for change in changes:
            run = change.closed.run if change.closed is not None else None
            degree = len(run.began.workers) if run is not None else 1
            labels = _run_labels(change.request, event.stage, degree)
            self._metrics.stage_seconds.labels(*labels).observe(event.took_us / SECOND)
            if run is not None and event.stage is not Stage.DENOISE:
                self._busy(run.began.workers, event.stage, event.took_us / max(1, run.began.batch))

    def _busy(self, workers: tuple[str, ...], stage: Stage, us: float) -> None:
        """A batch's time is shared between its members, so that a worker is never busy twice at once."""
        for worker_id in workers:
            self._metrics.busy_seconds.labels(worker_id, stage.value).inc(us / SECOND)

    def _paused(self, recorded: e.Recorded, event: e.RequestPaused, changes: list[Change]) -> None:
        for change in changes:
            if change.has_paused:
                self._metrics.preemptions.labels(*self._labels(change.request)).inc()

    def _checkpointed(self, recorded: e.Recorded, event: e.LatentsCheckpointed, changes: list[Change]) -> None:
        for change in changes:
            labels = (change.request.spec.model, change.request.spec.media.value)
            self._metrics.checkpoint_bytes.labels(*labels).observe(event.size_bytes)
            if event.took_us:
                self._metrics.checkpoint_seconds.labels(*labels).observe(event.took_us / SECOND)

    def _attempt_failed(self, recorded: e.Recorded, event: e.AttemptFailed, changes: list[Change]) -> None:
        for change in changes:
            spec = change.request.spec
            self._metrics.attempt_failures.labels(spec.model, spec.media.value, event.code).inc()

    # ── workers and decisions ────────────────────────────────────────────────────────────────────────────

    def _loaded(self, recorded: e.Recorded, event: e.StageLoaded, changes: list[Change]) -> None:
        self._metrics.load_seconds.labels(event.model, event.stage.value).observe(event.took_us / SECOND)

    def _refused(self, recorded: e.Recorded, event: e.ActionRefused, changes: list[Change]) -> None:
        self._metrics.refusals.labels(event.code).inc()

    def _decided(self, recorded: e.Recorded, event: e.PlanDecided, changes: list[Change]) -> None:
        self._metrics.plan_seconds.labels(event.planner).observe(event.took_us / SECOND)
        for action in event.actions:
            self._metrics.plan_actions.labels(event.planner, type(action).__name__.lower()).inc()
            if isinstance(action, Start):
                labels = (action.model, action.stage.value, len(action.workers))
                self._metrics.batch_size.labels(*labels).observe(len(action.request_ids))


def _run_labels(request: Request, stage: Stage, degree: int) -> tuple[str, str, str, int]:
    return request.spec.model, request.spec.media.value, stage.value, degree


_HANDLERS: dict[type[e.Event], Callable[[Meters, e.Recorded, Any, list[Change]], None]] = {
    e.RequestSubmitted: Meters._submitted,
    e.RequestCompleted: Meters._completed,
    e.RequestFailed: Meters._failed,
    e.RequestCancelled: Meters._cancelled,
    e.StageStarted: Meters._started,
    e.StepsFinished: Meters._stepped,
    e.StageFinished: Meters._finished,
    e.RequestPaused: Meters._paused,
    e.LatentsCheckpointed: Meters._checkpointed,
    e.AttemptFailed: Meters._attempt_failed,
    e.StageLoaded: Meters._loaded,
    e.ActionRefused: Meters._refused,
    e.PlanDecided: Meters._decided,
}
