"""The one translator from committed events to telemetry; not for replay or simulation, which are silent.

Attached by the live driver only, behind the commit. Telemetry never stops the system: an error in it is logged once
for each sink and counted, and the event is otherwise passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from genserve.domain.cluster import ClusterState
from genserve.domain.events import Recorded
from genserve.scheduling.telemetry.lines import Lines, Logger
from genserve.scheduling.telemetry.meters import Meters
from genserve.scheduling.telemetry.spans import Spans
from genserve.scheduling.telemetry.trail import Change, Remains
from genserve.scheduling.telemetry.trails import Trails
from observability.metrics import Metrics
from observability.tracing import Tracing

Tell = Callable[[Recorded, list[Change]], None]


def _now_us() -> int:
    return time.time_ns() // 1000


class Translator:
    """Folds committed events, in log order, into log lines, spans and metrics; what is not given is left out.

    Raises nothing. Remembers only live requests, so it may be rebuilt at any time by ``warm``.
    """

    def __init__(
        self,
        *,
        log: Logger | None = None,
        tracing: Tracing | None = None,
        metrics: Metrics | None = None,
        clock_us: Callable[[], int] = _now_us,
    ) -> None:
        self._trails = Trails()
        self._log = log
        self._tracing = tracing
        self._metrics = metrics
        self._meters = None if metrics is None else Meters(metrics, self._trails, clock_us)
        self._broken: set[str] = set()
        self._sinks: list[tuple[str, Tell]] = []
        if self._meters is not None:
            self._sinks.append(("metrics", self._meters.tell))
        if tracing is not None and tracing.is_enabled:
            self._sinks.append(("spans", Spans(tracing, self._trails).tell))
        if log is not None:
            self._sinks.append(("lines", Lines(log).tell))

    @property
    def live(self) -> int:
        """How many requests it remembers."""
        return len(self._trails.live)

    @property
    def position(self) -> int:
        """The last event that it has been told of."""
        return self._trails.state.position

    def freeze(self) -> tuple[Remains, ...]:
        """What ``thaw`` needs to go on from here in another process, beside the state."""
        return self._trails.freeze()

    def thaw(self, state: ClusterState, remains: Iterable[Remains]) -> None:
        """Go on from a snapshot as if everything before had been warmed with."""
        changes = self._trails.thaw(state, remains)
        if self._meters is not None:
            self._meters.follow(changes)

    def warm(self, history: Iterable[Recorded]) -> None:
        """Take in what happened before this process: gauges and memory, but no lines, spans or counts."""
        last = None
        for last in history:
            try:
                changes = self._trails.watch(last)
                if self._meters is not None:
                    self._meters.follow(changes)
            except Exception as error:
                self._excuse("warm", last, error)
        self._settle(last)

    def translate(self, batch: Sequence[Recorded], *, commit_us: int = 0) -> None:
        """Tell of a committed batch; ``commit_us`` is the journal's running total, up to and with this batch."""
        for recorded in batch:
            try:
                changes = self._trails.watch(recorded)
            except Exception as error:
                self._excuse("trails", recorded, error)
                continue
            for name, tell in self._sinks:
                try:
                    tell(recorded, changes)
                except Exception as error:
                    self._excuse(name, recorded, error)
        self._settle(batch[-1] if batch else None, events=len(batch), commit_us=commit_us)

    def close(self) -> None:
        """Export the spans that still wait for it; blocks for as long as that takes."""
        if self._tracing is not None:
            self._tracing.close()

    def _settle(self, last: Recorded | None, *, events: int = 0, commit_us: int = 0) -> None:
        if self._meters is None or last is None:
            return
        try:
            self._meters.settle(last, events=events, commit_us=commit_us)
        except Exception as error:
            self._excuse("metrics", last, error)

    def _excuse(self, sink: str, recorded: Recorded, error: Exception) -> None:
        """Count every error, say the first of each sink; the logger itself may be what is broken."""
        if self._metrics is not None:
            self._metrics.telemetry_errors.labels(sink).inc()
        if sink in self._broken or self._log is None:
            return
        self._broken.add(sink)
        text = f"{type(recorded.event).__name__} could not be told: {error!r}"
        try:
            self._log.error("telemetry failed", sink=sink, position=recorded.position, message=text)
        except Exception:
            return
