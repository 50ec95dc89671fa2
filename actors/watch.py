"""What a server says about itself to the person who started it; not how it is watched over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from actors.framework.runtime import UnreachableError
from genserve.scheduling.gateway import Health

Say = Callable[[str], None]


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
