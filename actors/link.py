"""One worker as the scheduler reaches it: started, greeted, watched, told in order; not what to tell it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from msgspec import Struct

from actors.framework.runtime import Ref, UnreachableError
from genserve.domain.events import ActionRefused, AnyEvent, StageLoaded, StageUnloaded, WorkerJoined, WorkerLost
from genserve.domain.ids import SCHEDULER_STREAM, worker_stream
from genserve.scheduling import protocol as p
from observability.logging import get_logger

RETRY_S = 0.1
SICK_S = 2.0
"""Wait before a worker that could not start is greeted again."""
PULSE_S = 2.0
"""Wait between two questions whether a worker still answers."""

REPLACED = "was started anew"

Record = Callable[[str, AnyEvent], Awaitable[None]]


class WorkerSlot(Struct, frozen=True):
    """A worker to keep alive: its id and how to start its process."""

    worker_id: str
    start: Callable[[], Awaitable[Ref]]


class Link:
    """Keeps one slot filled and its comings and goings in the log.

    A death is noticed because a call that never returns breaks; the process is started again by its runtime and joins
    anew. One that does not answer for ``silence_s`` counts as lost until it does. ``record`` returns when the fact is
    stored, however long the database is away. ``on_join`` is called before the log hears of it, ``on_loss`` after.
    """

    def __init__(
        self,
        slot: WorkerSlot,
        *,
        record: Record,
        epoch: int,
        known: int,
        silence_s: float,
        on_join: Callable[[], None],
        on_loss: Callable[[], None],
    ) -> None:
        self.worker_id = slot.worker_id
        self.node = ""
        self.is_alive = False
        self.joined = asyncio.Event()
        self._slot = slot
        self._record = record
        self._epoch = epoch
        self._known = known
        self._silence_s = silence_s
        self._lost = 0
        self._on_join = on_join
        self._on_loss = on_loss
        self._ref: Ref | None = None
        self._commands: deque[p.Command] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._is_replaced = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep())

    def stop(self) -> None:
        self._keeper.cancel()
        self._drop_commands()

    async def give_up(self) -> None:
        """It has not answered in time: what the log says about it does not hold any more. It is greeted anew."""
        if self._known and not self.is_alive:
            self._keeper.cancel()
            await self._lose("did not answer the new leader in time")
            self._keeper = asyncio.create_task(self._keep())

    def tell(self, command: p.Command) -> None:
        """Send a command; returns at once. Commands arrive in order; a refusal becomes a fact.

        To a worker that is lost nothing is sent: the fact that says so, already on its way, voids the command.
        """
        if not self.is_alive:
            return
        self._commands.append(command)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())

    async def ask_quietly(self, method: str, *arguments: object) -> object:
        """A question where no answer is an answer; a dead worker is noticed by its keeper, not here."""
        try:
            return await self._ref.ask(method, *arguments) if self._ref is not None else None
        except UnreachableError:
            return None

    async def _keep(self) -> None:
        """Start or find it, greet it, watch it, for ever."""
        while True:
            ref, hello = await self._greet()
            self._ref = ref
            await self._join(hello)
            listener = asyncio.create_task(self._listen(ref))
            try:
                reason = await self._attend(ref)
            finally:
                listener.cancel()
            await self._lose(reason)
            self._on_loss()

    async def _greet(self) -> tuple[Ref, p.Hello]:
        """Say hello until it answers."""
        while True:
            try:
                ref = await self._slot.start()
                hello: p.Hello = await ref.ask("hello", self._epoch, self._lost)
            except UnreachableError:
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                get_logger("genserve.fleet").error("worker cannot start", worker_id=self.worker_id, error=str(error))
                await asyncio.sleep(SICK_S)
            else:
                return ref, hello

    async def _join(self, hello: p.Hello) -> None:
        """A new incarnation, or one that had been given up, is a fact; the fact may already bring it commands."""
        self.is_alive, self.node = True, hello.node
        self._is_replaced.clear()
        self._on_join()
        if hello.incarnation != self._known:
            await self._record(worker_stream(self.worker_id), _joined(hello))
        self._known = hello.incarnation
        self.joined.set()

    async def _listen(self, ref: Ref) -> None:
        """Record the stages that it loads and drops, until it dies; asking for more acknowledges what came before."""
        recorded = 0
        while True:
            try:
                changes = await ref.ask("changes", recorded)
            except UnreachableError:
                return
            for number, change in changes:
                await self._record_change(change)
                recorded = number

    async def _record_change(self, change: p.StageChange) -> None:
        name = self.worker_id
        if change.code:
            refused = ActionRefused("", name, change.code, f"{change.model}/{change.stage}: {change.message}")
            await self._record(SCHEDULER_STREAM, refused)
            return
        loaded = StageLoaded(name, change.model, change.stage, change.took_us, change.memory_bytes)
        unloaded = StageUnloaded(
            name, change.model, change.stage, change.took_us, change.memory_bytes, change.displaced
        )
        await self._record(worker_stream(name), loaded if change.is_loaded else unloaded)

    async def _attend(self, ref: Ref) -> str:
        """Until it dies or falls silent; the reason. A silent one that wakes up is greeted as one that was lost."""
        ends = [asyncio.create_task(end) for end in (self._until_dead(ref), self._until_silent(ref), self._until_new())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return next(end.result() for end in ends if end.done())
        finally:
            for end in ends:
                end.cancel()

    async def _until_dead(self, ref: Ref) -> str:
        try:
            await ref.ask("attend", self._known)
        except UnreachableError as error:
            return str(error)
        return REPLACED

    async def _until_silent(self, ref: Ref) -> str:
        """Its event loop answers while its steps run; a stopped or hanging process does not."""
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    await ref.ask("pulse")
            except TimeoutError:
                return f"has not answered for {self._silence_s:g} s"
            except UnreachableError as error:
                return str(error)
            await asyncio.sleep(PULSE_S)

    async def _until_new(self) -> str:
        """Its death may be heard of after its successor refused what it was to do."""
        await self._is_replaced.wait()
        return REPLACED

    async def _lose(self, reason: str) -> None:
        """What was on its way is void: its next incarnation is told anew."""
        self.is_alive = False
        self._drop_commands()
        self._lost, self._known = self._known, 0
        await self._record(worker_stream(self.worker_id), WorkerLost(self.worker_id, self._lost, reason))

    def _drop_commands(self) -> None:
        self._commands.clear()
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None

    async def _send(self) -> None:
        """One delivery at a time, of all that waits: actors need not begin calls in the order they were made."""
        while self._commands and self._ref is not None:
            commands = tuple(self._commands)
            try:
                answers = await self._ref.ask("obey", commands)
            except UnreachableError:
                await asyncio.sleep(RETRY_S)
                continue
            if any(answer.refusal == p.NOT_READY for answer in answers):
                self._is_replaced.set()
                return
            for command, answer in zip(commands, answers, strict=True):
                self._commands.popleft()
                await self._note(command, answer)

    async def _note(self, command: p.Command, answer: p.Answer) -> None:
        """A refused revision is about a segment that has just ended: normal, and no fact."""
        if answer.refusal and not isinstance(command, p.Revise):
            segment_id = command.segment_id if isinstance(command, p.RunSegment) else ""
            refused = ActionRefused(segment_id, self.worker_id, answer.refusal, answer.message)
            await self._record(SCHEDULER_STREAM, refused)


def _joined(hello: p.Hello) -> WorkerJoined:
    return WorkerJoined(
        hello.worker_id,
        hello.incarnation,
        hello.node,
        hello.device,
        hello.memory_bytes,
        hello.resident,
        hello.displaced,
    )
