"""Where the writer's storage calls run: a thread of their own, or inline for storages that never block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Inline:
    """Calls at once on the event loop: deterministic, for memory storage."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    def start(self, function: Callable[[], None]) -> None:
        """Run without an answer, before whatever is run next."""
        function()

    def close(self) -> None:
        """Nothing to release."""


class Threaded:
    """Calls in one thread, in order, so that the storage sees one caller at a time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    def start(self, function: Callable[[], None]) -> None:
        """Run without an answer, before whatever is run next."""
        self._executor.submit(function)

    def close(self) -> None:
        self._executor.shutdown()


def driver_for(is_blocking: bool) -> Inline | Threaded:
    return Threaded() if is_blocking else Inline()
