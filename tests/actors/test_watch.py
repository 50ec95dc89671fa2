"""What a server says to the person who started it."""

from __future__ import annotations

import asyncio

from actors.framework.runtime import UnreachableError
from actors.watch import watch_once
from genserve.scheduling.gateway import Health


class FakeCell:
    """Answers with what it was given, one after the other."""

    url = "http://127.0.0.1:8000"

    def __init__(self, *healths: Health | Exception) -> None:
        self._healths = list(healths)

    async def watch(self) -> Health:
        health = self._healths.pop(0)
        if isinstance(health, Exception):
            raise health
        return health


def said(*healths: Health | Exception) -> list[str]:
    lines: list[str] = []

    async def main() -> None:
        cell = FakeCell(*healths)
        is_ready: bool | None = None
        for _ in healths:
            is_ready = await watch_once(cell, lines.append, is_ready)

    asyncio.run(main())
    return [line.split(";")[0] for line in lines]


def test_it_is_called_ready_once_requests_can_run_and_no_sooner() -> None:
    waits, runs = Health(False, "leading", 0), Health(True, "leading", 2)
    assert said(waits, waits, runs, runs) == [
        "not ready: scheduler leading, 0 workers",
        "ready: http://127.0.0.1:8000",
    ]


def test_it_says_so_when_it_stops_being_ready_and_is_ready_again() -> None:
    runs, waits = Health(True, "leading", 1), Health(False, "recovering", 0)
    gone = UnreachableError("gone")
    assert said(runs, waits, gone, runs) == [
        "ready: http://127.0.0.1:8000",
        "not ready: scheduler recovering, 0 workers",
        "scheduler: gone",
        "ready: http://127.0.0.1:8000",
    ]
