"""A Gateway in memory: the same promises, a made-up GPU; tests drive it by hand, or let it run by itself."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.ids import request_stream
from genserve.domain.request import Artifact, Media, RequestSpec, Stage, Status
from genserve.errors import CallerError, GenServeError, RefusedByPolicy
from genserve.scheduling.gateway import Forecast, Health, RequestRow, Submission

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg", "mp4": "video/mp4"}
FINAL = (e.RequestCompleted, e.RequestCancelled, e.RequestFailed)


class FakeClock:
    """Microseconds that stand still until moved; 2027-01-15T08:00:00Z at first."""

    def __init__(self) -> None:
        self.now_us = 1_800_000_000_000_000

    def __call__(self) -> int:
        return self.now_us


class FakeGateway:
    """``runs_by_itself``: submitted requests complete on their own, a step per turn of the event loop."""

    def __init__(self, clock: FakeClock, *, runs_by_itself: bool = True, max_queued: int = 1000) -> None:
        self.clock = clock
        self.runs_by_itself = runs_by_itself
        self.max_queued = max_queued
        self.step_s = 0.0
        self.outage: GenServeError | None = None
        self.forecasts: dict[str, Forecast] = {}
        self.rows: dict[str, RequestRow] = {}
        self.log: list[e.Recorded] = []
        self.keys: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
        self.files: dict[str, bytes] = {}
        self.cancels: list[tuple[str, str]] = []
        self.followers = 0
        self.is_healthy = True
        self._changed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    # ── the Gateway protocol ──────────────────────────────────────────────────────────────────────────────

    async def submit(self, submission: Submission) -> tuple[str, ...]:
        await self._reach()
        key = (submission.tenant, submission.idempotency_key)
        if submission.idempotency_key and key in self.keys:
            body_hash, ids = self.keys[key]
            if body_hash != submission.body_hash:
                raise CallerError("idempotency_conflict", "use a new key", "Idempotency-Key")
            return ids
        live = sum(not Status(row.status).is_final for row in self.rows.values())
        if live + len(submission.requests) > self.max_queued:
            raise RefusedByPolicy("queue_full", "the queue is full; try again later", None, 7.0)
        ids = tuple(spec.request_id for spec in submission.requests)
        for spec in submission.requests:
            self.rows[spec.request_id] = RequestRow(spec.request_id, spec, "waiting", 0, self.clock.now_us)
            self.record(spec.request_id, e.RequestSubmitted(spec))
            if self.runs_by_itself:
                self._spawn(spec)
        if submission.idempotency_key:
            self.keys[key] = (submission.body_hash, ids)
        return ids

    async def cancel(self, request_id: str, reason: str) -> None:
        await self._reach()
        self.cancels.append((request_id, reason))
        if not Status(self.rows[request_id].status).is_final:
            self.record(request_id, e.CancelRequested(reason))
            self.record(request_id, e.RequestCancelled(reason), status="cancelled", finished_us=self.clock.now_us)

    async def hide(self, request_id: str) -> None:
        await self._reach()
        self.rows[request_id] = replace(self.rows[request_id], deleted=True)

    async def find_request(self, request_id: str) -> RequestRow | None:
        await self._reach()
        return self.rows.get(request_id)

    async def list_requests(
        self, *, media: str, tenant: str, after: str, limit: int, newest_first: bool
    ) -> list[RequestRow]:
        await self._reach()
        ids = sorted(self.rows, reverse=newest_first)
        if after:
            ids = [i for i in ids if (i < after if newest_first else i > after)]
        rows = [self.rows[i] for i in ids if not self.rows[i].deleted]
        return [r for r in rows if media in ("", r.spec.media) and tenant in ("", r.spec.tenant)][:limit]

    async def follow(self, request_id: str, *, after: int) -> AsyncGenerator[e.Recorded, None]:
        self._count_followers(+1)
        try:
            while True:
                await self._reach()
                changed = self._changed
                for recorded in self.log[after:]:
                    after = recorded.position
                    if recorded.stream == request_stream(request_id):
                        yield recorded
                        if isinstance(recorded.event, FINAL):
                            return
                if Status(self.rows[request_id].status).is_final:
                    return
                await changed.wait()
        finally:
            self._count_followers(-1)

    async def forecast(self, request_id: str) -> Forecast | None:
        await self._reach()
        return self.forecasts.get(request_id)

    async def read_artifact(self, artifact: Artifact) -> bytes:
        return self.files[artifact.uri]

    async def health(self) -> Health:
        await self._reach()
        return Health(self.is_healthy, "ready" if self.is_healthy else "lost", 2 if self.is_healthy else 0)

    async def metrics(self) -> bytes:
        return b"# TYPE genserve_requests_running gauge\ngenserve_requests_running 0\n"

    # ── what tests do to it ───────────────────────────────────────────────────────────────────────────────

    @property
    def specs(self) -> list[RequestSpec]:
        return [row.spec for row in self.rows.values()]

    def record(self, request_id: str, event: e.AnyEvent, **changes: Any) -> None:
        """Append a fact and change the row with it."""
        position = len(self.log) + 1
        self.log.append(e.Recorded(position, request_stream(request_id), position, self.clock.now_us, event))
        self.rows[request_id] = replace(self.rows[request_id], position=position, **changes)
        self._tell()

    def start(self, request_id: str) -> None:
        event = e.StageStarted("s1", Stage.DENOISE, 0, ("w0",))
        self.record(request_id, event, status="running", started_us=self.clock.now_us)

    def step(self, request_id: str, to_step: int) -> None:
        self.record(request_id, e.StepsFinished("s1", 0, self.rows[request_id].step, to_step, 1), step=to_step)

    def store(self, request_id: str, kind: str, media_type: str, index: int = 0) -> None:
        uri = f"/secret/disk/{request_id}/{kind}-{index}"
        content = self.files[uri] = f"{kind} {index} of {request_id}".encode()
        artifact = Artifact(kind, uri, media_type, len(content), hashlib.sha256(content).hexdigest())
        event = e.ArtifactStored(artifact, index)
        self.record(request_id, event, artifacts=(*self.rows[request_id].artifacts, artifact))

    def complete(self, request_id: str) -> None:
        spec = self.rows[request_id].spec
        self.step(request_id, spec.steps)
        self.store(request_id, spec.media.value, MEDIA_TYPES[spec.output_format])
        if spec.media is Media.VIDEO:
            self.store(request_id, "thumbnail", "image/webp")
            self.store(request_id, "spritesheet", "image/jpeg")
        self.record(request_id, e.RequestCompleted(0), status="completed", finished_us=self.clock.now_us)

    def fail(self, request_id: str, code: str = "out_of_memory", message: str = "no room on w0") -> None:
        failed = e.RequestFailed(code, message)
        changes = {"status": "failed", "error_code": code, "error_message": message}
        self.record(request_id, failed, finished_us=self.clock.now_us, **changes)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a fact or a follower that makes it so."""
        async with asyncio.timeout(5):
            while not condition():
                await self._changed.wait()

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _count_followers(self, change: int) -> None:
        self.followers += change
        self._tell()

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.outage is not None:
            raise self.outage

    def _spawn(self, spec: RequestSpec) -> None:
        task = asyncio.get_running_loop().create_task(self._run(spec))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, spec: RequestSpec) -> None:
        self.start(spec.request_id)
        for step in range(1, spec.steps + 1):
            await asyncio.sleep(self.step_s)
            if Status(self.rows[spec.request_id].status).is_final:
                return
            self.step(spec.request_id, step)
            if step in spec.preview_steps:
                self.store(spec.request_id, "partial", "image/png", spec.preview_steps.index(step))
        self.complete(spec.request_id)
