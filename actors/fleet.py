"""The workers as the scheduler sees them: started, greeted, watched and told what to do; not what to tell them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from actors.framework.runtime import Ref, Runtime, UnreachableError
from genserve.domain.events import ActionRefused, AnyEvent, WorkerJoined, WorkerLost
from genserve.domain.ids import SCHEDULER_STREAM, worker_stream
from genserve.scheduling import protocol as p

GREETING_S = 60.0
RETRY_S = 0.1

Record = Callable[[str, AnyEvent], Awaitable[None]]


class WorkerSlot(Struct, frozen=True):
    """A worker to keep alive: its id and how to start its process."""

    worker_id: str
    start: Callable[[], Awaitable[Ref]]


class Fleet:
    """Keeps every worker slot filled and its comings and goings in the log.

    A worker's death is noticed because a call that never returns breaks; the process is started again by its runtime
    and joins anew with a higher incarnation.
    """

    def __init__(self, runtime: Runtime, slots: tuple[WorkerSlot, ...], *, record: Record) -> None:
        self._runtime = runtime
        self._slots = slots
        self._record = record
        self._epoch = 0
        self._refs: dict[str, Ref] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._deliveries: set[asyncio.Task[Any]] = set()
        self._commands: dict[str, deque[p.RunSegment | p.Revise]] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._joined: dict[str, int] = {}

    @property
    def alive(self) -> tuple[str, ...]:
        return tuple(sorted(self._joined))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(slot.worker_id for slot in self._slots)

    async def start(self, epoch: int, known: dict[str, int]) -> None:
        """Start or find all workers and greet them; ``known`` are the incarnations in the log."""
        self._epoch = epoch
        here = {slot.worker_id for slot in self._slots}
        for worker_id in sorted(set(known) - here):
            lost = WorkerLost(worker_id, known[worker_id], "not part of this cluster any more")
            await self._record(worker_stream(worker_id), lost)
        await asyncio.gather(*(self._enlist(slot, known.get(slot.worker_id, 0)) for slot in self._slots))
        self._watchers = [asyncio.create_task(self._watch(slot)) for slot in self._slots]

    def stop(self) -> None:
        for task in (*self._watchers, *self._deliveries, *self._senders.values()):
            task.cancel()

    def tell(self, worker_id: str, command: p.RunSegment | p.Revise) -> None:
        """Send a command; returns at once. Commands to one worker arrive in order; a refusal becomes a fact."""
        self._commands.setdefault(worker_id, deque()).append(command)
        if worker_id not in self._senders:
            self._senders[worker_id] = asyncio.create_task(self._send(worker_id))

    def forget(self, worker_id: str, request_id: str) -> None:
        """Let a worker drop the latents of a request that has ended elsewhere."""
        task = asyncio.create_task(self._ask_quietly(worker_id, "forget", request_id))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _enlist(self, slot: WorkerSlot, known: int) -> None:
        self._refs[slot.worker_id] = await slot.start()
        await self._greet(slot.worker_id, known)

    async def _greet(self, worker_id: str, known: int) -> None:
        """Say hello until it answers; a new incarnation is a fact."""
        while True:
            try:
                hello: p.Hello = await self._refs[worker_id].ask("hello", self._epoch)
            except UnreachableError:
                await asyncio.sleep(RETRY_S)
                continue
            if hello.incarnation != known:
                await self._record(worker_stream(worker_id), _joined(hello))
            self._joined[worker_id] = hello.incarnation
            return

    async def _watch(self, slot: WorkerSlot) -> None:
        worker_id = slot.worker_id
        while True:
            try:
                await self._refs[worker_id].ask("attend")
            except UnreachableError as error:
                incarnation = self._joined.pop(worker_id)
                self._drop_commands(worker_id)
                await self._record(worker_stream(worker_id), WorkerLost(worker_id, incarnation, str(error)))
                await self._greet(worker_id, incarnation)

    async def _send(self, worker_id: str) -> None:
        """One delivery at a time, of all that waits: actors need not begin calls in the order they were made."""
        queue = self._commands[worker_id]
        while queue:
            commands = tuple(queue)
            try:
                answers = await self._refs[worker_id].ask("obey", commands)
            except UnreachableError:
                await asyncio.sleep(RETRY_S)
                continue
            for command, answer in zip(commands, answers, strict=True):
                queue.popleft()
                await self._note(worker_id, command, answer)
        del self._senders[worker_id]

    def _drop_commands(self, worker_id: str) -> None:
        """What was on its way to a lost worker is void: its next incarnation is told anew."""
        self._commands.pop(worker_id, None)
        sender = self._senders.pop(worker_id, None)
        if sender is not None:
            sender.cancel()

    async def _note(self, worker_id: str, command: p.RunSegment | p.Revise, answer: p.Answer) -> None:
        """A refused revision is about a segment that has just ended: normal, and no fact."""
        if answer.refusal and isinstance(command, p.RunSegment):
            refused = ActionRefused(command.segment_id, worker_id, answer.refusal, answer.message)
            await self._record(SCHEDULER_STREAM, refused)

    async def _ask_quietly(self, worker_id: str, method: str, argument: object) -> object:
        """A worker that cannot be reached is noticed by its watcher, not here."""
        try:
            return await self._refs[worker_id].ask(method, argument)
        except UnreachableError:
            return None


def _joined(hello: p.Hello) -> WorkerJoined:
    return WorkerJoined(
        hello.worker_id, hello.incarnation, hello.node, hello.device, hello.memory_bytes, hello.resident
    )
