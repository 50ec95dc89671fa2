"""What every storage must do with appends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from genserve.domain.events import CancelRequested, PlanDecided, Recorded, StepsFinished
from genserve.errors import GenServeError
from genserve.journal import (
    Fenced,
    IdempotencyConflict,
    IdempotencyKey,
    InvalidAppend,
    Receipt,
    Unit,
    VersionConflict,
)
from genserve.journal.verify import verify
from tests.journal.helpers import Clock, Opener, decided, positions, running, steps, submitted, take


class AppendContract:
    async def test_positions_have_no_gaps_and_follow_commit_order(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            appends = [journal.append([steps(f"request/{i}", at=at)]) for at in range(5) for i in range(64)]
            receipts = await asyncio.gather(*appends)
            log = journal.reader.read(0)
        assert [receipt.first for receipt in receipts] == list(range(1, 321))
        assert positions(log) == list(range(1, 321))
        assert [r.version for r in log if r.stream == "request/7"] == [1, 2, 3, 4, 5]

    async def test_appends_that_wait_become_one_group(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            await asyncio.gather(*(journal.append([steps(f"request/{i}")]) for i in range(300)))
            assert journal.stats.groups == 1

    async def test_a_group_holds_at_most_512_events(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            await asyncio.gather(*(journal.append([steps(f"request/{i}", count=100)]) for i in range(11)))
            assert journal.stats.largest_group == 500
            with pytest.raises(InvalidAppend, match="513 events"):
                await journal.append([steps(count=513)])

    async def test_the_units_of_one_call_stand_together(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            calls = [[submitted(f"r{i}"), submitted(f"r{i + 100}")] for i in range(20)]
            receipts = await asyncio.gather(*(journal.append(call) for call in calls))
            log = journal.reader.read(0)
        assert {receipt.last - receipt.first for receipt in receipts} == {1}
        assert [r.stream for r in log[2:4]] == ["request/r1", "request/r101"]

    async def test_one_bad_unit_takes_its_call_with_it_and_no_neighbour(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            answers = await asyncio.gather(
                journal.append([steps("request/a")]),
                journal.append([steps("request/b"), steps("request/c", expected=7)]),
                journal.append([steps("request/b", expected=0)]),
                return_exceptions=True,
            )
            log = journal.reader.read(0)
        conflict = answers[1]
        assert isinstance(conflict, VersionConflict)
        assert (conflict.stream, conflict.expected, conflict.actual) == ("request/c", 7, 0)
        assert [r.stream for r in log] == ["request/a", "request/b"]

    async def test_only_one_of_two_appends_that_expect_the_same_version_succeeds(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            await journal.append([steps(count=3)])
            answers = await asyncio.gather(
                *(journal.append([steps(expected=3)]) for _ in range(4)), return_exceptions=True
            )
            log = journal.reader.read(0)
        assert sum(isinstance(answer, VersionConflict) for answer in answers) == 3
        assert len(log) == 4

    async def test_an_expected_version_is_checked_against_a_log_written_before(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            await journal.append([steps(count=3)])
        async with running(open_log()) as journal:
            with pytest.raises(VersionConflict):
                await journal.append([steps(expected=2)])
            assert await journal.append([steps(expected=3)]) == Receipt(4, 4)

    async def test_a_number_no_column_can_hold_fails_its_own_append_only(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            answers = await asyncio.gather(
                journal.append([submitted("a")]),
                journal.append([submitted("b", steps=2**64 - 1)]),
                journal.append([submitted("c", prompt="\0 \ud7ff \U0001f600")]),
                journal.append([steps("request/d", occurred_us=2**63)]),
                journal.append([steps("request/\0")]),
                return_exceptions=True,
            )
            log = journal.reader.read(0)
            assert verify(journal.reader).is_sound
        assert {"request/a", "request/c"} <= {r.stream for r in log}
        assert positions(log) == list(range(1, len(log) + 1))
        assert all(isinstance(answer, Receipt | GenServeError) for answer in answers)
        assert isinstance(answers[3], InvalidAppend)
        assert isinstance(answers[4], InvalidAppend)

    async def test_big_payloads_are_for_the_scheduler_only(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            answers = await asyncio.gather(
                journal.append([Unit("request/a", (CancelRequested("x" * 9_000),))]),
                journal.append([decided(0, note="x" * 60_000)]),
                journal.append([decided(0, note="x" * 70_000)]),
                return_exceptions=True,
            )
            assert journal.position == 1
        codes = [answer.code if isinstance(answer, InvalidAppend) else "stored" for answer in answers]
        assert codes == ["payload_too_large", "stored", "payload_too_large"]

    async def test_a_repeated_unit_gets_its_first_answer(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            first = await journal.append([steps(count=2, seq=0)])
            await journal.append([steps(at=2, seq=1)])
            again = await journal.append([steps(count=2, seq=0)])
        async with running(open_log()) as journal:
            later = await journal.append([steps(count=2, seq=0)])
            assert journal.position == 3
        assert first == Receipt(1, 2)
        assert again == later == Receipt(1, 2, is_duplicate=True)

    async def test_a_unit_repeated_within_its_group_is_stored_once(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            answers = await asyncio.gather(*(journal.append([steps(seq=3)]) for _ in range(3)))
            assert journal.position == 1
        assert [answer.is_duplicate for answer in answers] == [False, True, True]
        assert {answer.first for answer in answers} == {1}

    async def test_sequences_may_arrive_out_of_order_and_each_counts_once(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            for seq in (0, 5, 2):
                await journal.append([steps(at=seq, seq=seq)])
        async with running(open_log()) as journal:
            for seq in (1, 2, 5, 4, 0):
                await journal.append([steps(at=seq, seq=seq)])
            log = journal.reader.read(0)
        assert [r.event.from_step for r in log if isinstance(r.event, StepsFinished)] == [0, 5, 2, 1, 4]

    async def test_a_producer_of_an_older_epoch_is_fenced(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            await journal.append([steps(epoch=2, seq=0)])
            with pytest.raises(Fenced, match="epoch 2; 1"):
                await journal.append([steps("request/other", epoch=1, seq=9)])
        async with running(open_log()) as journal:
            with pytest.raises(Fenced, match="epoch 2; 1"):
                await journal.append([steps("request/other", epoch=1, seq=9)])

    async def test_a_stream_refuses_fences_below_its_highest(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            await journal.append([steps(fence=3)])
            await journal.append([steps(at=1)])
        async with running(open_log()) as journal:
            with pytest.raises(Fenced, match=r"request/r1 is owned by epoch 3; 2"):
                await journal.append([steps(fence=2)])
            assert await journal.append([steps(at=2, fence=3)]) == Receipt(3, 3)

    async def test_an_idempotency_key_gives_the_first_answer_again(self, open_log: Opener) -> None:
        key = IdempotencyKey("tenant", "k1", "hash-a", ("r1", "r2"), "image")
        async with running(open_log()) as journal:
            await journal.append([submitted("r1"), submitted("r2")], key=key)
            again = IdempotencyKey("tenant", "k1", "hash-a", ("r3", "r4"), "image")
            repeated = await journal.append([submitted("r3"), submitted("r4")], key=again)
        async with running(open_log()) as journal:
            later = await journal.append([submitted("r3"), submitted("r4")], key=again)
            stored = journal.reader.find_key("tenant", "k1")
            assert journal.position == 2
        assert repeated == later == Receipt(1, 2, is_duplicate=True, idempotency=key)
        assert stored is not None
        assert stored.key == key

    async def test_an_idempotency_key_with_another_body_is_refused(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            keys = [IdempotencyKey("t", "k", body, ("r1",), "image") for body in ("a", "b")]
            answers = await asyncio.gather(
                *(journal.append([submitted(f"r{i}")], key=key) for i, key in enumerate(keys)),
                journal.append([submitted("r9")], key=IdempotencyKey("other", "k", "b", ("r9",), "image")),
                return_exceptions=True,
            )
        assert answers[0] == Receipt(1, 1)
        assert isinstance(answers[1], IdempotencyConflict)
        assert answers[2] == Receipt(2, 2)

    async def test_what_nobody_waits_for_keeps_its_place_in_the_order(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            for at in range(600):
                journal.append_soon([steps(at=at)])
            receipt = await journal.append([steps(at=600)])
            log = journal.reader.read(0)
        assert receipt == Receipt(601, 601)
        assert [r.event.from_step for r in log if isinstance(r.event, StepsFinished)] == list(range(601))

    async def test_recorded_time_never_falls(self, open_log: Opener) -> None:
        clock = Clock(5_000)
        async with running(open_log(), clock_us=clock) as journal:
            await journal.append([steps()])
            clock.now_us = 1_000
            await journal.append([steps(at=1)])
        async with running(open_log(), clock_us=clock) as journal:
            await journal.append([steps(at=2, occurred_us=77)])
            log = journal.reader.read(0)
        assert [r.recorded_us for r in log] == [5_000, 5_000, 5_000]
        assert [r.occurred_us for r in log] == [5_000, 5_000, 77]

    async def test_a_decision_stands_right_behind_the_events_it_saw(self, open_log: Opener) -> None:
        """Whatever else waits: 1,300 appends at once, then clients that append again as soon as they are answered."""

        def decide(batch: Sequence[Recorded]) -> list[Unit]:
            has_news = any(not isinstance(r.event, PlanDecided) for r in batch)
            return [decided(batch[-1].position)] if has_news else []

        async with running(open_log(), on_commit=decide) as journal:

            async def client(i: int) -> None:
                for at in range(10):
                    await journal.append([steps(f"request/{i}", at=at)])

            await asyncio.gather(*(journal.append([steps(f"request/{i}")]) for i in range(1_300)))
            await asyncio.gather(*(client(i) for i in range(16)))
        async with running(open_log()) as journal:
            log = journal.reader.read(0, limit=10_000)
        decisions = [(r.position, r.event.input_position) for r in log if isinstance(r.event, PlanDecided)]
        assert [position for position, _ in decisions][:3] == [513, 1025, 1303]
        assert len(decisions) >= 13
        assert all(position == saw + 1 for position, saw in decisions)

    async def test_a_subscriber_gets_every_event_once_from_where_it_asked(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            for at in range(5):
                await journal.append([steps(at=at)])
            early, late = journal.subscribe(0), journal.subscribe(3)
            await journal.append([steps(at=5)])
            assert positions(await take(early, 6)) == [1, 2, 3, 4, 5, 6]
            assert positions(await take(late, 3)) == [4, 5, 6]
            await journal.append([steps(at=6)])
            assert positions(await take(early, 1)) == [7]

    async def test_what_is_read_equals_what_was_published(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            live = journal.subscribe(0)
            await journal.append([submitted(), steps(count=3, fence=1, causation_position=1)])
            published = await take(live, 4)
            assert journal.reader.read(0) == published
            assert journal.reader.read(1, limit=2) == published[1:3]
            assert journal.reader.read_stream("request/r1", after_version=2) == published[2:]
            assert len({r.event_id for r in published}) == 4
            assert verify(journal.reader).is_sound
