"""Requests through the whole system in one process: what clients see, and what stands in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from genserve.domain import events as e
from genserve.domain.request import Stage
from tests.actors.cell import STEP_S, LocalCell, a_video, an_image
from tests.actors.virtual_time import START_US
from tests.builders import SECOND

InCell = Callable[..., None]
SOON_US = START_US + 3 * SECOND


# ── the plain path ───────────────────────────────────────────────────────────────────────────────────────


def test_an_image_travels_from_submission_to_a_stored_result(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image())
        await cell.finish("i1")
        assert cell.story("i1") == [
            "RequestSubmitted",
            "StageStarted",
            "StageFinished",
            "StageStarted",
            "StepsFinished",
            "LatentsCheckpointed",
            "StepsFinished",
            "StageFinished",
            "StageStarted",
            "StageFinished",
            "ArtifactStored",
            "RequestCompleted",
        ]

    in_cell(test)


def test_a_video_has_its_clip_its_thumbnail_and_its_spritesheet(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video())
        await cell.finish("v1")
        row = await cell.gateway.find_request("v1")
        assert row is not None
        stored = [a for a in row.artifacts if a.kind != "latents"]
        assert sorted(artifact.kind for artifact in stored) == ["spritesheet", "thumbnail", "video"]
        assert all([await cell.gateway.read_artifact(artifact) for artifact in stored])

    in_cell(test)


def test_partial_images_are_stored_while_an_image_is_made(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image(steps=4, partial_images=1))
        await cell.finish("i1")
        kinds = [event.artifact.kind for event in cell.events("i1", e.ArtifactStored)]
        assert kinds == ["partial", "image"]

    in_cell(test)


@pytest.mark.parametrize("planner", ["fifo", "sjf", "srtf", "edf"])
def test_more_requests_than_workers_all_get_done(in_cell: InCell, planner: str) -> None:
    async def test(cell: LocalCell) -> None:
        names = [f"i{i}" for i in range(7)]
        await cell.submit(*(an_image(name, seed=i) for i, name in enumerate(names)))
        await cell.finish(*names)
        assert {cell.status(name) for name in names} == {"completed"}

    in_cell(test, planner=planner)


def test_a_client_follows_a_request_from_any_position(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image())
        everything = [recorded async for recorded in cell.gateway.follow("i1", after=0)]
        rest = [recorded async for recorded in cell.gateway.follow("i1", after=everything[4].position)]
        assert rest == everything[5:]

    in_cell(test)


# ── preemption and cancelling ────────────────────────────────────────────────────────────────────────────


def test_an_image_with_a_near_deadline_pauses_a_video(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video())
        await cell.wait_for("v1", e.StageStarted, stage=Stage.DENOISE)
        await cell.submit(an_image(deadline_us=SOON_US))
        await cell.finish("i1", "v1")
        order = [(r.stream, type(r.event)) for r in cell.log]
        paused = order.index(("request/v1", e.RequestPaused))
        ended = [order.index((f"request/{name}", e.RequestCompleted)) for name in ("i1", "v1")]
        assert paused < ended[0] < ended[1]

    in_cell(test, workers=1)


def test_a_paused_video_has_the_pixels_of_one_that_ran_alone(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("alone"))
        await cell.finish("alone")
        await cell.submit(a_video("v1"))
        await cell.wait_for("v1", e.StageStarted, stage=Stage.DENOISE)
        await cell.submit(an_image(deadline_us=SOON_US))
        await cell.finish("v1")
        assert cell.pixels("v1")["v1"] == cell.pixels("alone")["alone"]

    in_cell(test, workers=1)


def test_a_cancelled_request_frees_its_gpu_at_the_next_step_boundary(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1", steps=1000))
        await cell.wait_for("v1", e.StepsFinished)
        asked_s = cell.loop.time()
        await cell.gateway.cancel("v1", "client")
        await cell.finish("v1")
        assert cell.loop.time() - asked_s == pytest.approx(STEP_S)
        assert cell.status("v1") == "cancelled"
        await cell.submit(an_image("i1"))
        await cell.finish("i1")
        assert cell.loop.time() - asked_s < 1

    in_cell(test, workers=1)


def test_a_waiting_request_is_cancelled_at_once(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1", steps=1000, deadline_us=SOON_US), an_image("i1"))
        await cell.wait_for("v1", e.StepsFinished)
        await cell.gateway.cancel("i1", "client")
        await cell.finish("i1")
        assert cell.story("i1") == ["RequestSubmitted", "CancelRequested", "RequestCancelled"]
        await cell.gateway.cancel("v1", "client")
        await cell.finish("v1")

    in_cell(test, workers=1)


def test_a_cancel_that_comes_while_the_result_is_stored_wins(in_cell: InCell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cell: LocalCell) -> None:
        cell.hold_results(monkeypatch)
        await cell.submit(an_image())
        await cell.wait_for("i1", e.StageFinished, stage=Stage.DECODE)
        await cell.gateway.cancel("i1", "client")
        cell.release_results()
        await cell.finish("i1")
        assert cell.story("i1")[-2:] == ["CancelRequested", "RequestCancelled"]

    in_cell(test)


def test_a_cancel_behind_the_end_changes_nothing(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image())
        await cell.finish("i1")
        await cell.gateway.cancel("i1", "too late")
        assert cell.story("i1")[-1] == "RequestCompleted"

    in_cell(test)


def test_cancelling_what_was_never_submitted_changes_nothing(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.gateway.cancel("i9", "who?")
        assert cell.events("i9") == []

    in_cell(test)


async def cancel_after(cell: LocalCell, request_id: str, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await cell.gateway.cancel(request_id, "client")


def test_many_cancels_at_any_moment_leave_every_request_with_one_end(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        names = [f"i{i}" for i in range(12)]
        await cell.submit(*(an_image(name) for name in names))
        await asyncio.gather(*(cancel_after(cell, name, index * 0.13) for index, name in enumerate(names)))
        await cell.finish(*names)
        assert {cell.status(name) for name in names} == {"completed", "cancelled"}

    in_cell(test)
