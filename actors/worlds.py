"""New generations of the world whenever a worker comes; not the groups themselves (see teams).

A generation is the workers of one node that are alive, in the order in which planners count them. It is announced to
the workers beside whatever they run. Segments name the generation that was the newest when they were dispatched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from genserve.scheduling import protocol as p

Ask = Callable[..., Awaitable[object]]
"""(worker, method, arguments...) -> answer, None where there is none."""

PER_EPOCH = 100_000


class Worlds:
    """``ask`` reaches a worker. Numbers rise over changes of leader too, because they begin with the epoch."""

    def __init__(self, ask: Ask, *, epoch: int) -> None:
        self.generation = epoch * PER_EPOCH
        self._ask = ask
        self._tasks: set[asyncio.Task[None]] = set()

    def grow(self, nodes: Mapping[str, str]) -> None:
        """A worker came: segments from now on name the next generation, of these workers and their nodes."""
        self.generation += 1
        rosters: dict[str, list[str]] = {}
        for worker_id, node in sorted(nodes.items()):
            rosters.setdefault(node, []).append(worker_id)
        for roster in rosters.values():
            if len(roster) > 1:
                self._soon(self._form(tuple(roster), self.generation))

    def shrink(self, gone: str, left: tuple[str, ...]) -> None:
        """A worker went: those who wait for it are let go. Groups without it stay as they are."""
        for worker_id in left:
            self._soon(self._tell(worker_id, "lose_peer", gone))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _form(self, roster: tuple[str, ...], generation: int) -> None:
        """Without an answer nothing is formed: the member that failed comes back, which makes the next generation."""
        port = await self._ask(roster[0], "host_world")
        if isinstance(port, int) and port:
            world = p.World(generation, port, roster)
            await asyncio.gather(*(self._tell(worker_id, "join_world", world) for worker_id in roster))

    async def _tell(self, worker_id: str, method: str, argument: object) -> None:
        await self._ask(worker_id, method, argument)

    def _soon(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
