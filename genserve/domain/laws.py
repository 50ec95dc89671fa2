"""Laws that hold for every log, checked in tests, in simulation and in audit; not for repairing anything.

conservation      a request is submitted once, ends at most once, and nothing happens to it afterwards
exclusivity       a GPU runs one segment at a time
causality         effects follow causes: segments run only after the decision that made them
contiguous steps  within an attempt every denoising step is done once, in order
monotone time     positions have no gaps and recorded time never falls

A fact of an attempt that is over, or of a segment that a loss or a refusal took away, is late and not wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from msgspec import Struct

from genserve.domain import events as e
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.plan import Defer, Start
from genserve.domain.request import Stage


class Violation(Struct, frozen=True):
    """A law broken at a position, with both sides."""

    law: str
    position: int
    message: str

    def __str__(self) -> str:
        return f"{self.law} broken at position {self.position}: {self.message}"


def check_laws(history: Iterable[e.Recorded]) -> list[Violation]:
    """All violations in a whole log; an empty list is what everyone wants."""
    book = LawBook()
    for recorded in history:
        book.watch(recorded)
    return book.violations


class _Standing(Enum):
    """How a request stands to a segment that was decided for it."""

    INSIDE = "inside"
    LEFT = "left"
    VOID = "void"


class _Life(Struct):
    """A live request: the steps done and by which attempt, the newest attempt with the segments that began in it, and
    all its segments as decided.
    """

    is_submitted: bool = False
    attempt: int = 0
    stepped_by: int = 0
    done: int = 0
    begun: list[str] = []
    segments: dict[str, _Standing] = {}


class _Segment(Struct, frozen=True):
    """A segment as decided; kept while one of its members lives."""

    members: tuple[str, ...]
    workers: tuple[str, ...]
    stage: Stage = Stage.DENOISE
    is_open: bool = False


class LawBook:
    """Watches a log event by event with its own small memory, independent of ``evolve``.

    Bounded by the live requests and the workers, but for names: of every request that has ended with its position, and
    of every segment of such, since a name used twice is a broken law. About 0.4 kB for a request of three segments.
    """

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._position = 0
        self._recorded_us = 0
        self._live: dict[str, _Life] = {}
        self._ended: dict[str, int] = {}
        self._segments: dict[str, _Segment] = {}
        self._past: set[str] = set()
        self._running: dict[str, str] = {}
        self._groups: dict[str, set[str]] = {}
        self._incarnations: dict[str, int] = {}

    def watch(self, recorded: e.Recorded) -> None:
        position, event = recorded.position, recorded.event
        if position != self._position + 1 or recorded.recorded_us < self._recorded_us:
            self._check_order(recorded)
        self._position, self._recorded_us = position, recorded.recorded_us
        stream = recorded.stream
        if stream.startswith(REQUEST_STREAM) and not self._concerns_live(recorded, stream[len(REQUEST_STREAM) :]):
            return
        watcher = _WATCHERS.get(type(event))
        if watcher is not None:
            watcher(self, recorded, event)

    def _concerns_live(self, recorded: e.Recorded, request_id: str) -> bool:
        """Whether a fact of a request is to be looked at further: it is known, lives, and the fact is not late."""
        event, ended = recorded.event, self._ended.get(request_id)
        if ended is not None:
            self._check_ended(recorded, request_id, ended)
            return False
        life = self._life(request_id)
        if not life.is_submitted or type(event) is e.RequestSubmitted:
            self._check_submitted(recorded, request_id, life)
        if self._is_late(request_id, life, event):
            self._note_late(life, event)
            return False
        return True

    def _broken(self, law: str, recorded: e.Recorded, message: str) -> None:
        self.violations.append(Violation(law, recorded.position, message))

    def _check_order(self, recorded: e.Recorded) -> None:
        if self._position and recorded.position != self._position + 1:
            self._broken("monotone time", recorded, f"follows position {self._position}")
        if recorded.recorded_us < self._recorded_us:
            self._broken("monotone time", recorded, f"recorded {recorded.recorded_us} after {self._recorded_us}")

    def _check_ended(self, recorded: e.Recorded, request_id: str, ended: int) -> None:
        if isinstance(recorded.event, e.RequestSubmitted):
            self._broken("conservation", recorded, f"{request_id} submitted twice")
        elif not isinstance(recorded.event, e.RequestDeleted):
            name = type(recorded.event).__name__
            self._broken("conservation", recorded, f"{name} for {request_id}, ended at {ended}")

    def _check_submitted(self, recorded: e.Recorded, request_id: str, life: _Life) -> None:
        if not isinstance(recorded.event, e.RequestSubmitted):
            name = type(recorded.event).__name__
            self._broken("conservation", recorded, f"{name} for {request_id}, which was never submitted")
        elif life.is_submitted:
            self._broken("conservation", recorded, f"{request_id} submitted twice")
        life.is_submitted = life.is_submitted or isinstance(recorded.event, e.RequestSubmitted)

    def _life(self, request_id: str) -> _Life:
        """Of a request that has not ended, known or not."""
        life = self._live.get(request_id)
        if life is None:
            life = self._live[request_id] = _Life()
        return life

    def _is_late(self, request_id: str, life: _Life, event: e.Event) -> bool:
        """What began in an attempt is over when the next one is heard of."""
        if not isinstance(event, _OF_AN_ATTEMPT):
            return False
        if event.attempt < life.attempt:
            return True
        if event.attempt > life.attempt:
            self._leave(request_id, life.begun, _Standing.VOID)
            life.begun = []
        life.attempt = event.attempt
        return not isinstance(event, e.AttemptFailed) and life.segments.get(event.segment_id) is _Standing.VOID

    def _note_late(self, life: _Life, event: e.Event) -> None:
        """Steps of an attempt that is over were done all the same: the next one may go on from their checkpoint."""
        if isinstance(event, e.StepsFinished) and event.attempt == life.stepped_by and event.from_step <= life.done:
            life.done = max(life.done, event.to_step)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────

    def _stage_started(self, recorded: e.Recorded, event: e.StageStarted) -> None:
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        life = self._life(request_id)
        if event.segment_id in life.segments:
            life.segments[event.segment_id] = _Standing.INSIDE
            life.begun.append(event.segment_id)
        else:
            self._broken("causality", recorded, f"{request_id} runs in {event.segment_id}, which nobody decided")
        if event.stage is Stage.DENOISE and event.from_step > life.done:
            message = f"{request_id} goes on at step {event.from_step}, only {life.done} are done"
            self._broken("contiguous steps", recorded, message)
        for worker_id in event.workers:
            other = self._running.get(worker_id, event.segment_id)
            if other != event.segment_id:
                self._broken("exclusivity", recorded, f"{worker_id} runs {other} and {event.segment_id}")
            self._running[worker_id] = event.segment_id
        self._groups.setdefault(event.segment_id, set()).update(event.workers)

    def _steps_finished(self, recorded: e.Recorded, event: e.StepsFinished) -> None:
        """A later attempt may go back to a checkpoint; within an attempt the next step follows the last."""
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        life = self._life(request_id)
        starts_over = event.attempt > life.stepped_by and event.from_step <= life.done
        if event.from_step != life.done and not starts_over:
            message = f"{request_id} did step {event.from_step}, {life.done} were done"
            self._broken("contiguous steps", recorded, message)
        life.stepped_by, life.done = event.attempt, event.to_step

    def _stage_finished(self, recorded: e.Recorded, event: e.StageFinished) -> None:
        """What was to go on from a stop of it will not."""
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        if event.stage is Stage.DENOISE:
            self._leave(request_id, self._split_at_stop(request_id, event.segment_id)[1], _Standing.VOID)
        self._leave(request_id, [event.segment_id], _Standing.LEFT)

    def _paused(self, recorded: e.Recorded, event: e.RequestPaused) -> None:
        """It leaves its segments, but for those that go on from here."""
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        left, _ = self._split_at_stop(request_id, event.segment_id)
        self._leave(request_id, left, _Standing.LEFT)

    def _split_at_stop(self, request_id: str, stopped: str) -> tuple[list[str], list[str]]:
        """The segments it is in up to the first open one behind that one, and from there on."""
        inside = self._inside(request_id)
        if stopped in inside:
            for index in range(inside.index(stopped) + 1, len(inside)):
                if self._segments[inside[index]].is_open:
                    return inside[:index], inside[index:]
        return inside, []

    def _attempt_failed(self, recorded: e.Recorded, event: e.AttemptFailed) -> None:
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        self._start_over(request_id)
        self._life(request_id).attempt = event.attempt + 1

    def _end(self, recorded: e.Recorded, event: e.Event) -> None:
        """Forget the request, and a segment with the last of its members."""
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        self._start_over(request_id)
        self._ended[request_id] = recorded.position
        for name in self._live.pop(request_id).segments:
            if not any(member in self._live for member in self._segments[name].members):
                del self._segments[name]
                self._past.add(name)

    # ── workers and decisions ────────────────────────────────────────────────────────────────────────────

    def _plan_decided(self, recorded: e.Recorded, event: e.PlanDecided) -> None:
        if event.input_position >= recorded.position:
            self._broken("causality", recorded, f"decided on position {event.input_position}, which is not before it")
        for action in event.actions:
            if isinstance(action, Start):
                self._decide(recorded, action)
            elif isinstance(action, Defer) and action.request_id not in self._ended:
                self._life(action.request_id).done = 0

    def _decide(self, recorded: e.Recorded, start: Start) -> None:
        name = start.segment_id
        if name in self._segments or name in self._past:
            self._broken("causality", recorded, f"segment {name} started twice")
        members = tuple(r for r in start.request_ids if r not in self._ended)
        for request_id in members:
            segments = self._life(request_id).segments
            before = segments.get(start.after)
            is_void = before is _Standing.VOID or (start.is_open and before is not _Standing.INSIDE)
            segments[name] = _Standing.VOID if is_void else _Standing.INSIDE
        self._segments[name] = _Segment(members, start.workers, start.stage, start.is_open)

    def _joined(self, recorded: e.Recorded, event: e.WorkerJoined) -> None:
        if event.incarnation > self._incarnations.get(event.worker_id, -1):
            self._lose(event.worker_id)
            self._incarnations[event.worker_id] = event.incarnation

    def _lost(self, recorded: e.Recorded, event: e.WorkerLost) -> None:
        if event.incarnation >= self._incarnations.get(event.worker_id, -1):
            self._lose(event.worker_id)

    def _lose(self, worker_id: str) -> None:
        """Whoever is in a segment of this worker starts over; whoever has left it may yet be heard of.

        An encode or decode that is lost behind segments of other workers takes only what comes after it with it.
        """
        for name, segment in tuple(self._segments.items()):
            for request_id in segment.members if worker_id in segment.workers else ():
                life = self._live.get(request_id)
                if life is not None and life.segments[name] is _Standing.INSIDE:
                    kept = self._elsewhere(request_id, name, worker_id)
                    self._leave(request_id, [s for s in life.segments if s not in kept], _Standing.VOID)
                elif life is not None:
                    life.segments[name] = _Standing.VOID
        self._free(self._running.get(worker_id, ""))

    def _elsewhere(self, request_id: str, name: str, worker_id: str) -> list[str]:
        inside = self._inside(request_id)
        before = inside[: inside.index(name)]
        is_tied = any(worker_id in self._segments[s].workers for s in before)
        lost = self._segments[name]
        return [] if is_tied or (lost.stage is Stage.DENOISE and not lost.is_open) else before

    def _refused(self, recorded: e.Recorded, event: e.ActionRefused) -> None:
        """What comes before the refused segment goes on; with nothing before it the request starts over."""
        segment = self._segments.get(event.segment_id)
        for request_id in segment.members if segment else ():
            inside = self._inside(request_id)
            if inside[:1] == [event.segment_id]:
                self._start_over(request_id)
            elif event.segment_id in inside:
                self._leave(request_id, inside[inside.index(event.segment_id) :], _Standing.VOID)
        self._free(event.segment_id)

    # ── segments ─────────────────────────────────────────────────────────────────────────────────────────

    def _inside(self, request_id: str) -> list[str]:
        """The segments that it is in, as decided."""
        life = self._live.get(request_id)
        return [name for name, how in life.segments.items() if how is _Standing.INSIDE] if life else []

    def _start_over(self, request_id: str) -> None:
        self._leave(request_id, list(self._life(request_id).segments), _Standing.VOID)

    def _leave(self, request_id: str, names: list[str], standing: _Standing) -> None:
        """A segment's group is free when the last member has left it."""
        life = self._life(request_id)
        for name in names:
            if name in life.segments:
                life.segments[name] = standing
            if not self._is_inhabited(name):
                self._free(name)

    def _is_inhabited(self, name: str) -> bool:
        segment = self._segments.get(name)
        lives = (self._live.get(request_id) for request_id in (segment.members if segment else ()))
        return any(life is not None and life.segments[name] is _Standing.INSIDE for life in lives)

    def _free(self, segment_id: str) -> None:
        for worker_id in self._groups.pop(segment_id, ()):
            if self._running.get(worker_id) == segment_id:
                del self._running[worker_id]


_OF_AN_ATTEMPT = (e.StageStarted, e.StepsFinished, e.StageFinished, e.RequestPaused, e.AttemptFailed)

_WATCHERS: dict[type[e.Event], Callable[[LawBook, e.Recorded, Any], None]] = {
    e.PlanDecided: LawBook._plan_decided,
    e.StageStarted: LawBook._stage_started,
    e.StepsFinished: LawBook._steps_finished,
    e.StageFinished: LawBook._stage_finished,
    e.RequestPaused: LawBook._paused,
    e.AttemptFailed: LawBook._attempt_failed,
    e.RequestCompleted: LawBook._end,
    e.RequestCancelled: LawBook._end,
    e.RequestFailed: LawBook._end,
    e.WorkerJoined: LawBook._joined,
    e.WorkerLost: LawBook._lost,
    e.ActionRefused: LawBook._refused,
}
