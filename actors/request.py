"""The request actor: owns one active request's life, its checkpoints and its result; it decides nothing.

It is a fold of the request's stream plus whatever progress has not been appended yet. Progress waits a little so
that a segment costs few events; every other fact is appended before its report is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from actors.framework.event_sourced import EventSourced
from actors.framework.runtime import Ref, Runtime
from genserve.domain import events as e
from genserve.domain.ids import request_stream
from genserve.domain.request import Artifact, RequestSpec
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.files import remove, remove_folder, write_durably
from genserve.scheduling.life import Life, facts_of, grow, imagine, without_superseded
from genserve.scheduling.results import encode_preview, encode_results
from observability.logging import get_logger

MAX_MESSAGE = 500
"""Characters of an error's text that go into the log."""


class RequestActorSettings(Struct, frozen=True):
    """Where things are stored, and how long progress may wait."""

    artifacts: Path
    checkpoints: Path
    progress_s: float = 0.5


class RequestActor:
    """Serves one request at a time from a warm pool; a report for any other one makes it read that stream.

    A crash loses progress that was not yet appended, at most ``progress_s`` of it; workers repeat every report that
    was not acknowledged, and repeated reports add nothing.
    """

    def __init__(self, runtime: Runtime, settings: RequestActorSettings) -> None:
        self._journal = runtime.find("scheduler")
        self._settings = settings
        self._charges: dict[str, _Charge] = {}
        self._current = ""
        self._born = time.time_ns()

    async def activate(self, request_id: str) -> None:
        """Take a request over: rebuild its life from its stream, and let go of every other one."""
        self._current = request_id
        await self._find_charge(request_id)
        for other in tuple(self._charges):
            if other != self._current:
                await self.release(other)

    async def born(self) -> int:
        """Tells this process from the one before it."""
        return self._born

    async def attend(self, born: int) -> None:
        """Never returns to whoever attends to this process; the call breaks when it dies: so that is noticed."""
        if born == self._born:
            await asyncio.Event().wait()

    async def serving(self) -> tuple[str, ...]:
        return tuple(self._charges)

    async def holding(self) -> tuple[str, ...]:
        """Requests whose results are being stored here."""
        return tuple(r for r, charge in self._charges.items() if charge.results)

    async def release(self, request_id: str) -> None:
        """Forget a request that has ended or waits; its rows know everything."""
        charge = self._charges.get(request_id)
        if charge is not None:
            await charge.part()
            self._charges.pop(request_id, None)

    async def report(self, request_id: str, reports: Sequence[p.AnyReport]) -> None:
        """Take a worker's reports in; when this returns their facts are in the log.

        Raises GenServeError ``request_not_found`` for a request that was never submitted.
        """
        charge = await self._find_charge(request_id)
        with charge.holding(reports):
            await charge.take_in(reports)
        if charge.life.has_ended:
            await self.release(request_id)

    async def _find_charge(self, request_id: str) -> _Charge:
        charge = self._charges.get(request_id)
        if charge is None:
            charge = self._charges[request_id] = _Charge(self._journal, request_id, self._settings)
        try:
            await charge.ready()
        except GenServeError:
            self._charges.pop(request_id, None)
            raise
        return charge


