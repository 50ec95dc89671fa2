"""Laws that hold for every log, checked in tests, in simulation and in audit; not for repairing anything.

conservation      a request is submitted once, ends at most once, and nothing happens to it afterwards
exclusivity       a GPU runs one segment at a time
causality         effects follow causes: segments run only after the decision that made them
contiguous steps  within an attempt every denoising step is done once, in order
monotone time     positions have no gaps and recorded time never falls
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from genserve.domain import events as e
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.plan import Start
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


class LawBook:
    """Watches a log event by event with its own small memory, independent of ``evolve``."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._position = 0
        self._recorded_us = 0
        self._submitted: set[str] = set()
        self._ended: dict[str, int] = {}
        self._steps: dict[str, tuple[int, int]] = {}
        self._decided: dict[str, Start] = {}
        self._left: dict[str, set[str]] = {}
        self._running: dict[str, str] = {}

    def watch(self, recorded: e.Recorded) -> None:
        self._check_order(recorded)
        stream = recorded.stream
        if stream.startswith(REQUEST_STREAM):
            self._check_request(recorded, stream[len(REQUEST_STREAM) :])
        watcher = _WATCHERS.get(type(recorded.event))
        if watcher is not None:
            watcher(self, recorded, recorded.event)

    def _broken(self, law: str, recorded: e.Recorded, message: str) -> None:
        self.violations.append(Violation(law, recorded.position, message))

    def _check_order(self, recorded: e.Recorded) -> None:
        if self._position and recorded.position != self._position + 1:
            self._broken("monotone time", recorded, f"follows position {self._position}")
        if recorded.recorded_us < self._recorded_us:
            self._broken("monotone time", recorded, f"recorded {recorded.recorded_us} after {self._recorded_us}")
        self._position = recorded.position
        self._recorded_us = recorded.recorded_us

    def _check_request(self, recorded: e.Recorded, request_id: str) -> None:
        name = type(recorded.event).__name__
        if isinstance(recorded.event, e.RequestSubmitted):
            if request_id in self._submitted:
                self._broken("conservation", recorded, f"{request_id} submitted twice")
            self._submitted.add(request_id)
        elif request_id not in self._submitted:
            self._broken("conservation", recorded, f"{name} for {request_id}, which was never submitted")
        elif request_id in self._ended and not isinstance(recorded.event, e.RequestDeleted):
            self._broken("conservation", recorded, f"{name} for {request_id}, ended at {self._ended[request_id]}")

    def _plan_decided(self, recorded: e.Recorded, event: e.PlanDecided) -> None:
        if event.input_position >= recorded.position:
            self._broken("causality", recorded, f"decided on position {event.input_position}, which is not before it")
        for action in event.actions:
            if isinstance(action, Start):
                if action.segment_id in self._decided:
                    self._broken("causality", recorded, f"segment {action.segment_id} started twice")
                self._decided[action.segment_id] = action
                self._left[action.segment_id] = set(action.request_ids)

    def _stage_started(self, recorded: e.Recorded, event: e.StageStarted) -> None:
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        start = self._decided.get(event.segment_id)
        if start is None or request_id not in start.request_ids:
            self._broken("causality", recorded, f"{request_id} runs in {event.segment_id}, which nobody decided")
        if event.stage is Stage.DENOISE:
            self._expect_step(recorded, request_id, event.from_step)
        for worker_id in event.workers:
            other = self._running.get(worker_id, event.segment_id)
            if other != event.segment_id:
                self._broken("exclusivity", recorded, f"{worker_id} runs {other} and {event.segment_id}")
            self._running[worker_id] = event.segment_id

    def _expect_step(self, recorded: e.Recorded, request_id: str, step: int) -> None:
        _, done = self._steps.get(request_id, (0, 0))
        if step > done:
            self._broken("contiguous steps", recorded, f"{request_id} goes on at step {step}, only {done} are done")

    def _steps_finished(self, recorded: e.Recorded, event: e.StepsFinished) -> None:
        """A later attempt may go back to a checkpoint; within an attempt the next step follows the last."""
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        attempt, done = self._steps.get(request_id, (0, 0))
        starts_over = event.attempt > attempt and event.from_step <= done
        if event.from_step != done and not starts_over:
            self._broken("contiguous steps", recorded, f"{request_id} did step {event.from_step}, {done} were done")
        self._steps[request_id] = (event.attempt, event.to_step)

    def _start_over(self, recorded: e.Recorded, event: e.AttemptFailed) -> None:
        self._leave(recorded.stream[len(REQUEST_STREAM) :])

    def _stage_finished(self, recorded: e.Recorded, event: e.StageFinished) -> None:
        self._leave(recorded.stream[len(REQUEST_STREAM) :], event.segment_id)

    def _paused(self, recorded: e.Recorded, event: e.RequestPaused) -> None:
        self._leave(recorded.stream[len(REQUEST_STREAM) :])

    def _end(self, recorded: e.Recorded, event: e.Event) -> None:
        request_id = recorded.stream[len(REQUEST_STREAM) :]
        self._leave(request_id)
        self._ended.setdefault(request_id, recorded.position)

    def _worker_gone(self, recorded: e.Recorded, event: e.WorkerLost | e.WorkerJoined) -> None:
        segment_id = self._running.get(event.worker_id)
        if segment_id is not None:
            self._free(segment_id)

    def _refused(self, recorded: e.Recorded, event: e.ActionRefused) -> None:
        self._free(event.segment_id)

    def _leave(self, request_id: str, segment_id: str | None = None) -> None:
        """A segment's group is free when the last member has left it."""
        names = [segment_id] if segment_id else [s for s, members in self._left.items() if request_id in members]
        for name in names:
            members = self._left.get(name, set())
            members.discard(request_id)
            if not members:
                self._free(name)

    def _free(self, segment_id: str) -> None:
        self._left.pop(segment_id, None)
        for worker_id in [w for w, s in self._running.items() if s == segment_id]:
            del self._running[worker_id]


_WATCHERS: dict[type[e.Event], Callable[[LawBook, e.Recorded, Any], None]] = {
    e.PlanDecided: LawBook._plan_decided,
    e.StageStarted: LawBook._stage_started,
    e.StepsFinished: LawBook._steps_finished,
    e.StageFinished: LawBook._stage_finished,
    e.RequestPaused: LawBook._paused,
    e.AttemptFailed: LawBook._start_over,
    e.RequestCompleted: LawBook._end,
    e.RequestCancelled: LawBook._end,
    e.RequestFailed: LawBook._end,
    e.WorkerJoined: LawBook._worker_gone,
    e.WorkerLost: LawBook._worker_gone,
    e.ActionRefused: LawBook._refused,
}
