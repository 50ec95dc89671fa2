"""What a server says about itself to the person who started it; not how it is watched over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from actors.framework.ray_cluster import cell_running
from actors.framework.runtime import Ref, UnreachableError
from genserve.scheduling.gateway import Health

Say = Callable[[str], None]
WATCH_S = 0.5
ABSENT_S = 3.0
"""A server that has not looked after its cell for so long is gone."""


class Watched(Protocol):
    """A cell: its address, and its health."""

    @property
    def url(self) -> str: ...

    async def watch(self) -> Health: ...


async def watch_once(cell: Watched, say: Say, was_ready: bool | None) -> bool | None:
    """Whether requests can run; said when that changes. None while nobody knows."""
    try:
        health = await cell.watch()
    except UnreachableError as error:
        say(f"scheduler: {error}; Ray restarts it")
        return None
    if health.is_ready != was_ready:
        waits = f"not ready: scheduler {health.scheduler}, {health.workers} workers; requests are taken in and wait"
        say(f"ready: {cell.url}; try: {_curl(cell.url)}" if health.is_ready else waits)
    return health.is_ready


def _curl(url: str) -> str:
    """A line to paste into a shell."""
    body = '{"prompt": "a fox in the snow", "slo_ms": 20000, "response_format": "url"}'
    return f"curl -s {url}/v1/images/generations -H 'content-type: application/json' -d '{body}'"


async def refuse_watched(scheduler: Ref, cell: str) -> None:
    """Raises CallerError ``cell_running`` if a server looks after the scheduler that was found."""
    with contextlib.suppress(UnreachableError, TimeoutError):
        async with asyncio.timeout(2 * ABSENT_S):
            for _ in range(round(ABSENT_S / WATCH_S) + 1):
                if await scheduler.ask("unwatched_s") >= ABSENT_S:
                    return
                await asyncio.sleep(WATCH_S)
        raise cell_running(cell)