class _Charge:
    """One request in this actor's care. Files are written side by side, facts are appended one after the other."""

    def __init__(self, journal: Ref, request_id: str, settings: RequestActorSettings) -> None:
        self.results = 0
        self._mailbox = asyncio.Lock()
        self._stream: EventSourced[Life] = EventSourced(journal, request_stream(request_id), Life(), grow)
        self._request_id = request_id
        self._settings = settings
        self._progress: p.Stepped | None = None
        self._flushing: asyncio.Task[None] | None = None

    @property
    def life(self) -> Life:
        return self._stream.state

    @property
    def spec(self) -> RequestSpec:
        assert self.life.spec is not None, "ready() was awaited"
        return self.life.spec

    async def ready(self) -> None:
        async with self._mailbox:
            if self.life.spec is None:
                await self._stream.recover()
            if self.life.spec is None:
                raise GenServeError("request_not_found", f"{self._request_id} was never submitted")

    @contextlib.contextmanager
    def holding(self, reports: Sequence[p.AnyReport]) -> Iterator[None]:
        """Results that came with these reports are here until they are stored or given up."""
        results = sum(isinstance(report, p.Decoded) for report in reports)
        self.results += results
        try:
            yield
        finally:
            self.results -= results

    async def take_in(self, reports: Sequence[p.AnyReport]) -> None:
        """Record what reports say; those about an attempt that is over say nothing."""
        for report in without_superseded(reports):
            try:
                await self._take_in_one(report)
            except GenServeError as error:
                if error.code != "stale_attempt":
                    raise
            except Exception as error:
                await self._note_failure(report, error)

    async def _note_failure(self, report: p.AnyReport, error: Exception) -> None:
        """A full disk, frames that cannot be encoded: without its result an attempt has failed, else work goes on."""
        text = f"{type(error).__name__}: {error}"[:MAX_MESSAGE]
        get_logger("genserve.request").error("not stored", request_id=self._request_id, reason=text)
        if isinstance(report, p.Decoded):
            failed = e.AttemptFailed(report.attempt, "result_not_stored", text)
            await self._append(lambda life: [] if life.has_ended or life.attempt > failed.attempt else [failed])

    async def _take_in_one(self, report: p.AnyReport) -> None:
        match report:
            case p.Stepped():
                self._progress = report
                self._flush_later()
            case p.Snapshot():
                await self._store_checkpoint(report)
            case p.Preview():
                await self._store_preview(report)
            case p.Decoded():
                await self._store_result(report)
            case _:
                await self._record(report)

    # ── facts ────────────────────────────────────────────────────────────────────────────────────────────

    async def _record(self, report: p.AnyReport) -> None:
        await self._append(lambda life: facts_of(life, report))

    async def _append(self, decide: Callable[[Life], list[e.AnyEvent]]) -> None:
        """Append the waiting progress and then what ``decide`` makes of the life with it, together."""
        async with self._mailbox:
            await self._append_now(decide)

    async def _append_now(self, decide: Callable[[Life], list[e.AnyEvent]]) -> None:
        progress, self._progress = self._progress, None

        def facts(life: Life) -> list[e.AnyEvent]:
            first = facts_of(life, progress) if progress else []
            return first + decide(imagine(life, first))

        try:
            await self._stream.record(facts)
        except GenServeError as error:
            if progress is None or error.code != "stale_attempt":
                raise
            await self._stream.record(decide)

    async def part(self) -> None:
        """Leave nothing behind but rows: progress is appended, checkpoints of an ended request are removed."""
        await self.take_in_progress()
        async with self._mailbox:
            await self._stream.recover()
        if self.life.has_ended:
            await asyncio.to_thread(remove_folder, self._settings.checkpoints / self._request_id)

    async def flush(self) -> None:
        if self._progress is not None:
            await self._append(lambda _: [])

    def _flush_later(self) -> None:
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_after_a_while())

    async def _flush_after_a_while(self) -> None:
        await asyncio.sleep(self._settings.progress_s)
        await self.take_in_progress()

    async def take_in_progress(self) -> None:
        """Append waiting progress; that of a finished attempt is dropped."""
        try:
            await self.flush()
        except GenServeError as error:
            if error.code != "stale_attempt":
                raise

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────

    async def _store_checkpoint(self, report: p.Snapshot) -> None:
        """Latents to disk, then the fact; an older step than the stored one is not worth keeping."""
        known = self.life.checkpoint
        if _is_too_late(self.life, report):
            return
        name = f"attempt-{report.attempt}-step-{report.step}.safetensors"
        path = self._settings.checkpoints / self._request_id / name
        began_ns = time.perf_counter_ns()
        sha256 = await asyncio.to_thread(write_durably, path, report.content)
        took_us = (time.perf_counter_ns() - began_ns) // 1000
        size = len(report.content)
        fact = e.LatentsCheckpointed(report.attempt, report.step, str(path.absolute()), size, sha256, took_us)
        await self._append(lambda life: [] if _is_too_late(life, report) else [fact])
        for uri in {known.uri if known else "", fact.uri} - {self._kept, ""}:
            await asyncio.to_thread(remove, uri)

    @property
    def _kept(self) -> str:
        return self.life.checkpoint.uri if self.life.checkpoint and not self.life.has_ended else ""

    async def _store_preview(self, report: p.Preview) -> None:
        if self.life.has_ended or report.index < self.life.previews:
            return
        content, media_type = await asyncio.to_thread(encode_preview, self.spec, report.frames)
        artifact = await self._store("partial", f"partial-{report.index}", content, media_type, report.attempt)
        fact = e.ArtifactStored(artifact, report.index)
        await self._append(lambda life: [] if life.has_ended or life.previews > report.index else [fact])

    async def _store_result(self, report: p.Decoded) -> None:
        """Encode the frames, store them, then end the request: completed, or cancelled if that came first."""
        if self.life.has_ended or report.attempt < self.life.attempt:
            return
        facts: list[e.AnyEvent] = []
        for result in await asyncio.to_thread(encode_results, self.spec, report.frames):
            artifact = await self._store(result.kind, result.kind, result.content, result.media_type, report.attempt)
            facts.append(e.ArtifactStored(artifact))

        def end(life: Life) -> list[e.AnyEvent]:
            if life.has_ended:
                return []
            if life.is_cancelling:
                return [e.RequestCancelled("cancel requested before the result was stored")]
            return [*facts, e.RequestCompleted(report.attempt)]

        await self._append(end)

    async def _store(self, kind: str, name: str, content: bytes, media_type: str, attempt: int) -> Artifact:
        extension = media_type.rpartition("/")[2]
        path = self._settings.artifacts / self._request_id / f"attempt-{attempt}" / f"{name}.{extension}"
        sha256 = await asyncio.to_thread(write_durably, path, content)
        return Artifact(kind, str(path.absolute()), media_type, len(content), sha256)


def _is_too_late(life: Life, report: p.Snapshot) -> bool:
    """Whether the request has ended, or stands at a later attempt, or has a checkpoint of that step or a later one."""
    known = life.checkpoint
    return life.has_ended or report.attempt < life.attempt or (known is not None and known.step >= report.step)
