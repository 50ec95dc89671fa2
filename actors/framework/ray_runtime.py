"""Actors as Ray actors: named, detached, restarted for ever; the cluster itself is in ray_cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.framework.runtime import Ref, UnreachableError

MAX_CALLS = 1_000
"""Calls one actor may have under way; more wait in Ray's queue."""


class RayRuntime:
    """Finds and makes the actors of one cell, in a namespace of their own.

    Guarantee: an actor that dies is started again by Ray, empty. Calls to it fail with UnreachableError and are not
    repeated: whoever calls knows whether repeating is safe. An address that was found is kept, because looking it up is
    a round trip to Ray's directory.
    """

    def __init__(self, cell: str) -> None:
        self._cell = cell
        self._namespace = namespace_of(cell)
        self._found: dict[str, RayRef] = {}

    @property
    def node(self) -> str:
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return address

    async def spawn(self, name: str, factory: Callable[..., Any], *args: Any, gpus: float = 0, threads: int = 0) -> Ref:
        handle: Any = (
            ray.remote(_Skin)
            .options(
                name=name,
                namespace=self._namespace,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_concurrency=MAX_CALLS,
                num_cpus=0,
                num_gpus=gpus,
                scheduling_strategy="DEFAULT" if gpus else "SPREAD",
                runtime_env={"env_vars": _thread_limits(threads)},
            )
            .remote(self._cell, name, factory, args)
        )
        return RayRef(name, self._namespace, handle)

    def find(self, name: str) -> Ref:
        return self._found.setdefault(name, RayRef(name, self._namespace))

    async def kill(self, name: str) -> None:
        self._found.pop(name, None)
        try:
            handle = await asyncio.to_thread(ray.get_actor, name, self._namespace)
        except ValueError:
            return
        ray.kill(handle, no_restart=True)

    async def kill_all(self) -> None:
        while names := await self.names():
            await asyncio.gather(*(self.kill(name) for name in names))

    async def names(self) -> list[str]:
        """Of the actors that there are, also of those that a process left behind."""
        everybody = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        return sorted(actor["name"] for actor in everybody if actor["namespace"] == self._namespace)


class RayRef:
    """Address of a Ray actor; looked up at the first call, so that holding one needs no cluster.

    After a failure it is looked up again: another actor may have got the name.
    """

    def __init__(self, name: str, namespace: str, handle: ActorHandle[Any] | None = None) -> None:
        self.name = name
        self._namespace = namespace
        self._handle = handle

    def __reduce__(self) -> tuple[Any, ...]:
        return (RayRef, (self.name, self._namespace))

    async def ask(self, method: str, *args: Any) -> Any:
        try:
            handle = self._handle or await self._look_up()
            return await handle.ask.remote(method, args)
        except RayTaskError as error:
            raise _cause(error) from None
        except (RayActorError, RayError) as error:
            self._handle = None
            raise UnreachableError(f"{self.name} during {method}: {type(error).__name__}") from error

    async def _look_up(self) -> ActorHandle[Any]:
        try:
            self._handle = await asyncio.to_thread(ray.get_actor, self.name, self._namespace)
        except ValueError as error:
            raise UnreachableError(f"no actor is called {self.name!r}") from error
        return self._handle


class _Skin:
    """The only Ray actor class: holds a plain object and passes calls on to it."""

    def __init__(self, cell: str, name: str, factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._name = name
        self._actor = factory(RayRuntime(cell), *args)

    def __repr__(self) -> str:
        """How Ray's log lines name this process."""
        return self._name

    async def pid(self) -> int:
        """Of its process, for those who want to see it die."""
        return os.getpid()

    async def ask(self, method: str, args: tuple[Any, ...]) -> Any:
        result = getattr(self._actor, method)(*args)
        return await result if asyncio.iscoroutine(result) else result


def namespace_of(cell: str) -> str:
    """Ray's namespace of a cell: nobody else's, since everything in it ends with the cell."""
    return f"genserve-{cell}"


def _thread_limits(threads: int) -> dict[str, str]:
    if not threads:
        return {}
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _cause(error: RayTaskError) -> Exception:
    """What the method raised, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
