"""An event loop whose clock jumps: sleeping costs nothing, and what happens first does not depend on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
START_US = 1_700_000_000_000_000
PATIENCE_S = 60.0
"""Real seconds after which a thread that waits for virtual time gives up: the test has failed."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while anything runs, here or in a thread, and then jumps to the next timer."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._in_threads = 0
        self._sleepers: set[threading.Event] = set()
        self._is_ending = False
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._now_s

    def clock_us(self) -> int:
        return START_US + int(self._now_s * 1e6)

    def jump(self, seconds: float) -> None:
        self._now_s += seconds

    @property
    def is_busy_elsewhere(self) -> bool:
        return self._in_threads > 0

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        work: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        work.add_done_callback(lambda _: self.count(-1))
        return work

    def sleep_in_thread(self, seconds: float) -> None:
        """For threads of ``run_in_executor``: wait for virtual time to pass. Ends with an error when the loop does."""
        is_over = threading.Event()
        self._sleepers.add(is_over)
        self.call_soon_threadsafe(self._lay_down, seconds, is_over)
        if not is_over.wait(PATIENCE_S) or self._is_ending:
            raise RuntimeError("virtual time stands still")
        self._sleepers.discard(is_over)

    def wait_in_thread(self, event: threading.Event) -> None:
        """For threads of ``run_in_executor``: wait for something that the loop will do, while time goes on."""
        self._sleepers.add(event)
        self.call_soon_threadsafe(self.count, -1)
        event.wait(PATIENCE_S)
        self.call_soon_threadsafe(self.count, +1)
        self._sleepers.discard(event)

    def close(self) -> None:
        """End the threads that sleep and every task, also those that only now begin."""
        self._is_ending = True
        for sleeper in tuple(self._sleepers):
            sleeper.set()
        while tasks := asyncio.all_tasks(self):
            for task in tasks:
                task.cancel()
            self.run_until_complete(asyncio.wait(tasks))
        super().close()

    def _lay_down(self, seconds: float, is_over: threading.Event) -> None:
        self.count(-1)
        self.call_later(seconds, self._wake, is_over)

    def _wake(self, is_over: threading.Event) -> None:
        self.count(+1)
        is_over.set()

    def count(self, change: int) -> None:
        """So many more threads are at work."""
        self._in_threads += change


class CountedThread(ThreadPoolExecutor):
    """One thread whose work the clock waits for, also when it is submitted from another thread."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(1)
        self._loop = loop

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self._tell(+1)
        future = super().submit(work, *args, **kwargs)
        future.add_done_callback(lambda _: self._tell(-1))
        return future

    def _tell(self, change: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._loop.count, change)


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer, moves the clock to it; waits for real only while threads work."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self._loop.is_busy_elsewhere:
            return super().select(PATIENCE_S)
        self._loop.jump(timeout)
        return ready


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own in virtual time, and end everything that it has started."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
