"""What a new scheduler knows of the past: the newest usable snapshot and the log behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from genserve.domain.events import Recorded
from genserve.domain.evolve import FOLD_VERSION
from genserve.journal.contract import Snapshot
from genserve.journal.errors import JournalUnavailable
from genserve.journal.journal import Journal
from genserve.scheduling.loop import Loop
from genserve.scheduling.snapshots import EVERY, NAME, Folded, freeze, thaw
from genserve.scheduling.telemetry.translator import Translator
from observability.logging import get_logger

PAGE = 1000


class Recollection:
    """Restores ``loop`` and ``translator``, and from time to time stores what they have become."""

    def __init__(self, journal: Journal, loop: Loop, translator: Translator) -> None:
        self._journal = journal
        self._loop = loop
        self._translator = translator
        self._stored_at = 0
        self._is_possible = True

    async def restore(self) -> None:
        """Fold the log, from a snapshot on where there is one of this planner."""
        snapshot = await asyncio.to_thread(self._journal.reader.load_snapshot, NAME, FOLD_VERSION)
        folded = thaw(snapshot, self._loop.planner)
        if folded is not None:
            self._loop.state, self._loop.memory = folded.state, folded.memory
            self._translator.thaw(folded.state, folded.trails)
            self._stored_at = folded.state.position
        async for page in self._tail(self._stored_at):
            self._loop.fold(page)
            self._translator.warm(page)

    async def _tail(self, position: int) -> AsyncIterator[Sequence[Recorded]]:
        while position < self._journal.position:
            page = await asyncio.to_thread(self._journal.reader.read, position, PAGE)
            yield page
            position = page[-1].position

    def find_due(self) -> Snapshot | None:
        """What is worth storing now: not while telemetry has still to hear of what the loop has folded."""
        position = self._loop.state.position
        if not self._is_possible or position - self._stored_at < EVERY or self._translator.position != position:
            return None
        self._stored_at = position
        folded = Folded(self._loop.state, self._loop.memory, self._translator.freeze())
        try:
            return freeze(folded, self._loop.planner)
        except TypeError as error:
            self._is_possible = False
            get_logger("genserve.scheduler").warning(
                "no snapshots: recovery folds the whole log", planner=self._loop.planner.name, reason=str(error)
            )
            return None

    async def store(self, snapshot: Snapshot) -> None:
        """Losing one costs time only, so a database that is away is no error here."""
        try:
            await self._journal.store_snapshot(snapshot)
        except JournalUnavailable as away:
            get_logger("genserve.scheduler").warning("snapshot not stored", reason=str(away))
