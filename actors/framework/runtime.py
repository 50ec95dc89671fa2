"""Where actors live: named objects that are reached by messages; not what they do.

Two runtimes obey it: Ray (``ray_runtime``) and one event loop in this process (``local_runtime``), for tests.
An actor is a plain class; the runtime is handed to it as a constructor argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class UnreachableError(Exception):
    """The actor is dead or did not answer; the call may or may not have happened."""


class Ref(Protocol):
    """The address of an actor."""

    @property
    def name(self) -> str: ...

    async def ask(self, method: str, *args: Any) -> Any:
        """Call a method and wait for its answer.

        Raises UnreachableError when the actor is gone; errors of the method itself come through as they are.
        Calls that are under way together may begin in any order: wait for one before making the next where it matters.
        """


class Runtime(Protocol):
    """Creates, finds and removes actors by name."""

    @property
    def node(self) -> str:
        """The machine on which whoever asks runs: processes of one reach each other by its loopback address."""

    async def spawn(self, name: str, factory: Callable[..., Any], *args: Any, gpus: float = 0, threads: int = 0) -> Ref:
        """The actor of that name, made by ``factory(runtime, *args)`` unless it already runs.

        ``gpus`` reserves devices for it; ``threads`` bounds its numeric libraries, 0 leaves them alone.
        """

    def find(self, name: str) -> Ref:
        """Its address, whether or not it runs; asking a missing actor raises UnreachableError."""

    async def kill(self, name: str) -> None:
        """Remove an actor for good, at once; a no-op when there is none."""

    async def kill_all(self) -> None:
        """Remove every actor, also those that are made meanwhile."""
