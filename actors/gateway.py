"""The Gateway of the HTTP surface: writes go to the scheduler actor, reads to the log's read models; not HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextvars import Context
from pathlib import Path
from typing import Any

from actors.framework.runtime import Ref, UnreachableError
from actors.news import Listener, News
from genserve.domain.events import REQUEST_ENDS, Recorded
from genserve.domain.ids import request_stream
from genserve.domain.request import Artifact
from genserve.errors import CallerError, GenServeError, Unavailable
from genserve.journal.contract import Reader
from genserve.journal.views import ArtifactRow
from genserve.journal.views import RequestRow as StoredRow
from genserve.scheduling.gateway import Forecast, Health, RequestRow, Submission

WAIT_S = 10.0
RETRY_S = 0.3


class ClusterGateway:
    """Any replica answers for any request: nothing is kept here but a cursor.

    A write is repeated once when the scheduler dies under it: submissions and cancels are idempotent.
    """

    def __init__(self, scheduler: Ref, reader: Reader) -> None:
        self._scheduler = scheduler
        self._reader = reader
        self._moves = _Moves(scheduler)

    # ── writes ───────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, submission: Submission) -> tuple[str, ...]:
        ids: tuple[str, ...] = await self._ask_twice("submit", submission)
        return ids

    async def cancel(self, request_id: str, reason: str) -> None:
        await self._ask_twice("cancel", request_id, reason)

    async def hide(self, request_id: str) -> None:
        await self._ask_twice("delete", request_id)

    # ── reads ────────────────────────────────────────────────────────────────────────────────────────────

    async def find_request(self, request_id: str) -> RequestRow | None:
        return await asyncio.to_thread(self._find, request_id)

    async def list_requests(
        self, *, media: str, tenant: str, after: str, limit: int, newest_first: bool
    ) -> list[RequestRow]:
        order = "desc" if newest_first else "asc"
        rows = await asyncio.to_thread(self._reader.list_requests, media, tenant, after, limit, order)
        return [_public(row, ()) for row in rows]

    async def follow(self, request_id: str, *, after: int) -> AsyncGenerator[Recorded, None]:
        """Reads from its own cursor; the scheduler's word that the stream has grown is only a hint."""
        version, stream = 0, request_stream(request_id)
        while True:
            seen = self._moves.position
            for recorded in await self._read_stream(request_id, version):
                version = recorded.version
                if recorded.position > after:
                    yield recorded
                if isinstance(recorded.event, REQUEST_ENDS):
                    return
            await self._moves.wait_for(stream, seen)

    async def forecast(self, request_id: str) -> Forecast | None:
        forecast: Forecast | None = await self._ask("forecast", request_id)
        return forecast

    async def read_artifact(self, artifact: Artifact) -> bytes:
        """Raises CallerError ``artifact_not_found`` when the file is gone."""
        try:
            return await asyncio.to_thread(Path(artifact.uri).read_bytes)
        except OSError as error:
            raise CallerError("artifact_not_found", f"the stored {artifact.kind} is gone") from error

    async def health(self) -> Health:
        try:
            async with asyncio.timeout(2.0):
                health: Health = await self._ask("health")
        except (Unavailable, TimeoutError):
            return Health(False, "unreachable", 0)
        return health

    async def metrics(self) -> bytes:
        rendered: bytes = await self._ask("metrics")
        return rendered

    def _find(self, request_id: str) -> RequestRow | None:
        row = self._reader.find_request(request_id)
        return None if row is None else _public(row, self._reader.list_artifacts(request_id))

    async def _read_stream(self, request_id: str, version: int) -> list[Recorded]:
        with contextlib.suppress(Unavailable):
            return await asyncio.to_thread(self._reader.read_stream, request_stream(request_id), version)
        return []

    async def _ask(self, method: str, *args: Any) -> Any:
        try:
            return await asyncio.shield(self._scheduler.ask(method, *args))
        except UnreachableError as error:
            raise Unavailable("scheduler_unavailable", "the scheduler is restarting", None, 2.0) from error

    async def _ask_twice(self, method: str, *args: Any) -> Any:
        try:
            return await self._ask(method, *args)
        except Unavailable as away:
            if away.code != "scheduler_unavailable":
                raise
        await asyncio.sleep(RETRY_S)
        return await self._ask(method, *args)


class _Moves:
    """One long poll to the scheduler wakes everybody here whose stream has grown."""

    def __init__(self, scheduler: Ref) -> None:
        self._scheduler = scheduler
        self._listener = Listener()
        self._polling: asyncio.Task[bool] | None = None

    @property
    def position(self) -> int:
        return self._listener.position

    async def wait_for(self, stream: str, since: int) -> None:
        """Returns when the stream has probably grown; sooner or later in any case."""
        while not self._listener.has_grown(stream, since):
            if self._polling is None or self._polling.done():
                # one poll serves many clients: in an empty context Ray doesn't cancel it with the one that began it
                self._polling = asyncio.create_task(self._poll(), context=Context())
            polling = self._polling
            await asyncio.wait({polling})
            if not polling.result():
                return

    async def _poll(self) -> bool:
        """Whether there was news; without, everybody had better look for themselves."""
        try:
            news: News = await self._scheduler.ask("changes", self.position, WAIT_S)
        except (UnreachableError, GenServeError):
            await asyncio.sleep(RETRY_S)
            return False
        has_news = news.position > self.position
        self._listener.hear(news)
        return has_news


def _public(row: StoredRow, artifacts: tuple[ArtifactRow, ...] | list[ArtifactRow]) -> RequestRow:
    return RequestRow(
        request_id=row.request_id,
        spec=row.request,
        status=row.status,
        step=row.steps_done,
        submitted_us=row.arrival_us,
        started_us=row.started_us,
        finished_us=row.finished_us,
        pauses=row.pauses,
        error_code=row.error_code,
        error_message=row.error_message,
        artifacts=tuple(Artifact(a.kind, a.uri, a.media_type, a.size_bytes, a.sha256) for a in artifacts),
        deleted=row.is_deleted,
        position=row.last_position,
    )
