"""A database that goes away: nothing is acknowledged that is not stored, and nothing stored is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from genserve.domain.events import PlanDecided, Recorded
from genserve.errors import GenServeError
from genserve.journal import JournalUnavailable, Receipt, Unit
from genserve.journal.backlog import BACKLOG_EVENTS
from genserve.journal.verify import verify
from tests.journal.failing import FailingStorage
from tests.journal.helpers import decided, positions, running, steps, take, until


class Sleeper:
    """Counts the waits and lets the test decide when they end."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.gate = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.gate.wait()


@pytest.mark.parametrize("edge", ["fail_before", "fail_after"])
async def test_a_group_without_an_answer_is_not_acknowledged_and_can_be_repeated(edge: str) -> None:
    storage = FailingStorage()
    async with running(storage) as journal:
        setattr(storage, edge, 1)
        answers = await asyncio.gather(
            *(journal.append([steps(f"request/{i}", seq=i)]) for i in range(5)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [JournalUnavailable] * 5
        again = await asyncio.gather(*(journal.append([steps(f"request/{i}", seq=i)]) for i in range(5)))
        assert [receipt.first for receipt in again] == [1, 2, 3, 4, 5]
        assert {receipt.is_duplicate for receipt in again} == {edge == "fail_after"}
        assert positions(journal.reader.read(0)) == [1, 2, 3, 4, 5]
        assert verify(journal.reader).is_sound


async def test_a_commit_whose_answer_was_lost_is_folded_and_published_once() -> None:
    storage = FailingStorage()
    folded: list[int] = []

    def fold(batch: list[Recorded]) -> list[Unit]:
        folded.extend(positions(batch))
        return []

    async with running(storage, on_commit=fold) as journal:
        subscription = journal.subscribe(0)
        storage.fail_after = 1
        with pytest.raises(JournalUnavailable):
            await journal.append([steps()])
        await journal.append([steps(at=1)])
        assert positions(await take(subscription, 2)) == [1, 2]
    assert folded == [1, 2]


async def test_while_the_database_is_away_appends_fail_at_once_and_the_unawaited_are_kept_in_order() -> None:
    storage, sleeper = FailingStorage(), Sleeper()
    async with running(storage, sleep=sleeper) as journal:
        journal.append_soon([steps(at=0)])
        storage.is_away = True
        with pytest.raises(JournalUnavailable, match="gone"):
            await journal.append([steps(at=1)])
        await until(lambda: len(sleeper.waits) == 1)
        assert not journal.is_available
        with pytest.raises(JournalUnavailable, match="away") as refused:
            await journal.append([steps(at=1)])
        assert (refused.value.code, refused.value.http_status, refused.value.retry_after_s) == (
            "journal_unavailable",
            503,
            1.0,
        )
        journal.append_soon([steps(at=2)])
        storage.is_away = False
        sleeper.gate.set()
        await until(lambda: journal.is_available)
        assert await journal.append([steps(at=3)]) == Receipt(3, 3)
        assert [r.event.from_step for r in journal.reader.read(0)] == [0, 2, 3]  # type: ignore[union-attr]


async def test_what_nobody_waits_for_is_bounded() -> None:
    storage, sleeper = FailingStorage(), Sleeper()
    async with running(storage, sleep=sleeper) as journal:
        storage.is_away = True
        journal.append_soon([steps()])
        await until(lambda: len(sleeper.waits) == 1)
        for at in range(1, BACKLOG_EVENTS + 1):
            journal.append_soon([steps(at=at)])
        with pytest.raises(JournalUnavailable, match="16384 events wait to be stored"):
            journal.append_soon([steps()])
        storage.is_away = False
        sleeper.gate.set()
        await until(lambda: journal.position == BACKLOG_EVENTS + 1)


async def test_waits_between_attempts_grow_and_stay_bounded() -> None:
    storage = FailingStorage()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        storage.is_away = len(waits) < 7

    async with running(storage, sleep=sleep) as journal:
        storage.is_away = True
        with pytest.raises(JournalUnavailable):
            await journal.append([steps()])
        await until(lambda: journal.is_available)
    assert waits == [0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 1.0]


async def test_a_decision_that_was_not_stored_is_stored_before_anything_newer() -> None:
    storage = FailingStorage()

    def decide(batch: list[Recorded]) -> list[Unit]:
        if all(isinstance(r.event, PlanDecided) for r in batch):
            return []
        storage.fail_before = 1
        return [decided(batch[-1].position)]

    async with running(storage, on_commit=decide) as journal:
        await journal.append([steps()])
        journal.on_commit = None
        await asyncio.gather(*(journal.append([steps(f"request/{i}")]) for i in range(3)), return_exceptions=True)
        log = journal.reader.read(0)
    assert [type(r.event).__name__ for r in log[:2]] == ["StepsFinished", "PlanDecided"]


async def test_refused_units_that_nobody_waits_for_are_told() -> None:
    told: list[tuple[str, str]] = []

    def refused(unit: Unit, error: GenServeError) -> None:
        told.append((unit.stream, error.code))

    async with running(FailingStorage(), on_refused=refused) as journal:
        journal.append_soon([steps("request/a", expected=7)])
        await journal.append([steps("request/b")])
    assert told == [("request/a", "version_conflict")]


async def test_a_decision_too_big_to_store_is_told_and_stops_nobody_else() -> None:
    told: list[str] = []

    def decide(batch: list[Recorded]) -> list[Unit]:
        return [decided(batch[-1].position, note="x" * 70_000)]

    async with running(FailingStorage(), on_commit=decide, on_refused=lambda _, e: told.append(e.code)) as journal:
        await journal.append([steps()])
        await journal.append([steps(at=1)])
    assert told == ["payload_too_large"] * 2
