"""Actors as plain objects on one event loop, for tests; every method call is a task of its own, as on Ray."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from actors.framework.runtime import Ref, UnreachableError


class LocalRuntime:
    """Keeps actors in a dictionary. ``crash`` drops one together with its memory and its running calls."""

    def __init__(self) -> None:
        self._actors: dict[str, Any] = {}
        self._makers: dict[str, Callable[[], Any]] = {}
        self._calls: dict[str, set[asyncio.Task[Any]]] = {}

    async def spawn(self, name: str, factory: Callable[..., Any], *args: Any, gpus: float = 0, threads: int = 0) -> Ref:
        if name not in self._actors:
            self._makers[name] = lambda: factory(self, *args)
            self._actors[name] = self._makers[name]()
        return LocalRef(self, name)

    def find(self, name: str) -> Ref:
        return LocalRef(self, name)

    async def kill(self, name: str) -> None:
        self._drop(name)
        self._makers.pop(name, None)

    def crash(self, name: str, *, restart: bool = True) -> None:
        """What SIGKILL does: memory and running calls are gone; a supervised actor comes back empty."""
        self._drop(name)
        if restart:
            self._actors[name] = self._makers[name]()

    def _drop(self, name: str) -> None:
        self._actors.pop(name, None)
        for call in self._calls.pop(name, set()):
            call.cancel()

    async def _ask(self, name: str, method: str, args: tuple[Any, ...]) -> Any:
        actor = self._actors.get(name)
        if actor is None:
            raise UnreachableError(f"no actor is called {name!r}")
        call = asyncio.ensure_future(_run(getattr(actor, method), args))
        self._calls.setdefault(name, set()).add(call)
        try:
            await asyncio.wait({call})
        finally:
            self._calls.get(name, set()).discard(call)
        if call.cancelled():
            raise UnreachableError(f"{name} died during {method}")
        return call.result()


class LocalRef:
    """Address of an actor in a LocalRuntime."""

    def __init__(self, runtime: LocalRuntime, name: str) -> None:
        self._runtime = runtime
        self.name = name

    async def ask(self, method: str, *args: Any) -> Any:
        return await self._runtime._ask(self.name, method, args)


async def _run(method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    result = method(*args)
    return await result if inspect.isawaitable(result) else result
