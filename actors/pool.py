"""The warm pool of request actors: taking one is a message, not a process start; not what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.framework.runtime import Runtime, UnreachableError
from actors.request import RequestActor, RequestActorSettings


class RequestPool:
    """Slots are named ``request-0``, ``request-1``, ...; each is a process that outlives the requests it serves.

    ``is_idle`` tells whether a request needs no process now (it waits, is paused or has ended): its slot may be
    taken for another. When every slot is busy the pool grows.
    """

    def __init__(
        self, runtime: Runtime, settings: RequestActorSettings, *, size: int, is_idle: Callable[[str], bool]
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._size = size
        self._is_idle = is_idle
        self._slots: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> set[str]:
        """Start the processes, or find them running; the ids of requests they are serving."""
        await asyncio.gather(*(self._spawn(self._name(i)) for i in range(self._size)))
        for name in list(self._slots):
            try:
                serving = await self._runtime.find(name).ask("serving")
            except UnreachableError:
                continue
            self._slots[name] = next(iter(serving), "")
        return {request_id for request_id in self._slots.values() if request_id}

    def assign(self, request_id: str) -> str:
        """The name of the actor in charge of this request from now on; returns at once."""
        for name, held in self._slots.items():
            if held == request_id:
                return name
        name = self._find_slot()
        previous = self._slots.get(name, "")
        self._slots[name] = request_id
        self._soon(self._hand_over(name, previous, request_id))
        return name

    def release(self, request_id: str) -> None:
        """The request has ended: its process is free."""
        for name, held in self._slots.items():
            if held == request_id:
                self._slots[name] = ""
                self._soon(self._hand_over(name, request_id, ""))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._slots)

    def _find_slot(self) -> str:
        free = next((n for n, held in self._slots.items() if not held), None)
        idle = next((n for n, held in self._slots.items() if held and self._is_idle(held)), None)
        return free or idle or self._name(len(self._slots))

    async def _hand_over(self, name: str, previous: str, request_id: str) -> None:
        """Tell a process about its old and new charge; it would find out by itself, only later."""
        if name not in self._slots or (not previous and request_id):
            await self._spawn(name)
        try:
            if request_id:
                await self._runtime.find(name).ask("activate", request_id)
            if previous:
                await self._runtime.find(name).ask("release", previous)
        except UnreachableError:
            return

    async def _spawn(self, name: str) -> None:
        await self._runtime.spawn(name, RequestActor, self._settings)
        self._slots.setdefault(name, "")

    def _soon(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _name(self, index: int) -> str:
        return f"request-{index}"
