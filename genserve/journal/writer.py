"""The loop that turns waiting appends into commits, and gets over a database that goes away; not the public face.

One group at a time: judge, number, commit, fold (``on_commit``), publish, answer. What ``on_commit`` returns is the
head of the next group, so that a decision stands right behind the events it saw.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from genserve.domain.events import Recorded
from genserve.errors import GenServeError, InvariantBroken
from genserve.journal.admission import Admission, Append, Stage
from genserve.journal.backlog import Backlog, Waiting
from genserve.journal.contract import Found, Group, Head, Receipt, Storage, StorageAway, StorageRefused, Unit, Upkeep
from genserve.journal.driver import Inline, Threaded
from genserve.journal.errors import Fenced, JournalStopped, JournalUnavailable
from genserve.journal.rows import GroupBuilder

log = logging.getLogger(__name__)

OnCommit = Callable[[Sequence[Recorded]], Sequence[Unit]]
OnRefused = Callable[[Unit, GenServeError], None]
Accepted = list[tuple[Waiting, Receipt]]

RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Waits between attempts to reach a database that is away; the last one repeats."""


@dataclass(slots=True)
class Stats:
    """Running totals of one journal, for telemetry; ``commit_us`` is time spent in the storage."""

    groups: int = 0
    events: int = 0
    payload_bytes: int = 0
    commit_us: int = 0
    largest_group: int = 0

    def count(self, group: Group, took_us: int) -> None:
        self.groups += 1
        self.events += len(group.rows)
        self.payload_bytes += sum(len(row.payload) for row in group.rows)
        self.commit_us += took_us
        self.largest_group = max(self.largest_group, len(group.rows))


QUIET_S = 0.02
"""Without an append for so long, the writer has time for housekeeping."""


