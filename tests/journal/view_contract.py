"""What every storage must show of requests."""

from __future__ import annotations

from typing import Any

import pytest

from genserve.domain import events as e
from genserve.domain.request import Artifact, Stage
from genserve.journal import LATENTS, Journal, Unit
from genserve.journal.views import RequestRow
from tests.journal.helpers import Clock, Opener, running, submitted

IMAGE = Artifact("image", "file:///r1.png", "image/png", 10, "ab")


async def tell(journal: Journal, *events: Any, request_id: str = "r1") -> RequestRow:
    """Append facts about a request and look at it."""
    await journal.append([Unit(f"request/{request_id}", events)])
    row = journal.reader.find_request(request_id)
    assert row is not None
    return row


def started(attempt: int = 0, from_step: int = 0) -> e.StageStarted:
    return e.StageStarted("s1", Stage.DENOISE, attempt, ("w0",), from_step=from_step)


def stepped(to_step: int, attempt: int = 0) -> e.StepsFinished:
    return e.StepsFinished("s1", attempt, to_step - 1, to_step, 50)


class ViewContract:
    async def test_a_request_is_shown_where_its_events_left_it(self, open_log: Opener) -> None:
        clock = Clock(1_000)
        async with running(open_log(), clock_us=clock) as journal:
            await journal.append([submitted("r1", steps=8, tenant="t", group_id="g")])
            waiting = journal.reader.find_request("r1")
            clock.now_us = 2_000
            running_ = await tell(journal, started(), stepped(1), stepped(2))
            paused = await tell(journal, e.RequestPaused("s1", 0, 3, "w0"))
            clock.now_us = 3_000
            resumed = await tell(journal, started(from_step=3), stepped(4))
            finishing = await tell(journal, e.StageFinished("s1", Stage.DECODE, 0, 5))
            clock.now_us = 4_000
            done = await tell(journal, e.RequestCompleted(0))
        assert waiting is not None
        assert (waiting.status, waiting.tenant, waiting.group_id, waiting.steps) == ("waiting", "t", "g", 8)
        assert waiting.request.request_id == "r1"
        assert (running_.status, running_.steps_done, running_.started_us) == ("running", 2, 2_000)
        assert (paused.status, paused.steps_done, paused.pauses) == ("paused", 3, 1)
        assert (resumed.status, resumed.steps_done, resumed.started_us) == ("running", 4, 2_000)
        assert finishing.status == "finishing"
        assert (done.status, done.finished_us, done.steps_done, done.last_position) == ("completed", 4_000, 8, 9)

    async def test_a_failed_attempt_falls_back_to_its_checkpoint_and_old_attempts_are_ignored(
        self, open_log: Opener
    ) -> None:
        async with running(open_log()) as journal:
            await journal.append([submitted()])
            await tell(journal, started(), e.LatentsCheckpointed(0, 2, "file:///l", 9, "cd"), stepped(3))
            failed = await tell(journal, e.AttemptFailed(0, "worker_lost", "gone"))
        async with running(open_log()) as journal:
            late = await tell(journal, stepped(4, attempt=0))
            again = await tell(journal, started(attempt=1, from_step=2), stepped(3, attempt=1))
        assert (failed.status, failed.attempt, failed.steps_done) == ("waiting", 1, 2)
        assert late.steps_done == 2
        assert (again.status, again.attempt, again.steps_done) == ("running", 1, 3)

    @pytest.mark.parametrize(
        ("end", "status", "code"),
        [
            (e.RequestCancelled("asked"), "cancelled", "cancelled"),
            (e.RequestFailed("out_of_memory", "too big\0"), "failed", "out_of_memory"),
        ],
    )
    async def test_the_first_end_stands_with_its_reason(
        self, open_log: Opener, end: e.AnyEvent, status: str, code: str
    ) -> None:
        async with running(open_log()) as journal:
            await journal.append([submitted()])
            row = await tell(journal, end, e.RequestCompleted(0))
        assert (row.status, row.error_code) == (status, code)
        assert row.error_message in ("asked", "too big")

    async def test_latents_are_garbage_once_their_request_ended(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            await journal.append([submitted()])
            await tell(journal, e.LatentsCheckpointed(0, 2, "file:///l2", 9, "cd"), e.ArtifactStored(IMAGE))
            before = journal.reader.list_artifacts("r1")
            await tell(journal, e.RequestCompleted(0))
            after = journal.reader.list_artifacts("r1")
        assert [(a.kind, a.step, a.state) for a in before] == [(LATENTS, 2, "committed"), ("image", 0, "committed")]
        assert [(a.kind, a.state) for a in after] == [(LATENTS, "garbage"), ("image", "committed")]
        assert after[1].uri == "file:///r1.png"

    async def test_an_artifact_stored_again_replaces_the_first(self, open_log: Opener) -> None:
        newer = Artifact("image", "file:///r1-again.png", "image/png", 11, "cd")
        async with running(open_log()) as journal:
            await journal.append([submitted()])
            await tell(journal, e.ArtifactStored(IMAGE), e.ArtifactStored(IMAGE, index=1), e.ArtifactStored(newer))
            found = journal.reader.list_artifacts("r1")
        assert [(a.idx, a.uri) for a in found] == [(1, "file:///r1.png"), (0, "file:///r1-again.png")]

    async def test_requests_are_listed_page_by_page(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            for i in range(7):
                await journal.append([submitted(f"v{i}", arrival_us=100 - i // 2, shape=a_video())])
            await journal.append([submitted("img"), submitted("foreign", tenant="other", shape=a_video())])
            await tell(journal, e.RequestDeleted(), request_id="v3")
            reader = journal.reader
            newest = reader.list_requests("video", limit=4)
            older = reader.list_requests("video", after_id=newest[-1].request_id, limit=4)
            oldest = reader.list_requests("video", order="asc", limit=3, after_id="v6")
            assert [row.request_id for row in reader.list_requests(tenant="other")] == ["foreign"]
        assert [row.request_id for row in newest] == ["v1", "v0", "v2", "v5"]
        assert [row.request_id for row in older] == ["v4", "v6"]
        assert [row.request_id for row in oldest] == ["v4", "v5", "v2"]

    async def test_the_images_of_one_call_are_found_together(self, open_log: Opener) -> None:
        async with running(open_log()) as journal:
            await journal.append([submitted(f"r{i}", group_id="g1") for i in range(3)])
            rows = journal.reader.list_group("g1")
            assert journal.reader.find_request("nobody") is None
        assert [row.request_id for row in rows] == ["r0", "r1", "r2"]


def a_video() -> Any:
    from tests.builders import VIDEO

    return VIDEO
