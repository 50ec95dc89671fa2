"""Actors whose messages take time: in order from one sender to one receiver, and not in step with anybody else's."""

from __future__ import annotations

import asyncio
import random
from contextvars import Context
from typing import Any

from actors.framework.local_runtime import LocalRuntime, _life

USUAL_S = 0.002
LONG_S = 0.5
LONG_SHARE = 0.05
"""Of the messages, whose way is up to that long; the others' is usual in the mean."""


class LateRuntime(LocalRuntime):
    """What has been sent arrives, though its sender may be dead by then; an answer to the dead does not matter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._draw = random.Random(seed)
        self._arrivals: dict[tuple[int, str], float] = {}

    async def _ask(self, name: str, method: str, args: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        line = (id(_life.get()), name)
        due = self._arrivals[line] = max(self._arrivals.get(line, 0.0), loop.time() + self._way_s())
        sent = loop.create_task(self._deliver(due, name, method, args), context=Context())
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({sent})
        await asyncio.sleep(self._way_s())
        return sent.result()

    async def _deliver(self, due: float, name: str, method: str, args: tuple[Any, ...]) -> Any:
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        return await super()._ask(name, method, args)

    def _way_s(self) -> float:
        if self._draw.random() < LONG_SHARE:
            return self._draw.uniform(0, LONG_S)
        return self._draw.expovariate(1 / USUAL_S)
