"""Reports on their way to request actors: in order per request, at least once, several at a time; not their content."""

from __future__ import annotations

import asyncio
from collections import deque

from actors.framework.runtime import Runtime, UnreachableError
from genserve.scheduling.protocol import AnyReport

RETRY_S = 0.2


class Outbox:
    """One sender per request while it has something to send.

    While a delivery is under way the next reports gather, so a slow journal makes fewer and larger messages and never
    slows a step. A delivery that finds nobody is repeated until it succeeds: only the receiver's acknowledgement,
    given after the facts are recorded, ends it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiting: dict[str, deque[AnyReport]] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}

    def post(self, actor: str, report: AnyReport) -> None:
        """Queue a report; returns at once."""
        self._waiting.setdefault(report.request_id, deque()).append(report)
        if report.request_id not in self._senders:
            self._senders[report.request_id] = asyncio.create_task(self._send(actor, report.request_id))

    def segments(self) -> tuple[str, ...]:
        """Segments with reports that nobody has acknowledged yet."""
        return tuple(dict.fromkeys(r.segment_id for queue in self._waiting.values() for r in queue))

    async def _send(self, actor: str, request_id: str) -> None:
        queue = self._waiting[request_id]
        while queue:
            reports = tuple(queue)
            try:
                await self._runtime.find(actor).ask("report", request_id, reports)
            except UnreachableError:
                await asyncio.sleep(RETRY_S)
                continue
            for _ in reports:
                queue.popleft()
        del self._waiting[request_id]
        del self._senders[request_id]
