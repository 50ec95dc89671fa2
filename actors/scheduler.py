"""The scheduler actor: owns the log's write path and the decision; not the GPUs, not the requests.

It hosts the journal (the single writer) and the loop. Every committed batch is folded, decided upon and only then
acknowledged, and a decision stands in the log right behind the facts that it saw. A crash loses nothing that was
acknowledged: the next scheduler folds the log, greets the workers, sends again what is under way, and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from actors.custody import Custody
from actors.dispatch import Dispatch
from actors.fleet import Fleet
from actors.forecasts import Forecasts
from actors.framework.runtime import Runtime
from actors.intake import Intake
from actors.leadership import LEASE_S, introduction, lead, stand_in
from actors.link import WorkerSlot
from actors.news import News, Teller
from actors.pool import RequestPool
from actors.recollection import Recollection
from actors.request import RequestActorSettings
from actors.verdicts import Verdicts, admission_of, parameters_of
from genserve.config import Settings
from genserve.domain.events import REQUEST_ENDS, AnyEvent, Recorded, WakeReached, WorkerLost
from genserve.domain.ids import REQUEST_STREAM, SCHEDULER_STREAM
from genserve.domain.request import Status
from genserve.errors import CallerError, GenServeError, InvariantBroken
from genserve.journal.contract import Producer, Storage, Unit
from genserve.journal.errors import JournalUnavailable, VersionConflict
from genserve.journal.journal import Journal
from genserve.journal.open import open_storage
from genserve.planners.registry import build_planner
from genserve.scheduling.files import keep_only
from genserve.scheduling.gateway import Forecast, Health, Submission
from genserve.scheduling.loop import Loop
from genserve.scheduling.telemetry.translator import Translator
from observability.logging import get_logger
from observability.metrics import Metrics
from observability.tracing import setup_tracing

NAME = "scheduler"
MAX_WAIT_S = 30.0
FLUSH_S = 5.0
"""How long a stopping scheduler waits for a trace collector to take its last spans."""
RETRY_S = 0.2


class Scheduler:
    """Plain class; every public method first makes sure that this process leads and has recovered.

    ``storage`` stands in for the database that the settings name, for a log in memory; ``resign`` ends this process.
    """

    def __init__(
        self,
        runtime: Runtime,
        settings: Settings,
        *,
        slots: tuple[WorkerSlot, ...],
        holder: str,
        storage: Storage | None = None,
        resign: Callable[[], None] = lambda: os._exit(1),
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._settings = settings
        self._holder = holder
        self._resign = resign
        self._clock_us = clock_us
        self._log = get_logger("genserve.scheduler")
        self._metrics = Metrics()
        self._translator = Translator(log=self._log, tracing=setup_tracing(), metrics=self._metrics)
        self._journal = Journal(
            storage or open_storage(settings.database), on_commit=self._on_commit, clock_us=clock_us
        )
        silence_s = settings.cluster.worker_timeout_s
        self._fleet = Fleet(slots, record=self._record, silence_s=silence_s, on_loss=self._check_custody)
        self._pool = RequestPool(
            runtime,
            RequestActorSettings(
                settings.artifacts, settings.checkpoints, settings.durability.progress_every_ms / 1000
            ),
            size=settings.cluster.request_actors,
            is_idle=self._is_idle,
            on_loss=self._check_custody,
        )
        self._custody = Custody(self._journal, self._fleet, self._pool, lambda: self._loop.state)
        self._dispatch = Dispatch(
            self._fleet,
            self._pool,
            lambda: self._loop.state,
            checkpoint_every=settings.durability.checkpoint_every_steps,
        )
        admission = admission_of(settings)
        planner = build_planner(settings.planner, parameters_of(settings))
        self._loop = Loop(planner, dispatcher=self._dispatch, admission=admission, fallback=stand_in)
        self._recollection = Recollection(self._journal, self._loop, self._translator)
        self._forecasts = Forecasts(self._loop)
        self._moved = asyncio.Condition()
        self._teller = Teller()
        verdicts = Verdicts(
            admission,
            state=lambda: self._loop.state,
            moved=self._moved,
            read=lambda stream: self.read_stream(stream, 0),
            clock_us=clock_us,
        )
        limit = settings.limits.max_queued
        self._intake = Intake(self._journal, live=self._live, limit=limit, verdicts=verdicts)
        self._starting: asyncio.Task[None] | None = None
        self._leads = False
        self._facts = 0
        self._watched_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[Any]] = set()

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Take the lease, recover and reconcile; returns when the first decision may be made."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def stop(self) -> None:
        """Store what waits and give up the journal; workers and request actors are the caller's to stop."""
        self._fleet.stop()
        self._pool.stop()
        self._leads = False
        if self._alarm is not None:
            self._alarm.cancel()
        for task in tuple(self._background):
            task.cancel()
        await self._journal.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._translator.close), FLUSH_S)

    async def _start(self) -> None:
        await lead(self._journal, self._holder)
        await self._recollection.restore()
        await asyncio.to_thread(keep_only, self._settings.checkpoints, self._loop.state.requests.keys())
        await self._introduce()
        known = {w.worker_id: w.incarnation for w in self._loop.state.workers.values()}
        await self._pool.start()
        await self._fleet.start(self._journal.epoch, known)
        self._dispatch.resend()
        await self._custody.check()
        self._leads = True
        await self._record(SCHEDULER_STREAM, WakeReached())
        self._soon(self._keep_lease())

    async def _introduce(self) -> None:
        facts = introduction(
            self._loop.state,
            self._loop.planner,
            epoch=self._journal.epoch,
            holder=self._holder,
            settings=self._settings,
        )
        for event in facts:
            await self._record(SCHEDULER_STREAM, event)

    async def _keep_lease(self) -> None:
        """A leader that has lost its lease, or whose journal has stopped, ends: its successor starts from the log."""
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                await self._journal.renew_lease(lease_s=LEASE_S)
            except JournalUnavailable:
                continue
            except GenServeError as error:
                self._log.error("leadership lost", code=error.code, message=error.message)
                self._resign()

    def _check_custody(self) -> None:
        if self._leads:
            self._soon(self._custody.check())

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────

    def _on_commit(self, batch: Sequence[Recorded]) -> Sequence[Unit]:
        """The journal's hook: fold, act, decide; what it returns is recorded next, before anything else."""
        asyncio.get_running_loop().call_soon(self._tell, batch, self._journal.stats.commit_us)
        if not self._leads:
            self._loop.fold(batch)
            return ()
        self._release_ended(batch)
        before = self._loop.state
        try:
            units = [Unit(stream, (event,)) for stream, event in self._loop.observe(batch, self._clock_us())]
        except InvariantBroken as error:
            self._log.error("planner refused", code=error.code, message=error.message)
            return ()
        if any(isinstance(recorded.event, WorkerLost) for recorded in batch):
            self._dispatch.stop_void(before)
        self._set_alarm()
        return units

    def _tell(self, batch: Sequence[Recorded], commit_us: int) -> None:
        self._translator.translate(batch, commit_us=commit_us)
        self._teller.note(batch)
        self._soon(self._notify())
        snapshot = self._recollection.find_due() if self._leads else None
        if snapshot is not None:
            self._soon(self._recollection.store(snapshot))

    async def _notify(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    def _release_ended(self, batch: Sequence[Recorded]) -> None:
        """Free the processes and the memory of requests that this batch ends."""
        for recorded in batch:
            if recorded.stream.startswith(REQUEST_STREAM) and isinstance(recorded.event, REQUEST_ENDS):
                request_id = recorded.stream[len(REQUEST_STREAM) :]
                request = self._loop.state.requests.get(request_id)
                self._pool.release(request_id)
                if request is not None:
                    self._fleet.forget(request_id, home="" if request.attempt else request.home)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        wake_at_us = self._loop.wake_at_us
        if wake_at_us:
            delay_s = max(0.0, (wake_at_us - self._clock_us()) / 1e6)
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self._ring, wake_at_us)

    def _ring(self, wake_at_us: int) -> None:
        self._journal.append_soon([Unit(SCHEDULER_STREAM, (WakeReached(wake_at_us),))])

    def _live(self) -> dict[str, Any]:
        """Requests that have not ended, with or without a verdict."""
        state = self._loop.state
        return {**state.requests, **state.undecided} if state.undecided else state.requests

    def _is_idle(self, request_id: str) -> bool:
        request = self._loop.state.requests.get(request_id)
        return request is None or (not request.segments and request.status is not Status.FINISHING)

    def _soon(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ── facts ────────────────────────────────────────────────────────────────────────────────────────────

    async def _record(self, stream: str, event: AnyEvent) -> None:
        """Append a fact of our own once, however long the database is away."""
        self._facts += 1
        unit = Unit(stream, (event,), producer=Producer(NAME, self._journal.epoch, self._facts))
        while True:
            try:
                await self._journal.append([unit])
            except JournalUnavailable:
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def extend(self, stream: str, version: int, events: tuple[AnyEvent, ...]) -> tuple[bool, Sequence[Recorded]]:
        """Append a request actor's facts: (whether they were appended, the stream beyond ``version``).

        They are not when the stream has grown beyond the version that the actor has seen.
        Raises GenServeError ``stale_attempt``: the log has moved on to another attempt, or the request has ended.
        """
        await self.start()
        self._refuse_stale(stream, events)
        try:
            await self._journal.append([Unit(stream, events, version)])
        except VersionConflict:
            return False, await self.read_stream(stream, version)
        return True, await self.read_stream(stream, version)

    def _refuse_stale(self, stream: str, events: tuple[AnyEvent, ...]) -> None:
        request = self._loop.state.requests.get(stream[len(REQUEST_STREAM) :])
        for event in events:
            attempt = getattr(event, "attempt", None)
            if request is None or (attempt is not None and attempt < request.attempt):
                message = f"{type(event).__name__} on {stream} is about an attempt that is over"
                raise CallerError("stale_attempt", message)

    async def read_stream(self, stream: str, after: int) -> Sequence[Recorded]:
        """A stream's events beyond a version, oldest first."""
        return await asyncio.to_thread(self._journal.reader.read_stream, stream, after)

    # ── clients ──────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, submission: Submission) -> tuple[str, ...]:
        """See Intake."""
        await self.start()
        return await self._intake.submit(submission)

    async def cancel(self, request_id: str, reason: str) -> None:
        """See Intake."""
        await self.start()
        await self._intake.cancel(request_id, reason)

    async def delete(self, request_id: str) -> None:
        """See Intake."""
        await self.start()
        await self._intake.delete(request_id)

    async def changes(self, after: int, timeout_s: float) -> News:
        """Which streams have grown, as soon as the log is beyond ``after`` or the time is up."""
        await self.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(timeout_s, MAX_WAIT_S)), self._moved:
                await self._moved.wait_for(lambda: self._teller.position > after)
        return self._teller.since(after)

    async def forecast(self, request_id: str) -> Forecast | None:
        """The planner's own projection for a live request."""
        await self.start()
        return await self._forecasts.find(request_id, self._clock_us())

    async def health(self) -> Health:
        """Ready means: leads, the database answers, and at least one worker has joined."""
        state = self._loop.state
        is_ready = self._leads and self._journal.is_available and bool(self._fleet.alive)
        details = {
            "position": self._journal.position,
            "epoch": self._journal.epoch,
            "planner": self._loop.planner.name,
            "live_requests": len(state.requests),
            "workers": {w.worker_id: w.device for w in state.workers.values()},
        }
        scheduler = "leading" if self._leads else "recovering"
        return Health(is_ready, scheduler, len(self._fleet.alive), details)

    async def watch(self) -> None:
        """From the server that started this cell, again and again."""
        self._watched_s = time.monotonic()

    async def unwatched_s(self) -> float:
        """How long no server has been seen."""
        return time.monotonic() - self._watched_s

    async def metrics(self) -> bytes:
        return self._metrics.render()
