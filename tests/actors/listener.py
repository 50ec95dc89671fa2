"""A request actor's stand-in: remembers reports, and refuses or dies when a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from actors.framework.runtime import Runtime
from genserve.scheduling import protocol as p


class Listener:
    """``errors`` are raised one per delivery before anything is taken in; ``gates`` hold up deliveries by content."""

    def __init__(self, runtime: Runtime | None = None) -> None:
        self.deliveries: list[tuple[p.AnyReport, ...]] = []
        self.errors: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.gates: dict[type[p.Report], asyncio.Event] = {}
        self._arrived = asyncio.Condition()

    async def report(self, request_id: str, reports: Sequence[p.AnyReport]) -> None:
        await self.gate.wait()
        for kind in {type(report) for report in reports} & self.gates.keys():
            await self.gates[kind].wait()
        if self.errors:
            raise self.errors.pop(0)
        self.deliveries.append(tuple(reports))
        async with self._arrived:
            self._arrived.notify_all()

    @property
    def reports(self) -> list[p.AnyReport]:
        return [report for delivery in self.deliveries for report in delivery]

    def of(self, kind: type[p.Report]) -> list[Any]:
        return [report for report in self.reports if isinstance(report, kind)]

    async def until(self, is_enough: Callable[[Listener], bool]) -> None:
        async with asyncio.timeout(100), self._arrived:
            await self._arrived.wait_for(lambda: is_enough(self))

    async def hear(self, kind: type[p.Report], count: int = 1) -> Any:
        """The ``count``-th report of that kind."""
        await self.until(lambda heard: len(heard.of(kind)) >= count)
        return self.of(kind)[count - 1]
