"""What a server says to the person who started it."""

from __future__ import annotations

import asyncio

import pytest

from actors.framework.runtime import UnreachableError
from actors.watch import refuse_watched, watch_once
from genserve.errors import CallerError
from genserve.scheduling.gateway import Health
from tests.actors.virtual_time import VirtualLoop, run


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


class FakeScheduler:
    """Last looked after so many seconds ago, and again and again, or not any more."""

    def __init__(self, loop: VirtualLoop, silent_s: float, *, is_watched: bool) -> None:
        self._loop = loop
        self._seen_s = loop.time() - silent_s
        self._is_watched = is_watched

    async def ask(self, method: str) -> float:
        return 0.4 if self._is_watched else self._loop.time() - self._seen_s


def start_beside(silent_s: float, *, is_watched: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await refuse_watched(FakeScheduler(loop, silent_s, is_watched=is_watched), "images")

    run(main())


def test_a_start_beside_a_cell_that_a_server_looks_after_is_refused() -> None:
    with pytest.raises(CallerError, match=r"cell_running.*'images'"):
        start_beside(0.4, is_watched=True)


@pytest.mark.parametrize("silent_s", [0.0, 0.4, 100.0])
def test_what_a_killed_server_left_is_not_in_the_way(silent_s: float) -> None:
    start_beside(silent_s, is_watched=False)
