"""Run one segment on one worker, step by step, obeying revisions at boundaries; not how models compute.

Everything here is synchronous and runs on the worker's step thread. ``post`` hands a report to the event loop and
returns at once; snapshots are serialised on the ``files`` thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from msgspec import Struct

from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.fitting import Fitting
from genserve.scheduling.runner import OUT_OF_MEMORY, Ready, Runner

MAX_MESSAGE = 500
"""Characters of an error's text that go into a report."""

LASTING = ("stage_too_large",)
"""Codes of failures that another attempt would meet again."""

Post = Callable[[p.AnyReport], None]
Fetched = p.Content | Ready | None
Taker = Callable[[p.Left], tuple[str, ...]]
"""Told who left early; the requests that it takes over."""


class Revision:
    """What has been changed about a segment since it was queued; written by the loop, read at boundaries.

    ``goes_on`` are requests that go on from its stop on this worker: no checkpoint has to wait for them. ``takers``
    are to be called on the step thread as soon as it has ended, and who left it early is known.
    """

    __slots__ = ("drop", "goes_on", "skip", "stop", "takers")

    def __init__(self) -> None:
        self.stop = False
        self.goes_on: tuple[str, ...] = ()
        self.drop: tuple[str, ...] = ()
        self.skip: tuple[str, ...] = ()
        self.takers: tuple[Taker, ...] = ()

    def change(self, *, stop: bool, drop: tuple[str, ...]) -> None:
        """Revisions only ever add: a stop is not taken back."""
        self.drop = tuple(dict.fromkeys((*self.drop, *drop)))
        self.stop = self.stop or stop


class Assignment(Struct, frozen=True):
    """A segment about to run: the command, what may still change about it, and latents that were fetched for it.

    Latents are the bytes of a checkpoint file or of another worker, or, on their way from there, what returns when they
    are held; None for a member whose checkpoint cannot be read. ``wanted`` are the stages of the segments in the queue.
    """

    command: p.RunSegment
    revision: Revision
    fetched: dict[str, Fetched]
    wanted: frozenset[tuple[str, Stage]] = frozenset()


LEAVING = (p.Stopped, p.Dropped, p.Failed)
"""Reports after which a request's later segments are void, but for open ones after a stop."""


def run_segment(runner: Runner, assignment: Assignment, post: Post, files: Executor) -> None:
    """Run the segment to its end, a stop or a failure; every member gets its reports, and nothing is raised."""
    run = _SegmentRun(runner, assignment, post, files)
    try:
        run.run()
    except GenServeError as error:
        run.fail(run.members, error.code, error.message)
    except MemoryError as error:
        run.fail(run.members, OUT_OF_MEMORY, str(error))
    except Exception as error:
        run.fail(run.members, "stage_failed", f"{type(error).__name__}: {error}")
    run.tell_untold()


