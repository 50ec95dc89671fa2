"""Reports on their way to request actors: in order, at least once, several at a time; not their content."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf

from actors.framework.runtime import Runtime, UnreachableError
from genserve.errors import GenServeError
from genserve.scheduling.protocol import AnyReport, Began, Decoded, Ended, Preview, Snapshot, Stepped, Stopped
from genserve.scheduling.segments import LEAVING
from observability.logging import get_logger

RETRY_S = 0.2
GATHER_S = 0.25
"""How long progress waits for company, so that a message per step does not compete with the steps."""
GOING_ON_S = 0.01
"""How long a stop waits to be told together with the beginning that follows at once."""
UNHURRIED_S = 0.003
"""How long what only orders the log is put off: it would take time from a beginning that is under way."""
OWED_S = 10.0
"""How long a beginning waits for another worker to tell what comes before it; then it does not answer any more."""
CLOSING = (Ended, *LEAVING)
BULKY = (Snapshot, Preview, Decoded)
"""What is acknowledged once a file is written."""

Numbered = tuple[int, AnyReport]
Lane = tuple[str, bool]
"""A request, and whether it is its lane for bulky reports."""


class Outbox:
    """Two lanes per request, each with a sender while it has something to send. Bulky reports travel one by one, after
    everything that was reported before them; nothing waits for them.

    While a delivery is under way the next reports gather, so a slow journal makes fewer and larger messages and never
    slows a step. A delivery that finds nobody is repeated until it succeeds: only the receiver's acknowledgement,
    given after the facts are recorded, ends it, or its refusal, of a request that nobody submitted. Progress is
    acknowledged before it is recorded, so the latest one is told again with every delivery until its segment ends: an
    actor that died with it costs the log nothing.

    Between requests one order matters: a segment's beginning is not told before the ends of the segments that ran
    before it are in the log, so that the log never shows two segments on one GPU.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._count = 0
        self._lanes: dict[Lane, deque[Numbered]] = {}
        self._senders: dict[Lane, asyncio.Task[None]] = {}
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
        lane = report.request_id, isinstance(report, BULKY)
        self._lanes.setdefault(lane, deque()).append((self._count, report))
        if not isinstance(report, Stepped):
            self._news.setdefault(report.request_id, asyncio.Event()).set()
        if lane not in self._senders:
            self._senders[lane] = asyncio.create_task(self._send(actor, lane))

    def segments(self) -> tuple[str, ...]:
        """Segments with reports that nobody has acknowledged yet."""
        return tuple(dict.fromkeys(r.segment_id for queue in self._lanes.values() for _, r in queue))

    def requests(self) -> tuple[str, ...]:
        """Requests with reports that nobody has acknowledged yet."""
        return tuple(dict.fromkeys(request_id for request_id, _ in self._lanes))

    def owe(self, ask: Callable[[], Awaitable[object]]) -> None:
        """What begins from now on is not told before ``ask`` is answered, which is not called at once: another worker's
        ends come first in the log.
        """
        self._count += 1
        self._ends_untold[self._count] = ""
        task = asyncio.create_task(self._wait_for_other(self._count, ask))
        self._owed.add(task)
        task.add_done_callback(self._owed.discard)

    async def drained(self) -> None:
        """Until every end posted so far has been told."""
        last = self._count
        while any(number <= last for number in self._ends_untold):
            self._told.clear()
            await self._told.wait()

    async def _wait_for_other(self, number: int, ask: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(UNHURRIED_S)
        with contextlib.suppress(UnreachableError, TimeoutError):
            await asyncio.wait_for(ask(), OWED_S)
        self._ends_untold.pop(number, None)
        self._told.set()

    async def _send(self, actor: str, lane: Lane) -> None:
        request_id, is_bulky = lane
        queue = self._lanes[lane]
        while queue:
            await (self._wait_for_others(request_id, queue[0][0]) if is_bulky else self._gather(request_id))
            await self._wait_for_turn(*queue[0])
            batch = (queue[0],) if is_bulky else self._ready(queue)
            progress = () if is_bulky else self._progress_of(request_id)
            try:
                await self._runtime.find(actor).ask("report", request_id, (*progress, *(r for _, r in batch)))
            except UnreachableError:
                await asyncio.sleep(RETRY_S)
                continue
            except GenServeError as error:
                get_logger("genserve.worker").warning(
                    "reports refused", request_id=request_id, code=error.code, message=error.message
                )
            self._settle(queue, batch)
        del self._lanes[lane]
        del self._senders[lane]
        if (request_id, not is_bulky) not in self._lanes:
            self._news.pop(request_id, None)

    async def _wait_for_others(self, request_id: str, number: int) -> None:
        """Until everything that the request reported before a bulky report is told."""
        while self._first(request_id, is_bulky=False) < number:
            self._told.clear()
            await self._told.wait()

    def _first(self, request_id: str, *, is_bulky: bool) -> float:
        """The number of a lane's first report; infinity for an empty lane."""
        lane = self._lanes.get((request_id, is_bulky))
        return lane[0][0] if lane else inf

    async def _gather(self, request_id: str) -> None:
        """Wait a little while there is nothing to tell but progress, and nothing that has to wait for it; a stop waits
        for what goes on from it.
        """
        queue, next_bulky = self._lanes[request_id, False], self._first(request_id, is_bulky=True)
        if all(isinstance(report, Stepped) for _, report in queue) and not queue[0][0] < next_bulky < inf:
            await self._wait_for_news(request_id, GATHER_S)
        last = queue[-1][1]
        if isinstance(last, Stopped) and last.goes_on:
            await self._wait_for_news(request_id, GOING_ON_S)

    async def _wait_for_news(self, request_id: str, limit_s: float) -> None:
        """Until something is reported that is more than progress."""
        news = self._news.setdefault(request_id, asyncio.Event())
        news.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), limit_s)

    def _ready(self, queue: deque[Numbered]) -> tuple[Numbered, ...]:
        """The longest head of the queue that may be told now; at least its first report."""
        batch = [queue[0]]
        for number, report in list(queue)[1:]:
            if isinstance(report, Began) and self._is_early(number, report):
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

    def _settle(self, queue: deque[Numbered], batch: tuple[Numbered, ...]) -> None:
        for number, report in batch:
            queue.popleft()
            self._ends_untold.pop(number, None)
            if isinstance(report, Stepped):
                self._progress[report.request_id] = report
            elif isinstance(report, CLOSING):
                self._progress.pop(report.request_id, None)
        self._told.set()
