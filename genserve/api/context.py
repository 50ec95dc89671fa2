"""What every route needs, and who is calling; not configuration (see genserve.config)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from genserve.api.limits import StreamSlots
from genserve.config import Settings
from genserve.diffusion.catalog import Catalog
from genserve.scheduling.gateway import Gateway

T = TypeVar("T")

Clock = Callable[[], int]
"""Microseconds since the epoch."""


@dataclass(frozen=True)
class Api:
    """The collaborators of one app. ``heartbeat_s`` is how long an event stream may be silent."""

    gateway: Gateway
    catalog: Catalog
    settings: Settings
    clock: Clock
    heartbeat_s: float
    started_us: int
    streams: StreamSlots
    _writes: set[asyncio.Task[Any]] = field(default_factory=set)

    async def write(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a gateway call that must not be torn by the caller going away.

        Ray Serve cancels a handler with its client, and the cancel cascades: to what the handler awaits, hence the
        shield, and to the Ray calls made on its behalf, which Ray tells by a context variable, hence the empty context.
        """
        task = asyncio.get_running_loop().create_task(call, context=Context())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)


def api_of(request: Request) -> Api:
    """The collaborators that create_app hung on the app."""
    api: Api = request.app.state.api
    return api


ApiContext = Annotated[Api, Depends(api_of)]
