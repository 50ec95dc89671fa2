"""Reports on their way to request actors: in order per request, at least once, several at a time; not their content."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable

from actors.framework.runtime import Runtime, UnreachableError
from genserve.errors import GenServeError
from genserve.scheduling.protocol import AnyReport, Began, Decoded, Ended, Stepped
from genserve.scheduling.segments import LEAVING
from observability.logging import get_logger

RETRY_S = 0.2
GATHER_S = 0.25
"""How long progress waits for company, so that a message per step does not compete with the steps."""
OWED_S = 10.0
"""How long a beginning waits for another worker to tell what comes before it; then it does not answer any more."""
CLOSING = (Ended, *LEAVING)


class Outbox:
    """One sender per request while it has something to send.

    While a delivery is under way the next reports gather, so a slow journal makes fewer and larger messages and never
    slows a step. A delivery that finds nobody is repeated until it succeeds: only the receiver's acknowledgement,
    given after the facts are recorded, ends it, or its refusal, of a request that nobody submitted. Progress is
    acknowledged before it is recorded, so the latest one is told again with every delivery until its segment ends: an
    actor that died with it costs the log nothing.

    Between requests one order matters: a segment's beginning is not told before the ends of the segments that ran
    before it are in the log, so that the log never shows two segments on one GPU. A result, which is large and is
    acknowledged once it is stored, travels alone: nobody waits for it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._count = 0
        self._waiting: dict[str, deque[tuple[int, AnyReport]]] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._ends_untold: dict[int, str] = {}
        self._progress: dict[str, Stepped] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._owed: set[asyncio.Task[None]] = set()
        self._told = asyncio.Event()

    def post(self, actor: str, report: AnyReport) -> None:
        """Queue a report; returns at once."""
        self._count += 1
        if isinstance(report, CLOSING):
            self._ends_untold[self._count] = report.request_id
        self._waiting.setdefault(report.request_id, deque()).append((self._count, report))
        news = self._news.setdefault(report.request_id, asyncio.Event())
        if not isinstance(report, Stepped):
            news.set()
        if report.request_id not in self._senders:
            self._senders[report.request_id] = asyncio.create_task(self._send(actor, report.request_id))

    def segments(self) -> tuple[str, ...]:
        """Segments with reports that nobody has acknowledged yet."""
        return tuple(dict.fromkeys(r.segment_id for queue in self._waiting.values() for _, r in queue))

    def requests(self) -> tuple[str, ...]:
        """Requests with reports that nobody has acknowledged yet."""
        return tuple(self._waiting)

    def owe(self, told: Awaitable[object]) -> None:
        """What begins from now on is not told before ``told``: another worker's ends that come first in the log."""
        self._count += 1
        self._ends_untold[self._count] = ""
        task = asyncio.create_task(self._wait_for_other(self._count, told))
        self._owed.add(task)
        task.add_done_callback(self._owed.discard)

    async def drained(self) -> None:
        """Until every end posted so far has been told."""
        last = self._count
        while any(number <= last for number in self._ends_untold):
            self._told.clear()
            await self._told.wait()

    async def _wait_for_other(self, number: int, told: Awaitable[object]) -> None:
        with contextlib.suppress(UnreachableError, TimeoutError):
            await asyncio.wait_for(told, OWED_S)
        self._ends_untold.pop(number, None)
        self._told.set()

    async def _send(self, actor: str, request_id: str) -> None:
        queue = self._waiting[request_id]
        while queue:
            await self._gather(request_id)
            await self._wait_for_turn(*queue[0])
            batch = self._ready(queue)
            reports = (*self._progress_of(request_id), *(report for _, report in batch))
            try:
                await self._runtime.find(actor).ask("report", request_id, reports)
            except UnreachableError:
                await asyncio.sleep(RETRY_S)
                continue
            except GenServeError as error:
                get_logger("genserve.worker").warning(
                    "reports refused", request_id=request_id, code=error.code, message=error.message
                )
            self._settle(queue, batch)
        del self._waiting[request_id]
        del self._senders[request_id]
        del self._news[request_id]

    async def _gather(self, request_id: str) -> None:
        """Wait a little while there is nothing to tell but progress."""
        news = self._news[request_id]
        if all(isinstance(report, Stepped) for _, report in self._waiting[request_id]):
            news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), GATHER_S)

    def _ready(self, queue: deque[tuple[int, AnyReport]]) -> tuple[tuple[int, AnyReport], ...]:
        """The longest head of the queue that may be told now; at least its first report."""
        batch = [queue[0]]
        for number, report in list(queue)[1:]:
            is_heavy = isinstance(report, Decoded) or isinstance(queue[0][1], Decoded)
            if is_heavy or (isinstance(report, Began) and self._is_early(number, report)):
                break
            batch.append((number, report))
        return tuple(batch)

    async def _wait_for_turn(self, number: int, report: AnyReport) -> None:
        """Until every earlier segment's end has been told, if this is a beginning."""
        while isinstance(report, Began) and self._is_early(number, report):
            self._told.clear()
            await self._told.wait()

    def _is_early(self, number: int, began: Began) -> bool:
        """Whether another request still waits to tell the end of a segment that ran before this one."""
        return any(n < number and r != began.request_id for n, r in self._ends_untold.items())

    def _progress_of(self, request_id: str) -> tuple[Stepped, ...]:
        progress = self._progress.get(request_id)
        return () if progress is None else (progress,)

    def _settle(self, queue: deque[tuple[int, AnyReport]], batch: tuple[tuple[int, AnyReport], ...]) -> None:
        for number, report in batch:
            queue.popleft()
            self._ends_untold.pop(number, None)
            if isinstance(report, Stepped):
                self._progress[report.request_id] = report
            elif isinstance(report, CLOSING):
                self._progress.pop(report.request_id, None)
        self._told.set()
