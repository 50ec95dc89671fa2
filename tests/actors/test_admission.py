"""Admission, live: a submission is answered by its verdict, also when the scheduler dies while it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.scheduler import NAME
from genserve.config import Admission
from genserve.domain import events as e
from genserve.domain import evolve
from genserve.domain.costs import CostData, StageCost
from genserve.domain.request import RequestSpec, Stage
from genserve.errors import RefusedByPolicy
from tests.actors.cell import CLIP, SMALL, LocalCell, a_video, an_image
from tests.actors.test_crashes import submit
from tests.actors.virtual_time import START_US
from tests.builders import FREE, SECOND

InCell = Callable[..., None]
PATIENT = Admission(fill=1.0, verdict_within_s=2.0)


@pytest.fixture
def promising(in_cell: InCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A cell of one worker with admission and the true costs: 0.3 s for an image, 0.1 s for each step of a video.

    Nothing is learned from measured steps: those are wall times here, and steps take virtual time.
    """
    monkeypatch.setattr(evolve, "_learn_pace", lambda draft, request, event: 0)
    rows = [StageCost(m, Stage.DENOISE, shape, SECOND // 10) for m, shape in (("t2i", SMALL), ("t2v", CLIP))]
    rows += [StageCost(r.model, s, r.shape, 1) for r in rows for s in (Stage.ENCODE, Stage.DECODE)]
    path = tmp_path / "costs.json"
    path.write_bytes(msgspec.json.encode(CostData("test", tuple(rows), FREE)))
    return lambda test, admission=PATIENT, **options: in_cell(
        test, workers=1, planner="save", costs=path, admission=admission, **options
    )


def a_long_video(steps: int) -> RequestSpec:
    """It takes all that there is until its deadline."""
    return a_video("v1", steps=steps, deadline_us=START_US + steps * SECOND // 10 + SECOND // 10)


def image_within(seconds: float) -> RequestSpec:
    return an_image("i1", deadline_us=START_US + round(seconds * SECOND))


def test_a_submission_that_fits_is_acknowledged_as_admitted_and_finishes(promising: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        assert await cell.submit(an_image()) == ("i1",)
        assert cell.events("i1", e.RequestAdmitted) == [e.RequestAdmitted(1.0)]
        await cell.finish("i1")

    promising(test)


def test_a_submission_that_cannot_be_promised_is_refused_with_a_quote_and_when_to_come_again(
    promising: InCell,
) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_long_video(50))
        with pytest.raises(RefusedByPolicy, match=r"refused.* the earliest deadline that could be promised") as refused:
            await cell.submit(image_within(5.2))
        assert refused.value.http_status == 429
        assert 0 < refused.value.retry_after_s < 5
        row = await cell.gateway.find_request("i1")
        assert row is not None
        assert (row.status, row.error_code) == ("failed", "refused")
        await cell.finish("v1")

    promising(test, Admission(fill=1.0))


def test_an_open_verdict_waits_for_room_and_is_admitted_when_there_is_some(promising: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_long_video(50))
        asking = asyncio.create_task(cell.submit(image_within(5.2)))
        await asyncio.sleep(1)
        assert not asking.done()
        assert cell.scheduler._loop.state.undecided
        await cell.gateway.cancel("v1", "no longer wanted")
        assert await asking == ("i1",)
        await cell.finish("i1")

    promising(test)


def test_an_open_verdict_is_a_refusal_when_its_time_is_up(promising: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_long_video(50))
        began_s = cell.loop.time()
        with pytest.raises(RefusedByPolicy, match="refused"):
            await cell.submit(image_within(5.2))
        assert 2 <= cell.loop.time() - began_s < 2.5
        await cell.finish("v1")

    promising(test)


def test_a_submission_told_again_with_its_key_gets_the_verdict_of_the_first_time(promising: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_long_video(50))
        for _ in range(2):
            with pytest.raises(RefusedByPolicy, match="i1 was refused"):
                await cell.submit(image_within(5.2), idempotency_key="k", body_hash="h")
        assert len(cell.all_events(e.RequestSubmitted)) == 2
        await cell.finish("v1")

    promising(test, Admission(fill=1.0))


def test_a_scheduler_that_dies_leaves_the_verdict_to_its_successor(promising: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_long_video(50))
        asking = asyncio.create_task(submit(cell, image_within(5.2)))
        await asyncio.sleep(1)
        cell.runtime.crash(NAME)
        with pytest.raises(RefusedByPolicy, match="i1 was refused"):
            await asking
        assert len(cell.events("i1", e.RequestSubmitted)) == 1
        await cell.finish("v1")

    promising(test)


def test_open_verdicts_take_room_in_the_queue(promising: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_long_video(50))
        asking = asyncio.create_task(cell.submit(image_within(5.2)))
        await asyncio.sleep(0.5)
        with pytest.raises(RefusedByPolicy, match="queue_full"):
            await cell.submit(an_image("i2"))
        with pytest.raises(RefusedByPolicy, match="refused"):
            await asking
        await cell.finish("v1")

    promising(test, max_queued=2)


def test_save_is_told_that_everything_was_promised(promising: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        planner: Any = cell.scheduler._loop.planner
        assert planner.admitted

    promising(test)
