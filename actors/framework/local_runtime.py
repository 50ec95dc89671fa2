"""Actors as plain objects on one event loop, for tests; every method call is a task of its own, as on Ray.

A crash is what SIGKILL is: the object's tasks end where they stand, and nothing that survives it (a thread's last
callback) can reach anybody any more.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

from actors.framework.runtime import Ref, UnreachableError


class _Life:
    """One incarnation of an actor: the object and the tasks that were started by it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.actor: Any = None
        self.is_over = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def adopt(self, task: asyncio.Task[Any]) -> None:
        if self.is_over:
            task.cancel()
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self) -> None:
        self.is_over = True
        for task in tuple(self._tasks):
            task.cancel()

    def context(self) -> Context:
        context = copy_context()
        context.run(_life.set, self)
        return context


_life: ContextVar[_Life | None] = ContextVar("actor", default=None)


class LocalRuntime:
    """Keeps actors in a dictionary. ``crash`` drops one together with its memory, tasks and running calls."""

    node = "node-0"

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}
        self._makers: dict[str, Callable[[_Life], Any]] = {}

    async def spawn(self, name: str, factory: Callable[..., Any], *args: Any, gpus: float = 0, threads: int = 0) -> Ref:
        asyncio.get_running_loop().set_task_factory(_make_task)  # type: ignore[arg-type]
        if name not in self._lives:
            self._makers[name] = lambda life: factory(_Inside(self, life), *args)
            self._begin(name)
        return self.find(name)

    def find(self, name: str) -> Ref:
        return LocalRef(self, name)

    async def kill(self, name: str) -> None:
        self.crash(name, restart=False)

    async def kill_all(self) -> None:
        while self._lives:
            self.crash(next(iter(self._lives)), restart=False)

    def crash(self, name: str, *, restart: bool = True) -> None:
        """End an actor's life; a supervised one comes back empty, the others are gone for good."""
        life = self._lives.pop(name, None)
        if life is not None:
            life.end()
        if restart:
            self._begin(name)
        else:
            self._makers.pop(name, None)

    def actor(self, name: str) -> Any:
        """The object itself, for looking inside."""
        return self._lives[name].actor

    def _begin(self, name: str) -> None:
        life = self._lives[name] = _Life(name)
        life.actor = life.context().run(self._makers[name], life)

    async def _ask(self, name: str, method: str, args: tuple[Any, ...]) -> Any:
        life = self._lives.get(name)
        if life is None:
            raise UnreachableError(f"no actor is called {name!r}")
        loop = asyncio.get_running_loop()
        call = loop.create_task(_run(getattr(life.actor, method), args), context=life.context())
        await asyncio.wait({call})
        if life.is_over or call.cancelled():
            raise UnreachableError(f"{name} died during {method}")
        return call.result()


class LocalRef:
    """Address of an actor in a LocalRuntime, in the hands of another actor or of nobody."""

    def __init__(self, runtime: LocalRuntime, name: str, holder: _Life | None = None) -> None:
        self._runtime = runtime
        self._holder = holder
        self.name = name

    async def ask(self, method: str, *args: Any) -> Any:
        if self._holder is not None and self._holder.is_over:
            raise asyncio.CancelledError(f"{self._holder.name} is dead")
        return await self._runtime._ask(self.name, method, args)


class _Inside:
    """The runtime as one actor sees it: with that actor's life, its messages end."""

    def __init__(self, runtime: LocalRuntime, life: _Life) -> None:
        self._runtime = runtime
        self._life = life

    @property
    def node(self) -> str:
        return self._runtime.node

    async def spawn(self, name: str, factory: Callable[..., Any], *args: Any, gpus: float = 0, threads: int = 0) -> Ref:
        await self._runtime.spawn(name, factory, *args, gpus=gpus, threads=threads)
        return self.find(name)

    def find(self, name: str) -> Ref:
        return LocalRef(self._runtime, name, self._life)

    async def kill(self, name: str) -> None:
        await self._runtime.kill(name)

    async def kill_all(self) -> None:
        await self._runtime.kill_all()


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], context: Context | None = None
) -> asyncio.Task[Any]:
    """The loop's task factory: what an actor starts belongs to its life."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    life = _life.get() if context is None else context.get(_life)
    if life is not None:
        life.adopt(task)
    return task


async def _run(method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    result = method(*args)
    return await result if inspect.isawaitable(result) else result
