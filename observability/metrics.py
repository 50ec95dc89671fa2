"""Every Prometheus metric by name, unit and label, in a registry of its own; not when they change.

Seconds are floats of wall time. A request that is being stored still counts as running.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What ``render`` returns, for the HTTP header."""

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800)
"""Seconds, up to the 30 minutes that a long video takes."""

STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
FAST_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
COUNT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BYTES_BUCKETS = tuple(float(4**n) for n in range(6, 17))
"""4 KiB to 4 GiB."""

_REQUEST = ("model", "media", "slo_class")
_RUN = ("model", "media", "stage", "sp_degree")


class Metrics:
    """One process's metrics. Safe to update and render from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._define_requests()
        self._define_runs()
        self._define_decisions()
        self._define_storage()

    def render(self) -> bytes:
        """Prometheus text exposition of everything."""
        return generate_latest(self.registry)

    def observe_append(self, *, seconds: float, events: int) -> None:
        """One commit of the journal: how long it took and how many events went into it."""
        self.journal_append_seconds.observe(seconds)
        self.journal_append_events.observe(events)

    def _define_requests(self) -> None:
        self.running = self._gauge("requests_running", "Requests in a segment or being stored", _REQUEST)
        self.waiting = self._gauge("requests_waiting", "Requests that have not begun, or must begin again", _REQUEST)
        self.paused = self._gauge("requests_paused", "Requests that have begun and wait for GPUs", _REQUEST)
        self.submitted = self._counter("requests_submitted", "Requests recorded", _REQUEST)
        self.completed = self._counter("requests_completed", "Requests whose result is stored", _REQUEST)
        self.failed = self._counter("requests_failed", "Requests given up", (*_REQUEST, "code"))
        self.cancelled = self._counter("requests_cancelled", "Requests cancelled", _REQUEST)
        self.slo_met = self._counter("slo_met", "Requests completed by their deadline", _REQUEST)
        self.slo_missed = self._counter("slo_missed", "Requests completed late, failed or refused", _REQUEST)
        self.preemptions = self._counter("preemptions", "Times a running request was paused", _REQUEST)
        self.queue_seconds = self._histogram(
            "request_queue_seconds", "Submitted to first segment", _REQUEST, LATENCY_BUCKETS
        )
        self.e2e_seconds = self._histogram("request_e2e_seconds", "Submitted to stored", _REQUEST, LATENCY_BUCKETS)

    def _define_runs(self) -> None:
        self.step_seconds = self._histogram(
            "step_seconds", "One denoising step, observed once per request and step", _RUN, STEP_BUCKETS
        )
        self.stage_seconds = self._histogram(
            "stage_seconds", "One whole stage as its last segment measured it", _RUN, LATENCY_BUCKETS
        )
        self.regroups = self._counter("regroups", "Denoising resumed at another degree", _RUN)
        self.attempt_failures = self._counter("attempt_failures", "Attempts that failed", ("model", "media", "code"))
        self.busy_seconds = self._counter("worker_busy_seconds", "Measured compute time", ("worker", "stage"))
        self.workers = self._gauge("workers", "Workers that are up", ())
        self.load_seconds = self._histogram(
            "stage_load_seconds", "Bringing a stage's weights onto a worker", ("model", "stage"), LATENCY_BUCKETS
        )

    def _define_decisions(self) -> None:
        self.plan_seconds = self._histogram("plan_seconds", "Time to decide", ("planner",), FAST_BUCKETS)
        self.plan_actions = self._counter("plan_actions", "Actions decided", ("planner", "action"))
        self.batch_size = self._histogram(
            "batch_size", "Requests per segment, as decided", ("model", "stage", "sp_degree"), COUNT_BUCKETS
        )
        self.refusals = self._counter("action_refusals", "Commands that a worker would not obey", ("code",))

    def _define_storage(self) -> None:
        self.journal_append_seconds = self._histogram("journal_append_seconds", "One commit", (), FAST_BUCKETS)
        self.journal_append_events = self._histogram("journal_append_events", "Events per commit", (), COUNT_BUCKETS)
        self.journal_lag_seconds = self._gauge("journal_lag_seconds", "Age of the newest event when seen here", ())
        self.journal_position = self._gauge("journal_position", "Newest position seen here", ())
        self.checkpoint_seconds = self._histogram(
            "checkpoint_seconds", "Writing latents to disk", ("model", "media"), STEP_BUCKETS
        )
        self.checkpoint_bytes = self._histogram(
            "checkpoint_bytes", "Size of latents on disk", ("model", "media"), BYTES_BUCKETS
        )
        self.telemetry_errors = self._counter("telemetry_errors", "Errors inside telemetry itself", ("sink",))

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"genserve_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        """``_total`` is added to the name when rendered."""
        return Counter(f"genserve_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"genserve_{name}", text, labels, registry=self.registry, buckets=buckets)
