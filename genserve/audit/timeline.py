"""What ran where and when, out of a log: slices per GPU, decisions, queue depth, deadlines; not how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from genserve.domain import events as e
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.plan import Start


class Slice(Struct, frozen=True):
    """A segment on one GPU. ``to_us`` is when the last of its requests left it; steps are those the log has."""

    worker_id: str
    segment_id: str
    requests: tuple[str, ...]
    stage: str
    from_us: int
    to_us: int
    steps: int
    degree: int
    end: str


class Decision(Struct, frozen=True):
    """A plan that started something."""

    position: int
    at_us: int
    took_us: int
    planner: str
    segments: tuple[str, ...]


class Life(Struct, frozen=True):
    """A request from submission to its end; ``end`` is completed, cancelled, failed, or "" while it lives."""

    request_id: str
    model: str
    submitted_us: int
    deadline_us: int
    ended_us: int
    end: str

    @property
    def is_late(self) -> bool:
        return self.end == "completed" and self.ended_us > self.deadline_us


class Timeline(Struct, frozen=True):
    """All of it, from the first thing to be drawn on, in the order of the log; microseconds since the epoch."""

    slices: tuple[Slice, ...]
    decisions: tuple[Decision, ...]
    depths: tuple[tuple[int, int], ...]
    lives: tuple[Life, ...]
    from_us: int
    to_us: int

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(sorted({s.worker_id for s in self.slices}))


def timeline_of(history: Iterable[e.Recorded]) -> Timeline:
    """Fold a log into a timeline; segments that still run end where the log does."""
    book = _Book()
    for recorded in history:
        book.watch(recorded)
    return book.close()


class _Running:
    """A segment that has begun: who is still in it."""

    def __init__(self, event: e.StageStarted, at_us: int) -> None:
        self.event = event
        self.from_us = at_us
        self.requests: list[str] = []
        self.inside: set[str] = set()
        self.steps = 0


class _Book:
    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self.decisions: list[Decision] = []
        self.depths: list[tuple[int, int]] = []
        self.lives: dict[str, Life] = {}
        self.running: dict[str, _Running] = {}
        self.segment_of: dict[str, str] = {}
        self.waiting: set[str] = set()
        self.first_us = self.now_us = 0

    def watch(self, recorded: e.Recorded) -> None:
        self.now_us = recorded.recorded_us
        handler = _HANDLERS.get(type(recorded.event))
        if handler is not None:
            handler(self, recorded, recorded.event)
        if self.lives or self.running or self.decisions:
            self._measure()

    def _measure(self) -> None:
        self.first_us = self.first_us or self.now_us
        depth = len(self.waiting)
        if not self.depths or self.depths[-1][1] != depth:
            self.depths.append((self.now_us, depth))

    def close(self) -> Timeline:
        for segment_id in tuple(self.running):
            self._finish(segment_id, "running")
        self.slices.sort(key=lambda s: (s.from_us, s.worker_id, s.segment_id))
        lives = tuple(self.lives.values())
        parts = tuple(self.slices), tuple(self.decisions), tuple(self.depths)
        first_us = min([self.first_us or self.now_us, *(s.from_us for s in self.slices[:1])])
        return Timeline(*parts, lives, first_us, self.now_us)

    def _submitted(self, recorded: e.Recorded, event: e.RequestSubmitted) -> None:
        spec = event.request
        self.lives[spec.request_id] = Life(spec.request_id, spec.model, self.now_us, spec.deadline_us, 0, "")
        self.waiting.add(spec.request_id)

    def _decided(self, recorded: e.Recorded, event: e.PlanDecided) -> None:
        starts = tuple(a.segment_id for a in event.actions if isinstance(a, Start))
        if starts:
            self.decisions.append(Decision(recorded.position, self.now_us, event.took_us, event.planner, starts))

    def _started(self, recorded: e.Recorded, event: e.StageStarted) -> None:
        request_id = _request(recorded)
        self._leave(request_id, "superseded")
        running = self.running.setdefault(event.segment_id, _Running(event, recorded.happened_us))
        running.requests.append(request_id)
        running.inside.add(request_id)
        self.segment_of[request_id] = event.segment_id
        self.waiting.discard(request_id)

    def _stepped(self, recorded: e.Recorded, event: e.StepsFinished) -> None:
        running = self.running.get(event.segment_id)
        if running is not None and running.requests[0] == _request(recorded):
            running.steps += event.to_step - event.from_step

    def _finished(self, recorded: e.Recorded, event: e.StageFinished) -> None:
        self._leave(_request(recorded), "finished", recorded.happened_us)

    def _paused(self, recorded: e.Recorded, event: e.RequestPaused) -> None:
        self._leave(_request(recorded), "paused", recorded.happened_us)
        self.waiting.add(_request(recorded))

    def _failed(self, recorded: e.Recorded, event: e.AttemptFailed) -> None:
        self._leave(_request(recorded), event.code)
        self.waiting.add(_request(recorded))

    def _ended(self, recorded: e.Recorded, event: e.AnyEvent) -> None:
        request_id = _request(recorded)
        end = type(event).__name__.removeprefix("Request").lower()
        self._leave(request_id, end)
        self.waiting.discard(request_id)
        life = self.lives.get(request_id)
        if life is not None and not life.end:
            self.lives[request_id] = Life(request_id, life.model, life.submitted_us, life.deadline_us, self.now_us, end)

    def _lost(self, recorded: e.Recorded, event: e.WorkerLost) -> None:
        for running in [r for r in self.running.values() if event.worker_id in r.event.workers]:
            for request_id in tuple(running.inside):
                self._leave(request_id, "worker lost")
                self.waiting.add(request_id)

    def _leave(self, request_id: str, end: str, at_us: int = 0) -> None:
        segment_id = self.segment_of.pop(request_id, "")
        running = self.running.get(segment_id)
        if running is not None:
            running.inside.discard(request_id)
            if not running.inside:
                self._finish(segment_id, end, at_us)

    def _finish(self, segment_id: str, end: str, at_us: int = 0) -> None:
        running = self.running.pop(segment_id)
        event = running.event
        self.slices += [
            Slice(
                worker_id=worker_id,
                segment_id=segment_id,
                requests=tuple(running.requests),
                stage=str(event.stage),
                from_us=running.from_us,
                to_us=max(at_us or self.now_us, running.from_us),
                steps=running.steps,
                degree=len(event.workers),
                end=end,
            )
            for worker_id in event.workers
        ]


def _request(recorded: e.Recorded) -> str:
    return recorded.stream[len(REQUEST_STREAM) :]


_HANDLERS: dict[type[e.Event], Callable[[_Book, e.Recorded, Any], None]] = {
    e.RequestSubmitted: _Book._submitted,
    e.PlanDecided: _Book._decided,
    e.StageStarted: _Book._started,
    e.StepsFinished: _Book._stepped,
    e.StageFinished: _Book._finished,
    e.RequestPaused: _Book._paused,
    e.AttemptFailed: _Book._failed,
    e.RequestCompleted: _Book._ended,
    e.RequestCancelled: _Book._ended,
    e.RequestFailed: _Book._ended,
    e.WorkerLost: _Book._lost,
}
