"""Run one segment on one worker, step by step, obeying revisions at boundaries; not how models compute.

Everything here is synchronous and runs on the worker's step thread. ``post`` hands a report to the event loop and
returns at once; snapshots are serialised on the ``files`` thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol

from msgspec import Struct

from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.fitting import OUT_OF_MEMORY, Fitting

MAX_MESSAGE = 500
"""Characters of an error's text that go into a report."""

LASTING = ("stage_too_large",)
"""Codes of failures that another attempt would meet again."""

Post = Callable[[p.AnyReport], None]
Held = Callable[[], bytes]
Offer = Callable[[], tuple[p.Content, ...]]
Taker = Callable[[p.Left], None]


class Runner(Protocol):
    """A device with models on it. Errors are GenServeError with a code; ``out_of_memory`` is one of them.

    It holds, per request and attempt, the embeddings and latents between segments.
    """

    @property
    def device(self) -> str: ...

    @property
    def memory_bytes(self) -> int: ...

    @property
    def models(self) -> tuple[str, ...]: ...

    @property
    def resident(self) -> tuple[tuple[str, Stage], ...]: ...

    @property
    def displaced(self) -> tuple[tuple[str, Stage], ...]:
        """Stages that it is to hold and has no room for."""

    def watch(self, tell: Callable[[p.StageChange], None]) -> None:
        """Hear of every stage that is loaded or dropped from now on."""

    def keep_for(self, wanted: frozenset[tuple[str, Stage]]) -> None:
        """What queued segments need: dropped only when nothing else is left to drop."""

    def hold(self, model: str, stage: Stage) -> None:
        """Load a stage's weights unless they are there; raises GenServeError ``stage_too_large``."""

    def release(self, model: str, stage: Stage) -> None:
        """Drop a stage's weights."""

    def holds(self, request_id: str, attempt: int) -> bool: ...

    def forget(self, request_id: str) -> None: ...

    def offer(self, request_id: str, attempt: int) -> Offer | None:
        """What is held for a request, and stays: a function that serialises it, in pieces, or None if nothing is."""

    def restore(self, member: p.Member, content: p.Content) -> None:
        """Hold what a checkpoint file's bytes describe.

        Raises GenServeError ``checkpoint_corrupt`` or ``checkpoint_mismatch``.
        """

    def encode(self, members: tuple[p.Member, ...]) -> None:
        """Embed the prompts; held afterwards."""

    def begin(self, members: tuple[p.Member, ...]) -> Any:
        """Form a batch; a request whose latents are not held begins anew at step 0."""

    def position(self, batch: Any) -> int:
        """Denoising steps done."""

    def step(self, batch: Any) -> None:
        """One denoising step of the whole batch; returns when the device has finished it."""

    def without(self, batch: Any, request_ids: tuple[str, ...]) -> Any:
        """The batch without some members, which are forgotten; the others go on undisturbed."""

    def end(self, batch: Any) -> None:
        """Dissolve the batch; its members are held one by one."""

    def snapshot(self, batch: Any, request_id: str) -> Held:
        """Copy a member's latents now, which may be right after the batch's end; serialise them later."""

    def preview(self, batch: Any, request_id: str) -> Any:
        """Frames of an unfinished member, uint8 (frames, height, width, 3); does not disturb it."""

    def decode(self, members: tuple[p.Member, ...]) -> dict[str, Any]:
        """Frames by request, uint8 (frames, height, width, 3); nothing is held afterwards.

        Raises GenServeError ``unknown_latents`` where the finished latents are not held.
        """


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

    Latents are the bytes of a checkpoint file or of another worker, None for a member whose checkpoint cannot be read.
    ``wanted`` are the stages of the segments in the queue.
    """

    command: p.RunSegment
    revision: Revision
    fetched: dict[str, p.Content | None]
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
        """Take fetched latents in; a member whose checkpoint is no good fails alone."""
        for member in self.members:
            try:
                self.restore_one(member)
            except GenServeError as error:
                self.members = tuple(m for m in self.members if m is not member)
                self.fail((member,), error.code, error.message)

    def restore_one(self, member: p.Member) -> None:
        if member.request_id not in self.fetched:
            return
        content = self.fetched[member.request_id]
        if content is None:
            raise GenServeError("checkpoint_lost", f"the checkpoint of {member.request_id} is gone or not as written")
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
        at_us, going_on = _clock_us(), self.revision.goes_on
        self.runner.end(batch)
        self.hand_over(has_stopped=True)
        for member in self.members:
            if member.request_id not in going_on:
                self.save(batch, member, step)
        for member in self.members:
            self.tell(p.Stopped, member, step, self.command.leader, at_us, member.request_id in going_on)

    def finish(self) -> None:
        took_us, at_us = self.elapsed_us(), _clock_us()
        self.hand_over(has_stopped=False)
        for member in self.members:
            self.tell(p.Ended, member, self.command.stage, took_us, at_us)

    def hand_over(self, *, has_stopped: bool) -> None:
        """Other workers that wait for this one's end get what they go on from before anything else is done."""
        here = tuple(member.request_id for member in self.members)
        gone = tuple(member.request_id for member in self.command.members if member not in self.members)
        for taker in self.revision.takers:
            taker(p.Left(here if has_stopped else (), gone))

    def save(self, batch: Any, member: p.Member, step: int) -> None:
        """Copy now, serialise and report from the files thread, so that the next step need not wait."""
        serialise = self.runner.snapshot(batch, member.request_id)
        self.files.submit(lambda: self.tell(p.Snapshot, member, step, serialise()))

    # ── reports ──────────────────────────────────────────────────────────────────────────────────────────

    def tell(self, kind: Callable[..., p.AnyReport], member: p.Member, *fields: Any) -> None:
        self.post(kind(member.request_id, member.attempt, self.command.segment_id, *fields))

    def tell_began(self, step: int) -> None:
        for member in self.members:
            batch = len(self.members)
            self.tell(p.Began, member, self.command.stage, self.command.group, batch, step, _clock_us())

    def tell_stepped(self, step: int) -> None:
        for member in self.members:
            group, batch = len(self.command.group), len(self.members)
            self.tell(p.Stepped, member, step, self.busy_ns // 1000, group, batch, _clock_us())

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
