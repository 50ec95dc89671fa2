"""The warm pool of request actors: taking one is a message, not a process start; not what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from actors.framework.runtime import Runtime, UnreachableError
from actors.request import RequestActor, RequestActorSettings
from genserve.scheduling.files import remove_folder

RETRY_S = 0.2


class RequestPool:
    """Slots are named ``request-0``, ``request-1``, ...; each is a process that outlives the requests it serves.

    ``is_idle`` tells whether a request needs no process now (it waits, is paused or has ended): its slot may be
    taken for another. When every slot is busy the pool grows. ``on_loss`` is called when a process that died is back.
    """

    def __init__(
        self,
        runtime: Runtime,
        settings: RequestActorSettings,
        *,
        size: int,
        is_idle: Callable[[str], bool],
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._size = size
        self._is_idle = is_idle
        self._on_loss = on_loss
        self._slots: dict[str, str] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._slots)

    async def start(self) -> None:
        """Start the processes, or find them running with what they serve; also those that an earlier pool grew by."""
        await asyncio.gather(*(self._spawn(self._name(i)) for i in range(self._size)))
        while await self._ask(self._name(len(self._slots)), "serving") is not None:
            await self._spawn(self._name(len(self._slots)))
        for name in self.names:
            busy = (r for r in await self._ask(name, "serving") or () if not self._is_idle(r))
            self._slots[name] = next(busy, "")

    def stop(self) -> None:
        for task in (*self._watchers.values(), *self._tasks):
            task.cancel()

    async def holding(self) -> set[str]:
        """Requests whose results some process is storing."""
        answers = await asyncio.gather(*(self._ask(name, "holding") for name in self.names))
        return {request_id for answer in answers for request_id in answer or ()}

    def assign(self, request_id: str) -> str:
        """The name of the actor in charge of this request from now on; returns at once."""
        name = self._find_holder(request_id)
        if name is None:
            name = self._find_slot()
            self._slots[name] = request_id
            self._soon(self._activate(name, request_id))
        return name

    def release(self, request_id: str) -> None:
        """The request has ended: its process is free; without one nobody else removes its checkpoints."""
        name = self._find_holder(request_id)
        if name is None:
            self._soon(asyncio.to_thread(remove_folder, self._settings.checkpoints / request_id))
        else:
            self._slots[name] = ""
            self._soon(self._ask(name, "release", request_id))

    def _find_holder(self, request_id: str) -> str | None:
        return next((name for name, held in self._slots.items() if held == request_id), None)

    def _find_slot(self) -> str:
        free = next((n for n, held in self._slots.items() if not held), None)
        idle = next((n for n, held in self._slots.items() if held and self._is_idle(held)), None)
        return free or idle or self._name(len(self._slots))

    async def _activate(self, name: str, request_id: str) -> None:
        """Tell a process about its new charge; it would find out by itself, only later."""
        if name not in self._watchers:
            await self._spawn(name)
        await self._ask(name, "activate", request_id)

    async def _spawn(self, name: str) -> None:
        self._slots.setdefault(name, "")
        await self._runtime.spawn(name, RequestActor, self._settings)
        if name not in self._watchers:
            self._watchers[name] = asyncio.create_task(self._watch(name))

    async def _watch(self, name: str) -> None:
        """A call that never returns breaks when the process dies; whoever died before its successor was asked for its
        birth is noticed with it.
        """
        born = await self._find_birth(name)
        while True:
            await self._ask(name, "attend", born)
            born = await self._find_birth(name)
            self._on_loss()

    async def _find_birth(self, name: str) -> Any:
        while True:
            born = await self._ask(name, "born")
            if born is not None:
                return born
            await asyncio.sleep(RETRY_S)

    async def _ask(self, name: str, method: str, *arguments: object) -> Any:
        """None from a process that cannot be reached: whatever it should know is in the log."""
        try:
            return await self._runtime.find(name).ask(method, *arguments)
        except UnreachableError:
            return None

    def _soon(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _name(self, index: int) -> str:
        return f"request-{index}"
