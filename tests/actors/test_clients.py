"""What clients are told: refusals with reasons, the answer of the first time, forecasts, health and progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.framework.runtime import UnreachableError
from genserve.domain import events as e
from genserve.domain.request import Status
from genserve.errors import CallerError, GenServeError, RefusedByPolicy, Unavailable
from tests.actors.cell import LocalCell, a_video, an_image

InCell = Callable[..., None]


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_queue_refuses_and_says_when_to_come_again(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image("i1"), an_image("i2"))
        with pytest.raises(RefusedByPolicy, match="queue_full") as refused:
            await cell.submit(an_image("i3"))
        assert refused.value.retry_after_s > 0
        await cell.finish("i1", "i2")
        await cell.submit(an_image("i3"))
        await cell.finish("i3")

    in_cell(test, max_queued=2)


def test_a_burst_cannot_overfill_the_queue(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        burst = (cell.submit(an_image(f"i{i}")) for i in range(20))
        answers = await asyncio.gather(*burst, return_exceptions=True)
        accepted = [answer for answer in answers if not isinstance(answer, Exception)]
        assert len(accepted) == 5
        await cell.finish(*(request_id for ids in accepted for request_id in ids))

    in_cell(test, max_queued=5)


def test_a_submission_told_again_is_the_first_one_even_when_the_queue_is_full(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image("i1"), an_image("i2"), idempotency_key="k", body_hash="h")
        assert await cell.submit(an_image("i1"), an_image("i2")) == ("i1", "i2")
        again = await cell.submit(an_image("i8"), an_image("i9"), idempotency_key="k", body_hash="h")
        assert again == ("i1", "i2")
        await cell.finish("i1", "i2")

    in_cell(test, max_queued=2)


def test_an_idempotency_key_with_another_body_is_refused(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image("i1"), idempotency_key="k", body_hash="h")
        with pytest.raises(CallerError, match="idempotency_conflict"):
            await cell.submit(an_image("i2"), idempotency_key="k", body_hash="other")
        await cell.finish("i1")

    in_cell(test)


def test_a_model_that_fails_every_time_is_given_up_with_a_reason(in_cell: InCell) -> None:
    def hook(verb: str, members: Any, step: int) -> None:
        if verb == "decode":
            raise GenServeError("out_of_memory", "too big")

    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image())
        await cell.finish("i1")
        row = await cell.gateway.find_request("i1")
        assert row is not None
        assert (row.status, row.error_code) == ("failed", "attempts_exhausted")
        assert row.error_message.endswith("the last with out_of_memory: too big")

    in_cell(test, hook=hook)


def test_a_model_that_failed_once_is_tried_again(in_cell: InCell) -> None:
    failures = [GenServeError("out_of_memory", "too big")]

    def hook(verb: str, members: Any, step: int) -> None:
        if verb == "decode" and failures:
            raise failures.pop()

    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image())
        await cell.finish("i1")
        assert cell.status("i1") == "completed"

    in_cell(test, hook=hook)


# ── the truth about itself ───────────────────────────────────────────────────────────────────────────────


def test_a_live_request_has_a_forecast_and_an_ended_one_has_none(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video())
        await cell.wait_for("v1", e.StepsFinished)
        forecast = await cell.gateway.forecast("v1")
        assert forecast is not None
        assert forecast.eta_us > cell.loop.clock_us()
        await cell.finish("v1")
        assert await cell.gateway.forecast("v1") is None

    in_cell(test)


def test_health_names_the_workers_that_are_there(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        health = await cell.gateway.health()
        assert (health.is_ready, health.workers, health.scheduler) == (True, 2, "leading")

    in_cell(test)


def test_health_is_not_ready_without_a_scheduler(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.runtime.kill("scheduler")
        health = await cell.gateway.health()
        assert (health.is_ready, health.scheduler) == (False, "unreachable")
        with pytest.raises(Unavailable, match="scheduler_unavailable"):
            await cell.submit(an_image())

    in_cell(test)


def test_progress_in_the_read_model_is_what_was_done(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video(steps=20))
        finished = await cell.wait_for("v1", e.StepsFinished)
        assert isinstance(finished.event, e.StepsFinished)
        row = await cell.gateway.find_request("v1")
        assert row is not None
        assert (row.status, row.step) == (Status.RUNNING, finished.event.to_step)
        await cell.finish("v1")

    in_cell(test)


def test_a_stopped_cell_keeps_the_work_for_the_next_one(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video())
        await cell.wait_for("v1", e.LatentsCheckpointed)
        await cell.runtime.find("scheduler").ask("stop")
        await cell.runtime.kill_all()
        with pytest.raises(UnreachableError):
            await cell.runtime.find("worker-0").ask("reporting")
        await cell.start(holder="next")
        await cell.finish("v1")
        assert cell.status("v1") == "completed"
        assert [event.attempt for event in cell.events("v1", e.StageStarted)][-1] == 1

    in_cell(test)
