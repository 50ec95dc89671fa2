"""A worker's part in groups: which worlds it has joined, which group segments it is in; not how steps are shared.

Beside the words between the members' step threads there is one matter for their event loops: the log must not show a
group segment beginning before what ran on its members has ended, nor the next thing on a member before the group
segment has ended. Whoever tells a beginning owes the others that, and asks them (``settled``). The lost don't answer,
and whoever comes back in their name knows nothing: what they still had to tell, the log knows to be over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from actors.framework.runtime import Runtime, UnreachableError
from actors.outbox import Outbox
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.groups import Membership
from observability.logging import get_logger

JOIN_S = 30.0
MAX_REMEMBERED = 1_000


class Teams:
    """Plain object inside a worker, used on its event loop. ``runner`` is set once the models are loaded."""

    def __init__(self, runtime: Runtime, worker_id: str, outbox: Outbox) -> None:
        self.runner: Any = None
        self._runtime = runtime
        self._worker_id = worker_id
        self._outbox = outbox
        self._joined: dict[int, asyncio.Event] = {}
        self._memberships: dict[str, Membership] = {}
        self._given_up: dict[str, None] = {}
        self._reached: dict[str, asyncio.Event] = {}
        self._newest = 0
        self._lost_in: dict[str, int] = {}
        self._unanswered: dict[str, set[asyncio.Future[None]]] = {}
        self._threads = ThreadPoolExecutor(4, thread_name_prefix=f"{worker_id}-worlds")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_possible(self) -> bool:
        """Whether the runner can share steps with others."""
        return hasattr(self.runner, "join_world")

    # ── worlds ───────────────────────────────────────────────────────────────────────────────────────────

    async def host(self) -> int:
        """A port, 0 where the runner cannot share steps."""
        return int(await self._aside(self.runner.host_world)) if self.is_possible else 0

    async def join(self, world: p.World) -> None:
        """Returns when the groups are formed or will not be: that is found out by who needs one."""
        self._newest = max(self._newest, world.generation)
        try:
            await self._aside(self.runner.join_world, self._worker_id, world)
        except GenServeError as error:
            get_logger("genserve.worker").warning("world not formed", code=error.code, message=error.message)
        finally:
            self._joining(world.generation).set()

    async def lose(self, worker_id: str) -> None:
        """Nobody waits any more for what that worker had to tell in the generations so far."""
        self._lost_in[worker_id] = self._newest
        for answer in self._unanswered.pop(worker_id, ()):
            answer.cancel()
        if self.is_possible:
            await self._aside(self.runner.lose_peer, worker_id)

    def _joining(self, generation: int) -> asyncio.Event:
        return self._joined.setdefault(generation, asyncio.Event())

    async def _aside(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    # ── segments ─────────────────────────────────────────────────────────────────────────────────────────

    async def enter(self, command: p.RunSegment) -> Callable[..., None]:
        """What this worker's step thread has to run for its part; waits for the segment's generation to be joined."""
        membership = self._memberships[command.segment_id] = Membership(self._worker_id, command)
        if command.segment_id in self._given_up:
            membership.give_up()
        joining = self._joining(command.generation)
        if not joining.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(joining.wait(), JOIN_S)
        if membership.leads:
            for worker_id in command.group[1:]:
                self._outbox.owe(partial(self._settlement, worker_id, command))
        else:
            self._reach(command.segment_id)
        return membership.run

    def leave(self, command: p.RunSegment) -> None:
        """After the step thread is done with a segment; a no-op for those that are nobody else's."""
        membership = self._memberships.pop(command.segment_id, None)
        if membership is None:
            return
        if membership.leads:
            self._reach(command.segment_id)
            if membership.has_failed:
                self.refuse(command)
        else:
            self._outbox.owe(partial(self._settlement, command.leader, command))

    def refuse(self, command: p.RunSegment) -> None:
        """Tell the other members that a group segment will not run, or not to its end: it is not to be waited for."""
        for worker_id in command.group:
            if worker_id != self._worker_id:
                task = asyncio.create_task(self._ask(worker_id, "give_up", command.segment_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def give_up(self, segment_id: str) -> None:
        self._given_up[segment_id] = None
        _prune(self._given_up)
        membership = self._memberships.get(segment_id)
        if membership is not None:
            membership.give_up()

    async def settled(self, segment_id: str) -> None:
        await self._reached.setdefault(segment_id, asyncio.Event()).wait()
        await self._outbox.drained()

    async def _settlement(self, worker_id: str, command: p.RunSegment) -> None:
        if command.generation <= self._lost_in.get(worker_id, -1):
            return
        answer = asyncio.ensure_future(self._ask(worker_id, "settled", command.segment_id))
        unanswered = self._unanswered.setdefault(worker_id, set())
        unanswered.add(answer)
        try:
            await asyncio.wait({answer})
        finally:
            unanswered.discard(answer)
            answer.cancel()

    def _reach(self, segment_id: str) -> None:
        self._reached.setdefault(segment_id, asyncio.Event()).set()
        _prune(self._reached)

    async def _ask(self, worker_id: str, method: str, segment_id: str) -> None:
        with contextlib.suppress(UnreachableError, GenServeError):
            await self._runtime.find(worker_id).ask(method, segment_id)


def _prune(remembered: dict[str, Any]) -> None:
    while len(remembered) > MAX_REMEMBERED:
        del remembered[next(iter(remembered))]
