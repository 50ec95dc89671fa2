"""The single writer of a cell's log: group commit, fencing, order; not how a database does it (see Storage).

Guarantees. What ``append`` has answered is durable and survives any crash. Positions have no gaps and follow commit
order. The units of one call are stored together or not at all. One bad unit never fails its neighbours. A call that
failed with JournalUnavailable may or may not be stored: send it again with the same producer sequence or key.
All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from secrets import randbits

from genserve.domain.events import Recorded
from genserve.errors import GenServeError
from genserve.journal.admission import Append
from genserve.journal.backlog import Waiting
from genserve.journal.contract import IdempotencyKey, Reader, Receipt, Snapshot, Storage, StorageAway, Unit
from genserve.journal.driver import driver_for
from genserve.journal.errors import Fenced, JournalStopped, JournalUnavailable
from genserve.journal.subscriptions import Subscription
from genserve.journal.writer import OnCommit, OnRefused, Stats, Writer


def wall_clock_us() -> int:
    return time.time_ns() // 1000


class Journal:
    """Appends through one storage; see the module for what it guarantees.

    ``on_commit`` is called on the event loop with every committed batch, before anything that waits is looked at;
    the units it returns are stored together as the first of the next group. ``on_refused`` hears of units nobody waits
    for: those of ``append_soon`` and of ``on_commit``. Without it, a refused unit of ``on_commit`` stops the journal,
    as does an exception in ``on_commit``.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        on_commit: OnCommit | None = None,
        on_refused: OnRefused | None = None,
        clock_us: Callable[[], int] = wall_clock_us,
        randomness: Callable[[int], int] = randbits,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._storage = storage
        self._driver = driver_for(storage.is_blocking)
        self._writer = Writer(
            storage,
            self._driver,
            publish=self._publish,
            ended=self._end_subscriptions,
            clock_us=clock_us,
            randomness=randomness,
            sleep=sleep,
        )
        self._writer.on_commit = on_commit
        self._writer.on_refused = on_refused
        self._holder = ""
        self._reader: Reader | None = None
        self._subscriptions: list[Subscription] = []

    @property
    def on_commit(self) -> OnCommit | None:
        return self._writer.on_commit

    @on_commit.setter
    def on_commit(self, hook: OnCommit | None) -> None:
        """Set it before anything is appended: a batch it has not seen is never shown again."""
        self._writer.on_commit = hook

    @property
    def position(self) -> int:
        """The last committed position."""
        return self._writer.head.position

    @property
    def epoch(self) -> int:
        return self._writer.head.epoch

    @property
    def stats(self) -> Stats:
        return self._writer.stats

    @property
    def is_available(self) -> bool:
        """Whether an append can succeed now: the writer has its lease and the database answers."""
        return self._writer.stopped is None and not self._writer.is_away

    @property
    def reader(self) -> Reader:
        """Read-only access to the same log, for any thread."""
        if self._reader is None:
            self._reader = self._storage.reader()
        return self._reader

    async def take_over(self, holder: str, *, lease_s: float = 10.0) -> int:
        """Become the writer: the epoch rises by one and every older writer is fenced. Returns the epoch.

        A lease that another holder keeps alive raises LeaseHeld; the same holder may always come back.
        """
        try:
            head = await self._driver.run(self._storage.take_over, holder, int(lease_s * 1e6))
        except StorageAway as away:
            raise JournalUnavailable(str(away)) from away
        self._holder = holder
        self._writer.start(head)
        return head.epoch

    async def renew_lease(self, *, lease_s: float = 10.0) -> None:
        """Keep the lease. Raises Fenced (and stops) when somebody else has it, JournalUnavailable when away."""
        self._refuse_if_stopped()
        try:
            current = await self._driver.run(self._storage.renew_lease, self._holder, self.epoch, int(lease_s * 1e6))
        except StorageAway as away:
            raise JournalUnavailable(str(away)) from away
        if current != self.epoch:
            fenced = Fenced("writer", self.epoch, current)
            self._writer.stop(fenced)
            raise fenced

    async def append(self, units: Sequence[Unit], *, key: IdempotencyKey | None = None) -> Receipt:
        """Store the units together and return when they are durable.

        Raises VersionConflict, Fenced, IdempotencyConflict or InvalidAppend (nothing was stored),
        JournalUnavailable (repeat with the same producer sequence or key), JournalStopped.
        Cancelling the caller does not take the append back.
        """
        append = Append.encode(units, key)
        self._refuse_if_stopped()
        if self._writer.is_away:
            raise JournalUnavailable("the database is away")
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._writer.backlog.add(Waiting(append, answer))
        return await answer

    def append_soon(self, units: Sequence[Unit]) -> None:
        """Store the units after everything appended before, without waiting; a crash may lose them.

        They are kept, in order, while the database is away. Raises InvalidAppend, JournalUnavailable when too much
        waits already, JournalStopped. What is refused later is told to ``on_refused``.
        """
        append = Append.encode(units, None)
        self._refuse_if_stopped()
        self._writer.backlog.add(Waiting(append, None))

    def subscribe(self, after: int) -> Subscription:
        """Batches of events after a position, in order, for ever; ``close`` the subscription to end it."""
        self._subscriptions = [known for known in self._subscriptions if not known.is_closed]
        subscription = Subscription(after, self.position, self._read)
        if self._writer.stopped is not None and self._holder:
            subscription.close(self._writer.stopped)
        self._subscriptions.append(subscription)
        return subscription

    async def store_snapshot(self, snapshot: Snapshot) -> None:
        """Keep folded state; losing it costs time only. Raises JournalUnavailable."""
        try:
            await self._driver.run(self._storage.store_snapshot, snapshot)
        except StorageAway as away:
            raise JournalUnavailable(str(away)) from away

    async def close(self) -> None:
        """Store what waits, then stop and release the storage."""
        await self._writer.drain()
        self._end_subscriptions(None)
        self._writer.stop(JournalStopped("the journal was closed"))
        await self._writer.join()
        if self._reader is not None:
            self._reader.close()
        await self._driver.run(self._storage.close)
        self._driver.close()

    def _publish(self, batch: Sequence[Recorded]) -> None:
        for subscription in self._subscriptions:
            subscription.publish(batch)

    def _end_subscriptions(self, error: GenServeError | None) -> None:
        for subscription in self._subscriptions:
            subscription.close(error)

    async def _read(self, after: int, limit: int) -> Sequence[Recorded]:
        if self._storage.is_blocking:
            return await asyncio.to_thread(self.reader.read, after, limit)
        return self.reader.read(after, limit)

    def _refuse_if_stopped(self) -> None:
        stopped = self._writer.stopped
        if stopped is not None:
            raise type(stopped)(*stopped.args) from stopped