class _SegmentRun:
    def __init__(self, runner: Runner, assignment: Assignment, post: Post, files: Executor) -> None:
        self.runner = Fitting(runner)
        self.command = assignment.command
        self.revision = assignment.revision
        self.fetched = assignment.fetched
        self.wanted = assignment.wanted
        self.post = post
        self.files = files
        self.members = self.command.members
        self.untold: list[p.AnyReport] = []
        self.began_ns = time.perf_counter_ns()
        self.busy_ns = 0

    def run(self) -> None:
        self.members = tuple(m for m in self.members if m.request_id not in self.revision.skip)
        self.leave_out()
        if not self.members:
            return
        self.hold_stage()
        self.restore()
        if not self.members:
            return
        if self.revision.stop and not self.command.is_open:
            self.stop_before_start()
        elif self.command.stage is Stage.DENOISE:
            self.denoise()
        else:
            self.whole_stage()

    def hold_stage(self) -> None:
        """The stage's weights are loaded before the segment begins."""
        self.runner.keep_for(self.wanted)
        self.runner.hold(self.command.model, self.command.stage)

    def restore(self) -> None:
        """Take fetched latents in; a member whose checkpoint is no good fails alone.

        What another worker set out to give and did not is missing, as if it had never been held.
        """
        for member in self.members:
            try:
                self.restore_one(member)
            except OSError:
                continue
            except GenServeError as error:
                self.members = tuple(m for m in self.members if m is not member)
                self.fail((member,), error.code, error.message)

    def restore_one(self, member: p.Member) -> None:
        if member.request_id not in self.fetched:
            return
        content = self.fetched[member.request_id]
        if content is None:
            raise GenServeError("checkpoint_lost", f"the checkpoint of {member.request_id} is gone or not as written")
        if callable(content):
            content()
        else:
            self.runner.restore(member, content)

    # ── encode and decode ────────────────────────────────────────────────────────────────────────────────

    def whole_stage(self) -> None:
        """Encode or decode: not interrupted; a cancel that comes meanwhile takes effect at its end."""
        self.tell_began(0)
        frames: dict[str, Any] = {}
        if self.command.stage is Stage.ENCODE:
            self.runner.encode(self.members)
        else:
            frames = self.runner.decode(self.members)
        self.set_unfit_aside()
        self.leave_out()
        self.finish()
        for member in self.members if frames else ():
            self.tell(p.Decoded, member, frames[member.request_id])

    # ── denoise ──────────────────────────────────────────────────────────────────────────────────────────

    def denoise(self) -> None:
        self.check_held()
        batch = self.runner.begin(self.members)
        self.set_unfit_aside()
        if not self.members:
            return
        step = self.runner.position(batch)
        self.check_step(step)
        self.tell_began(step)
        while step < self.command.to_step and not self.revision.stop:
            self.tell_untold()
            began_ns = time.perf_counter_ns()
            self.runner.step(batch)
            self.set_unfit_aside()
            step += 1
            self.busy_ns += time.perf_counter_ns() - began_ns
            self.tell_stepped(step)
            batch = self.boundary(batch, step)
            if not self.members:
                return
        self.close(batch, step)

    def boundary(self, batch: Any, step: int) -> Any:
        """Between two steps: cancels, previews and checkpoints that are due."""
        dropped = self.leave_out()
        if dropped:
            batch = self.runner.without(batch, dropped)
        for member in self.members:
            if step in member.spec.preview_steps:
                frames = self.runner.preview(batch, member.request_id)
                self.tell(p.Preview, member, member.spec.preview_steps.index(step), frames)
            if self.is_checkpoint_due(step):
                self.save(batch, member, step)
        return batch

    def is_checkpoint_due(self, step: int) -> bool:
        every = self.command.checkpoint_every
        return every > 0 and step % every == 0 and step < self.command.to_step and not self.revision.stop

    def close(self, batch: Any, step: int) -> None:
        if step >= self.command.to_step:
            self.runner.end(batch)
            self.finish()
            return
        at_us = _clock_us()
        self.runner.end(batch)
        going_on = self.hand_over(has_stopped=True)
        for member in self.members:
            if member.request_id not in self.revision.goes_on:
                self.save(batch, member, step)
        for member in self.members:
            self.tell(p.Stopped, member, step, self.command.leader, at_us, member.request_id in going_on)

    def finish(self) -> None:
        took_us, at_us = self.elapsed_us(), _clock_us()
        self.hand_over(has_stopped=False)
        for member in self.members:
            self.tell(p.Ended, member, self.command.stage, took_us, at_us)

    def hand_over(self, *, has_stopped: bool) -> tuple[str, ...]:
        """Other workers that wait for this one's end get what they go on from before anything else is done.

        Who goes on at once, here or there.
        """
        here = tuple(member.request_id for member in self.members)
        gone = tuple(member.request_id for member in self.command.members if member not in self.members)
        left = p.Left(here if has_stopped else (), gone)
        taken = [request_id for taker in self.revision.takers for request_id in taker(left)]
        return *self.revision.goes_on, *taken

    def save(self, batch: Any, member: p.Member, step: int) -> None:
        """Copy now, serialise and report from the files thread, so that the next step need not wait."""
        self.tell_untold()
        serialise = self.runner.snapshot(batch, member.request_id)
        self.files.submit(lambda: self.post(self.report(p.Snapshot, member, step, serialise())))

    # ── reports ──────────────────────────────────────────────────────────────────────────────────────────

    def tell(self, kind: Callable[..., p.AnyReport], member: p.Member, *fields: Any) -> None:
        self.tell_untold()
        self.post(self.report(kind, member, *fields))

    def report(self, kind: Callable[..., p.AnyReport], member: p.Member, *fields: Any) -> p.AnyReport:
        return kind(member.request_id, member.attempt, self.command.segment_id, *fields)

    def tell_untold(self) -> None:
        """Progress waits until it is clear what comes next: at a stop, whoever goes on comes first."""
        untold, self.untold = self.untold, []
        for report in untold:
            self.post(report)

    def tell_began(self, step: int) -> None:
        for member in self.members:
            batch = len(self.members)
            self.tell(p.Began, member, self.command.stage, self.command.group, batch, step, _clock_us())

    def tell_stepped(self, step: int) -> None:
        fields = step, self.busy_ns // 1000, len(self.command.group), len(self.members), _clock_us()
        self.untold += [self.report(p.Stepped, member, *fields) for member in self.members]

    def leave_out(self) -> tuple[str, ...]:
        """Take cancelled members out; their ids, if there are new ones."""
        dropped = tuple(m for m in self.members if m.request_id in self.revision.drop)
        if dropped:
            self.members = tuple(m for m in self.members if m not in dropped)
        for member in dropped:
            self.runner.forget(member.request_id)
            self.tell(p.Dropped, member)
        return tuple(m.request_id for m in dropped)

    def stop_before_start(self) -> None:
        for member in self.members:
            home = self.command.leader if self.runner.holds(member.request_id, member.attempt) else ""
            self.tell(p.Stopped, member, self.command.from_step or 0, home, _clock_us())

    def check_held(self) -> None:
        """Whoever goes on from a stop does not begin anew, nor from an older checkpoint, within one attempt."""
        if not self.command.is_open:
            return
        for member in self.members:
            if not self.runner.holds(member.request_id, member.attempt):
                raise GenServeError("latents_lost", f"{member.request_id} was to go on from {self.command.after}")

    def check_step(self, step: int) -> None:
        expected = self.command.from_step
        if expected is not None and expected != step:
            raise GenServeError(
                "wrong_step", f"{self.command.segment_id} goes on at step {expected}, the latents are at {step}"
            )

    def set_unfit_aside(self) -> None:
        """Requests that the device has no room for even alone fail alone; the others go on without them."""
        for member, message in self.runner.take_unfit():
            self.members = tuple(m for m in self.members if m is not member)
            self.fail((member,), OUT_OF_MEMORY, message)

    def fail(self, members: tuple[p.Member, ...], code: str, message: str) -> None:
        for member in members:
            self.runner.forget(member.request_id)
            self.tell(p.Failed, member, code, message[:MAX_MESSAGE], code not in LASTING)

    def elapsed_us(self) -> int:
        return (time.perf_counter_ns() - self.began_ns) // 1000


def _clock_us() -> int:
    return time.time_ns() // 1000
