"""The worker: owns one GPU, runs the segments it is told to run, in order; it decides nothing.

Commands come in on the event loop; stages run on one thread of their own, which at every step boundary reads the
segment's revision and goes on without waiting for anybody. Reports leave through the outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from actors.delivery import Inbox
from actors.framework.runtime import Runtime, UnreachableError
from actors.line import Line
from actors.outbox import Outbox
from actors.register import Register
from actors.relay import Ledger
from actors.supply import Supply
from actors.teams import Teams
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.runner import Runner
from genserve.scheduling.segments import Assignment, run_segment
from observability.logging import get_logger

LAST_WORDS_S = 2.0
"""How long a worker that ends because its device is lost waits for its last reports to be recorded."""


class Worker:
    """Plain class; ``runtime`` reaches request actors and other workers, ``resign`` ends this process.

    A crash loses the latents in memory and the queue; whatever was reported and acknowledged is in the log.
    """

    def __init__(
        self,
        runtime: Runtime,
        worker_id: str,
        make_runner: Callable[[], Runner],
        inbox: Inbox | None = None,
        resign: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        self.worker_id = worker_id
        self.incarnation = time.time_ns() // 1000
        self._runtime = runtime
        self._node = runtime.node
        self._make_runner = make_runner
        self._resign = resign
        self._runner: Runner | None = None
        self._epoch = 0
        self._line = Line()
        self._register = Register()
        self._ledger = Ledger()
        self._outbox = Outbox(runtime)
        self._teams = Teams(runtime, worker_id, self._outbox)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{worker_id}-steps")
        self._files = ThreadPoolExecutor(1, thread_name_prefix=f"{worker_id}-files")
        self._supply = Supply(runtime, worker_id, self._files, inbox)
        self._waking: asyncio.Task[Runner] | None = None
        self._main: asyncio.Task[None] | None = None

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────

    async def hello(self, epoch: int, lost: int = 0) -> p.Hello:
        """Who am I and what do I hold; from here on lower epochs are refused.

        ``lost`` is the incarnation that the log has given up: if that is this one, it starts over as a new one.
        Segments that wait for other workers are dropped for a new leader, who tells again what still holds.
        """
        if epoch > self._epoch:
            dropped = self._line.clear(only_waiting=True)
            self._register.drop(dropped)
            self._supply.drop(dropped)
        self._epoch = max(self._epoch, epoch)
        if lost == self.incarnation:
            self._start_over()
        runner = await self._wake()
        return p.Hello(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            node=self._node,
            device=runner.device,
            memory_bytes=runner.memory_bytes,
            resident=runner.resident,
            segments=(*self._register.live, *self._outbox.segments()),
            displaced=runner.displaced,
        )

    def _start_over(self) -> None:
        """Everything queued is void and what runs stops at its next boundary; its reports are of attempts long over."""
        self.incarnation += 1
        self._ledger.clear()
        dropped = self._line.clear()
        for segment_id in dropped:
            self._register.end(segment_id)
        self._supply.drop(dropped)
        self._register.start_over()

    async def _wake(self) -> Runner:
        """Load the models once, however often and by whomever this worker is greeted meanwhile."""
        if self._waking is None or (self._waking.done() and self._runner is None):
            self._waking = asyncio.create_task(self._load())
        return await asyncio.shield(self._waking)

    async def _load(self) -> Runner:
        runner = self._runner = await asyncio.get_running_loop().run_in_executor(self._thread, self._make_runner)
        self._teams.runner = runner
        runner.watch(partial(self._pass_change, asyncio.get_running_loop()))
        self._main = asyncio.create_task(self._work())
        return runner

    async def obey(self, commands: tuple[p.Command, ...]) -> tuple[p.Answer, ...]:
        """Take commands in, in order; an answer to each."""
        return tuple([await self._obey(command) for command in commands])

    async def _obey(self, command: p.Command) -> p.Answer:
        if isinstance(command, p.HoldStage):
            return self._queue_stage(command)
        return await (self.run(command) if isinstance(command, p.RunSegment) else self.revise(command))

    def _queue_stage(self, command: p.HoldStage) -> p.Answer:
        """Loading what is loaded changes nothing, so a repeated command does not."""
        refusal = self._find_stage_refusal(command.epoch, command.model)
        if refusal is None:
            self._line.put(command)
        return refusal or p.Answer()

    async def run(self, command: p.RunSegment) -> p.Answer:
        """Queue a segment, or refuse it with a code; a repeated command changes nothing."""
        refusal = self._find_refusal(command)
        if refusal is not None:
            self._teams.refuse(command)
            self._register.refuse(command.segment_id)
            return refusal
        if self._register.enter(command):
            self._line.put(command, until=self._condition(command))
        return p.Answer()

    def _condition(self, command: p.RunSegment) -> Callable[[], Awaitable[None]] | None:
        """What has to be waited for beside the worker's turn, while others may pass."""
        runner = self._require_runner()
        elsewhere = self._supply.elsewhere(command, runner)
        if command.after_on:
            return partial(self._wait_for_other, command)
        return partial(self._supply.fetch_ahead, command.segment_id, elsewhere, runner) if elsewhere else None

    async def revise(self, command: p.Revise) -> p.Answer:
        """Change a queued or running segment at its next boundary."""
        if command.epoch < self._epoch:
            return self._stale(command.epoch)
        revision = self._register.revision(command.segment_id)
        if revision is None:
            return p.Answer("unknown_segment", f"{self.worker_id} has no segment {command.segment_id}")
        revision.change(stop=command.stop, drop=command.drop)
        return p.Answer()

    async def hand_over(self, wish: p.HandOver) -> p.HandedOver | None:
        """What another worker wishes for, once it is due; None: it has been sent there, ahead of this answer."""
        if wish.after and wish.incarnation != self.incarnation:
            return p.HandedOver(None)
        return await self._supply.give(wish, self._require_runner(), self._register)

    async def told(self, segment_id: str, incarnation: int) -> None:
        """Returns when a segment of that incarnation's has ended and the log has heard of it."""
        if incarnation == self.incarnation:
            await self._register.end_of(segment_id)
        await self._outbox.drained()

    async def changes(self, recorded: int) -> tuple[tuple[int, p.StageChange], ...]:
        """Stages loaded and dropped beyond the change with that number, as soon as there are any."""
        return await self._ledger.since(recorded)

    async def forget(self, request_id: str) -> None:
        """Drop what is held for a request that has ended."""
        if self._runner is not None:
            self._runner.forget(request_id)

    async def reporting(self) -> tuple[str, ...]:
        """Requests with reports that nobody has acknowledged yet."""
        return self._outbox.requests()

    # ── groups ───────────────────────────────────────────────────────────────────────────────────────────

    async def host_world(self) -> int:
        """The port of a new meeting point for the workers of this node."""
        return await self._teams.host()

    async def join_world(self, world: p.World) -> None:
        """Form this worker's groups of a new generation; segments that run go on."""
        await self._teams.join(world)

    async def lose_peer(self, worker_id: str) -> None:
        """Another worker is gone: whatever waits for it is let go."""
        await self._teams.lose(worker_id)

    async def give_up(self, segment_id: str) -> None:
        """Another member refused a group segment, or its leader failed: whoever has not begun it passes it over."""
        self._teams.give_up(segment_id)

    async def settled(self, segment_id: str) -> None:
        """Returns when this worker's part in the order of the log is told: all before a segment that it follows in,
        or that segment's own end, where it leads.
        """
        await self._teams.settled(segment_id)

    async def die(self) -> None:
        """End this process without ceremony; for chaos tests."""
        self._resign()

    async def pulse(self) -> None:
        """That an answer comes is the answer."""

    async def attend(self, incarnation: int) -> None:
        """Never returns to whoever attends to this incarnation; the call breaks when it dies: so death is noticed."""
        if incarnation == self.incarnation:
            await asyncio.Event().wait()

    def _find_refusal(self, command: p.RunSegment) -> p.Answer | None:
        if self.worker_id not in command.group:
            return p.Answer("not_in_group", f"{self.worker_id} is not in {command.group}")
        refusal = self._find_stage_refusal(command.epoch, command.model)
        if refusal is None and len(command.group) > 1 and not self._teams.is_possible:
            return p.Answer("unsupported_degree", f"{self.worker_id} runs alone, asked for {len(command.group)} GPUs")
        return refusal

    def _find_stage_refusal(self, epoch: int, model: str) -> p.Answer | None:
        if epoch < self._epoch:
            return self._stale(epoch)
        if self._runner is None:
            return p.Answer(p.NOT_READY, f"{self.worker_id} has not been greeted yet")
        if model not in self._runner.models:
            return p.Answer("unknown_model", f"{self.worker_id} has no model {model!r}")
        return None

    def _stale(self, epoch: int) -> p.Answer:
        return p.Answer("stale_epoch", f"command of epoch {epoch}, {self.worker_id} follows {self._epoch}")

    def _require_runner(self) -> Runner:
        if self._runner is None:
            raise GenServeError(p.NOT_READY, f"{self.worker_id} has not been greeted yet")
        return self._runner

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self) -> None:
        """Run queued segments one after the other; a segment's failure is reported, and fatal only with the device."""
        loop, runner = asyncio.get_running_loop(), self._require_runner()
        while not runner.is_lost:
            command = await self._line.take()
            if isinstance(command, p.HoldStage):
                await loop.run_in_executor(self._thread, self._hold, command, loop)
                continue
            revision = self._register.revision(command.segment_id)
            assert revision is not None, "what is in the line is in the register"
            fetched = await self._supply.fetch(command, runner, without=(*revision.drop, *revision.skip))
            assignment = Assignment(command, revision, fetched, self._line.wanted())
            post = self._poster(loop, command)
            run = await self._teams.enter(command) if len(command.group) > 1 else run_segment
            await loop.run_in_executor(self._thread, run, runner, assignment, post, self._files)
            self._teams.leave(command)
            self._register.end(command.segment_id)
        await self._end()

    async def _end(self) -> None:
        """The device is lost to this process: end it, as soon as why has been told, to be started anew by whoever
        watches it.
        """
        get_logger("genserve.worker").error("the device is lost, this worker ends", worker=self.worker_id)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._outbox.drained(), LAST_WORDS_S)
        self._resign()

    def _hold(self, command: p.HoldStage, loop: asyncio.AbstractEventLoop) -> None:
        """On the step thread; what cannot be done is told where what was done would be."""
        runner = self._require_runner()
        try:
            (runner.hold if command.keep else runner.release)(command.model, command.stage)
        except GenServeError as error:
            self._pass_change(loop, p.StageChange(command.model, command.stage, command.keep, 0, 0, *error.args[:2]))

    def _pass_change(self, loop: asyncio.AbstractEventLoop, change: p.StageChange) -> None:
        """From the step thread to the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            loop.call_soon_threadsafe(self._note_change, change)

    def _note_change(self, change: p.StageChange) -> None:
        """What begins from now on is told after the log has heard of the change."""
        self._outbox.owe(partial(self._ledger.recorded, self._ledger.add(change)))

    async def _wait_for_other(self, command: p.RunSegment) -> None:
        """Until the segment before this one has ended on its worker; whoever left there early is left out here."""
        left = await self._supply.await_other(command, self._require_runner())
        if left is not None:
            self._outbox.owe(partial(self._ask_told, command))
        self._register.skip(command, left)

    async def _ask_told(self, command: p.RunSegment) -> None:
        with contextlib.suppress(UnreachableError, GenServeError):
            await self._runtime.find(command.after_on).ask("told", command.after, command.after_incarnation)

    def _poster(self, loop: asyncio.AbstractEventLoop, command: p.RunSegment) -> Callable[[p.AnyReport], None]:
        actors = {m.request_id: m.actor for m in command.members}

        def post(report: p.AnyReport) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                loop.call_soon_threadsafe(self._pass_on, actors[report.request_id], report)

        return post

    def _pass_on(self, actor: str, report: p.AnyReport) -> None:
        self._register.note(report)
        self._outbox.post(actor, report)
