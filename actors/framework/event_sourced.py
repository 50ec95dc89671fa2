"""The event-sourced half of an actor: state is the fold of one stream, and grows only by appending to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from actors.framework.runtime import Ref, UnreachableError
from genserve.domain.events import AnyEvent, Recorded
from genserve.errors import Unavailable
from genserve.journal.errors import JournalStopped

S = TypeVar("S")
AWAY = (UnreachableError, Unavailable, JournalStopped)
"""The journal's actor is dead, without its database, or about to be replaced: it will be back."""

RETRY_S = 0.2


class EventSourced(Generic[S]):
    """A fold of one stream behind the journal's actor.

    ``state`` is what the log said when it was last read. Nothing is lost with this object: another one that reads
    the stream is its equal. Methods belong to one mailbox: do not call them concurrently.
    """

    def __init__(self, journal: Ref, stream: str, initial: S, apply: Callable[[S, Recorded], S]) -> None:
        self.stream = stream
        self.state = initial
        self.version = 0
        self._journal = journal
        self._apply = apply

    async def recover(self) -> None:
        """Read what the stream holds beyond what this object knows; waits for as long as the journal is away."""
        while True:
            try:
                self._absorb(await self._journal.ask("read_stream", self.stream, self.version))
            except AWAY:
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def record(self, decide: Callable[[S], Sequence[AnyEvent]]) -> None:
        """Append what ``decide`` makes of the state, and absorb it; nothing is appended to a state it has not seen.

        When the stream has grown, or the answer is lost, it is read first and ``decide`` is asked again: so nothing
        is appended twice, whoever else writes to the stream.
        Raises GenServeError ``stale_attempt`` when the facts are about an attempt that is over.
        """
        while True:
            events = tuple(decide(self.state))
            if not events:
                return
            try:
                is_recorded, recorded = await self._journal.ask("extend", self.stream, self.version, events)
            except AWAY:
                await asyncio.sleep(RETRY_S)
                await self.recover()
                continue
            self._absorb(recorded)
            if is_recorded:
                return

    def _absorb(self, recorded: Sequence[Recorded]) -> None:
        for event in recorded:
            if event.version > self.version:
                self.state = self._apply(self.state, event)
                self.version = event.version