class Writer:
    """Runs until it is stopped; ``stopped`` then says why, and every later append hears the same."""

    def __init__(
        self,
        storage: Storage,
        driver: Inline | Threaded,
        *,
        publish: Callable[[Sequence[Recorded]], None],
        ended: Callable[[GenServeError], None],
        clock_us: Callable[[], int],
        randomness: Callable[[int], int],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.head = Head()
        self.backlog = Backlog()
        self.stats = Stats()
        self.is_away = False
        self.stopped: GenServeError | None = JournalStopped("the journal has no lease yet: call take_over first")
        self.on_commit: OnCommit | None = None
        self.on_refused: OnRefused | None = None
        self._storage = storage
        self._driver = driver
        self._publish = publish
        self._ended = ended
        self._clock_us = clock_us
        self._sleep = sleep
        self._builder = GroupBuilder(randomness)
        self._admission = Admission()
        self._upkeep = Upkeep.NONE
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, head: Head) -> None:
        """Go on from ``head``, which the lease was just taken for."""
        self.head, self.stopped, self.is_away = head, None, False
        self._admission.forget()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="journal-writer")

    def stop(self, error: GenServeError) -> None:
        """For good: whoever waits, now or later, gets the error."""
        if self.stopped is None:
            self.stopped = error
            self._ended(error)
        self.backlog.drop_all(self.stopped)
        self._idle.set()
        self.backlog.changed.set()

    async def drain(self) -> None:
        """Until nothing waits, or nothing can be stored."""
        while self.stopped is None and not self.is_away and not self._idle.is_set():
            await asyncio.wait((asyncio.ensure_future(self._idle.wait()),), timeout=0.05)

    async def join(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ── one group after another ──────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        while self.stopped is None:
            if not self.backlog:
                await self._wait()
                continue
            waiting = self.backlog.take()
            try:
                await self._store(waiting)
            except Exception as error:
                self._fail(error, waiting)

    async def _wait(self) -> None:
        """Until there is work. Housekeeping runs once nothing has come for a while, not in anybody's way."""
        self._idle.set()
        self.backlog.changed.clear()
        if self._upkeep is Upkeep.WELCOME:
            try:
                await asyncio.wait_for(self.backlog.changed.wait(), QUIET_S)
            except TimeoutError:
                self._upkeep = Upkeep.NONE
                await self._driver.run(self._storage.maintain)
        else:
            await self.backlog.changed.wait()
        self._idle.clear()

    def _fail(self, error: Exception, waiting: list[Waiting]) -> None:
        if not isinstance(error, GenServeError):
            log.exception("the journal stopped after position %d", self.head.position)
            cause, error = error, JournalStopped(f"{type(error).__name__}: {error}")
            error.__cause__ = cause
        self.stop(error)
        for item in waiting:
            item.fail(error)

    async def _store(self, waiting: list[Waiting]) -> None:
        try:
            found = await self._find(waiting)
        except StorageAway as away:
            await self._recover(away, [(item, Receipt(0, 0)) for item in waiting])
            return
        stage = self._admission.stage(found, self.head.position)
        accepted = self._admit(stage, waiting)
        if stage.placed:
            group = stage.complete(self._builder.build(self.head, stage.placed, self._clock_us()))
            await self._commit(stage, group, accepted)

    async def _find(self, waiting: list[Waiting]) -> Found:
        wanted = self._admission.wanted(item.append for item in waiting)
        return Found() if wanted.is_empty else await self._driver.run(self._storage.find, wanted)

    def _admit(self, stage: Stage, waiting: list[Waiting]) -> Accepted:
        accepted: Accepted = []
        for item in waiting:
            try:
                receipt = stage.admit(item.append)
            except GenServeError as error:
                self._refuse(item, error)
                continue
            if receipt.first > self.head.position:
                accepted.append((item, receipt))
            else:
                item.succeed(receipt)
        return accepted

    async def _commit(self, stage: Stage, group: Group, accepted: Accepted) -> None:
        started = time.perf_counter()
        try:
            self._upkeep = await self._driver.run(self._storage.commit, group)
        except StorageAway as away:
            await self._recover(away, accepted, stage, group)
            return
        except StorageRefused as refused:
            self._separate(accepted, refused)
            return
        self.stats.count(group, int((time.perf_counter() - started) * 1e6))
        if self._upkeep is Upkeep.URGENT:
            self._driver.start(self._storage.maintain)
        self._settle(stage, group)
        for item, receipt in accepted:
            item.succeed(receipt)

    def _settle(self, stage: Stage, group: Group) -> None:
        """The group is durable: fold it, let the decision go first, then tell the subscribers."""
        self.head = Head(group.last, group.epoch, group.chain_hash, group.recorded_us)
        self._admission.settle(stage)
        units = () if self.on_commit is None else tuple(self.on_commit(group.batch))
        self._publish(group.batch)
        if units:
            self._go_first(units)

    def _go_first(self, units: tuple[Unit, ...]) -> None:
        try:
            append = Append.encode(units, None)
        except GenServeError as error:
            self._tell(units, error, stops=True)
            return
        self.backlog.add_first([Waiting(append, None, from_hook=True)])

    # ── when something is wrong ──────────────────────────────────────────────────────────────────────────

    def _refuse(self, item: Waiting, error: GenServeError) -> None:
        if item.answer is not None:
            item.fail(error)
            return
        self._tell(item.append.units, error, stops=item.from_hook)

    def _tell(self, units: tuple[Unit, ...], error: GenServeError, *, stops: bool) -> None:
        """About units that nobody waits for; without a listener, a lost decision stops the journal."""
        log.warning("an append nobody waits for was refused: %s", error)
        listener = self.on_refused
        if listener is not None:
            for unit in units:
                listener(unit, error)
        elif stops:
            raise error

    def _separate(self, accepted: Accepted, refused: StorageRefused) -> None:
        """The database refused the group: judge and store its appends again, one by one, so that only the bad one
        fails."""
        self._admission.forget()
        if len(accepted) == 1 and accepted[0][0].is_alone:
            error = InvariantBroken("append_rejected", f"the database refused the append: {refused}")
            self._refuse(accepted[0][0], error)
            return
        for item, _ in accepted:
            item.is_alone = True
        self.backlog.add_first(item for item, _ in accepted)

    async def _recover(
        self, away: StorageAway, accepted: Accepted, stage: Stage | None = None, group: Group | None = None
    ) -> None:
        """Nothing of the group is acknowledged; go on from what the database really holds once it is back."""
        log.warning("the database is away after position %d: %s", self.head.position, away)
        self.is_away = True
        for item, _ in accepted:
            item.fail(JournalUnavailable(str(away)))
        head = await self._await_head()
        self.is_away = False
        if stage is not None and group is not None and head.chain_hash == group.chain_hash:
            self._settle(stage, group)
            return
        if (head.epoch, head.position, head.chain_hash) != (self.head.epoch, self.head.position, self.head.chain_hash):
            raise Fenced("writer", self.head.epoch, head.epoch)
        self.backlog.add_first(item for item, _ in accepted if item.answer is None)

    async def _await_head(self) -> Head:
        """Try until the database answers; whoever waits meanwhile is told that it is away."""
        attempt = 0
        while True:
            try:
                return await self._driver.run(self._storage.head)
            except StorageAway as away:
                self.backlog.drop_awaited(JournalUnavailable(str(away)))
            await self._sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1
