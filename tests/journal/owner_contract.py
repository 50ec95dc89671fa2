"""What every storage must do about who may write, and when writing stops."""

from __future__ import annotations

import asyncio

import pytest

from genserve.journal import Fenced, Journal, JournalStopped, LeaseHeld, Snapshot
from tests.journal.helpers import Opener, positions, running, steps, take


class OwnerContract:
    async def test_every_take_over_raises_the_epoch_by_one(self, open_log: Opener) -> None:
        for epoch in (1, 2, 3):
            async with running(open_log()) as journal:
                assert journal.epoch == epoch

    async def test_nothing_is_appended_without_a_lease(self, open_log: Opener) -> None:
        journal = Journal(open_log())
        with pytest.raises(JournalStopped, match="take_over"):
            await journal.append([steps()])
        await journal.close()

    async def test_a_writer_that_was_replaced_stops_and_stores_nothing_more(self, open_log: Opener) -> None:
        async with running(open_log()) as old, running(open_log()) as new:
            answers = await asyncio.gather(
                *(old.append([steps(f"request/{i}")]) for i in range(3)), return_exceptions=True
            )
            assert [type(answer) for answer in answers] == [Fenced] * 3
            with pytest.raises(Fenced):
                await old.append([steps()])
            with pytest.raises(Fenced):
                old.append_soon([steps()])
            assert not old.is_available
            assert (await new.append([steps()])).first == 1

    async def test_a_replaced_writer_learns_it_from_its_lease_too(self, open_log: Opener) -> None:
        async with running(open_log()) as old, running(open_log()) as new:
            await new.renew_lease()
            with pytest.raises(Fenced):
                await old.renew_lease()
            assert not old.is_available

    async def test_another_holder_waits_until_the_lease_expires(self, open_log: Opener) -> None:
        async with running(open_log(), holder="a") as first:
            other = Journal(open_log())
            with pytest.raises(LeaseHeld) as held:
                await other.take_over("b")
            assert (held.value.holder, held.value.retry_after_s > 1) == ("a", True)
            await first.renew_lease(lease_s=0)
            assert await other.take_over("b") == 2
            await other.close()

    async def test_closing_stores_what_still_waits(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            for at in range(100):
                journal.append_soon([steps(at=at)])
        async with running(open_log()) as journal:
            assert journal.position == 100

    async def test_an_error_in_the_fold_stops_the_journal_after_the_commit(self, open_log: Opener) -> None:
        def broken(batch: object) -> list[object]:
            raise ValueError("cannot fold")

        async with running(open_log(), on_commit=broken) as journal:
            with pytest.raises(JournalStopped, match="cannot fold"):
                await journal.append([steps()])
            with pytest.raises(JournalStopped, match="cannot fold"):
                await journal.append([steps()])
        async with running(open_log()) as journal:
            assert journal.position == 1

    async def test_a_subscription_ends_with_its_journal(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            subscription = journal.subscribe(0)
            await journal.append([steps()])
        assert [positions(batch) async for batch in subscription] == [[1]]

    async def test_a_subscriber_hears_why_the_journal_stopped(self, open_log: Opener) -> None:
        async with running(open_log()) as old, running(open_log()):
            subscription = old.subscribe(0)
            with pytest.raises(Fenced):
                await old.append([steps()])
            with pytest.raises(Fenced):
                await anext(subscription)

    async def test_a_subscriber_that_falls_behind_catches_up_without_a_gap(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            subscription = journal.subscribe(0)
            for _ in range(30):
                await asyncio.gather(*(journal.append([steps(count=256)]) for _ in range(2)))
            await journal.append([steps()])
            seen = await take(subscription, 15_361)
        assert positions(seen) == list(range(1, 15_362))

    async def test_the_newest_snapshot_of_this_fold_version_is_loaded(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            await journal.append([steps(count=9)])
            for position, version in ((3, 1), (5, 1), (7, 2), (99, 1)):
                await journal.store_snapshot(Snapshot("state", position, version, "json", b"at %d" % position))
            found = journal.reader.load_snapshot("state", 1)
            assert found == Snapshot("state", 5, 1, "json", b"at 5")
            assert journal.reader.load_snapshot("state", 3) is None
