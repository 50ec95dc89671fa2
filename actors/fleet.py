"""The workers as the scheduler sees them: all of them, by name; not how one of them is reached (see link)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from actors.link import Link, Record, WorkerSlot
from actors.worlds import Worlds
from genserve.domain.events import WorkerLost
from genserve.domain.ids import worker_stream
from genserve.scheduling import protocol as p

GREETING_S = 60.0
"""How long a new leader waits for workers before it goes on without those that have not answered."""


class Fleet:
    """One link per worker slot. ``on_loss`` is called after each loss that the log has heard of."""

    def __init__(
        self,
        slots: tuple[WorkerSlot, ...],
        *,
        record: Record,
        silence_s: float,
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        self._slots = slots
        self._silence_s = silence_s
        self._record = record
        self._on_loss = on_loss
        self._links: dict[str, Link] = {}
        self._worlds = Worlds(self._ask, epoch=0)
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def alive(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, link in self._links.items() if link.is_alive))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(slot.worker_id for slot in self._slots)

    async def start(self, epoch: int, known: dict[str, int]) -> None:
        """Start or find all workers and greet them; ``known`` are the incarnations in the log.

        Returns when all have joined or the time is up; a worker that is late joins when it comes.
        """
        for worker_id in sorted(set(known) - set(self.names)):
            lost = WorkerLost(worker_id, known[worker_id], "not part of this cluster any more")
            await self._record(worker_stream(worker_id), lost)
        self._worlds = Worlds(self._ask, epoch=epoch)
        self._links = {
            slot.worker_id: Link(
                slot,
                record=self._record,
                epoch=epoch,
                known=known.get(slot.worker_id, 0),
                silence_s=self._silence_s,
                on_join=self._grow,
                on_loss=partial(self._shrink, slot.worker_id),
            )
            for slot in self._slots
        }
        await self._wait_for_greetings()
        for link in self._links.values():
            await link.give_up()

    async def _wait_for_greetings(self) -> None:
        greetings = {asyncio.create_task(link.joined.wait()) for link in self._links.values()}
        if greetings:
            _, late = await asyncio.wait(greetings, timeout=GREETING_S)
            for greeting in late:
                greeting.cancel()

    @property
    def generation(self) -> int:
        """Of the world whose groups the next segments run in."""
        return self._worlds.generation

    def _grow(self) -> None:
        self._worlds.grow({name: link.node for name, link in self._links.items() if link.is_alive})

    def _shrink(self, worker_id: str) -> None:
        self._worlds.shrink(worker_id, self.alive)
        self._on_loss()

    async def _ask(self, worker_id: str, method: str, *arguments: object) -> object:
        return await self._links[worker_id].ask_quietly(method, *arguments)

    def stop(self) -> None:
        self._worlds.stop()
        for link in self._links.values():
            link.stop()
        for task in self._tasks:
            task.cancel()

    def tell(self, worker_id: str, command: p.Command) -> None:
        """Send a command; returns at once. Commands to one worker arrive in order; a refusal becomes a fact."""
        link = self._links.get(worker_id)
        if link is not None:
            link.tell(command)

    def forget(self, request_id: str, *, home: str = "") -> None:
        """Let workers drop the latents of a request that has ended: its home, or all where nobody knows."""
        for name, link in self._links.items():
            if home in ("", name):
                self._soon(link.ask_quietly("forget", request_id))

    async def reporting(self) -> set[str]:
        """Requests with reports that are still on their way from some worker."""
        answers = await asyncio.gather(*(link.ask_quietly("reporting") for link in self._links.values()))
        return {request_id for answer in answers if isinstance(answer, tuple) for request_id in answer}

    def _soon(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
