"""Server-sent events: framing, merging with heartbeats, and a response that always cleans up; not what is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, TypeVar

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from genserve.api.limits import StreamSlot

T = TypeVar("T")

HEARTBEAT = b": still here\n\n"
OPENING = b": connected\n\n"
"""A comment and no ``retry`` field: the openai client takes a block with that field for an event without data."""


def frame(event: str, data: Any, *, event_id: int | None = None) -> bytes:
    """One event; the data is JSON, so it has no line breaks of its own."""
    head = "" if event_id is None else f"id: {event_id}\n"
    return f"{head}event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class EventStream(StreamingResponse):
    """Sends framed events; when it ends, in whatever way, its source is closed and its slot is free again."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes, None], *, slot: StreamSlot, headers: dict[str, str]) -> None:
        super().__init__(chunks, headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        self._chunks = chunks
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._slot.release()
            with anyio.CancelScope(shield=True):
                await self._chunks.aclose()


async def merge(sources: Sequence[AsyncGenerator[T, None]], *, idle_s: float) -> AsyncGenerator[T | None, None]:
    """Items of all sources as they come, and None after every ``idle_s`` of silence; closes the sources at its end."""
    waiting = {asyncio.ensure_future(_next(source)): source for source in sources}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, timeout=idle_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield None
            for task in done:
                source = waiting.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(_next(source))] = source
                yield item
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for source in sources:
            await source.aclose()


async def _next(source: AsyncGenerator[T, None]) -> T:
    return await anext(source)
