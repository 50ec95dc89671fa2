"""A device that fails for good takes its worker with it, which comes back; nothing else is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from genserve.domain import events as e
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.runner import DEVICE_LOST
from tests.actors.cell import LocalCell, a_video, an_image, told

InCell = Callable[..., None]


class Breaking:
    """A hook by which one step, or the loading of one stage, breaks the device; at ``times`` of its starts."""

    def __init__(self, verb: str = "step", request_id: str = "v1", at: int = 3, times: int = 1) -> None:
        self._what = (verb, request_id, at)
        self._times = times

    def __call__(self, verb: str, members: tuple[p.Member, ...], step: int) -> None:
        ids = [member.request_id for member in members] or [""]
        if self._times and any((verb, request_id, step) == self._what for request_id in ids):
            self._times -= 1
            raise GenServeError(DEVICE_LOST, "CUDA error: an illegal memory access was encountered")


def test_a_worker_whose_device_is_lost_comes_back_and_everybody_ends(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1"), an_image("i1"), an_image("i2"))
        await cell.finish("v1", "i1", "i2")
        assert [cell.status(name) for name in ("v1", "i1", "i2")] == ["completed"] * 3, told(cell.log)
        (failed,) = cell.events("v1", e.AttemptFailed)
        assert (failed.code, failed.retryable) == (DEVICE_LOST, True)
        assert "illegal memory access" in failed.message
        assert [lost.worker_id for lost in cell.all_events(e.WorkerLost)] == ["worker-0"]
        assert len(cell.all_events(e.WorkerJoined)) == 2

    in_cell(test, workers=1, hook=Breaking())


def test_why_a_worker_ended_is_in_the_log_before_it_ends(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1"))
        await cell.finish("v1")
        kinds = [type(r.event) for r in cell.log]
        assert kinds.index(e.AttemptFailed) < kinds.index(e.WorkerLost), told(cell.log)

    in_cell(test, workers=1, hook=Breaking())


def test_who_was_on_it_goes_on_from_the_last_checkpoint(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1"))
        await cell.finish("v1")
        again = [event for event in cell.events("v1", e.StageStarted) if event.attempt]
        assert [event.from_step for event in again if event.stage == "denoise"] == [2], told(cell.log)

    in_cell(test, workers=1, hook=Breaking())


def test_a_request_that_breaks_every_device_is_given_up(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1"), an_image("i1"))
        await cell.finish("v1", "i1")
        assert (cell.status("v1"), cell.status("i1")) == ("failed", "completed"), told(cell.log)
        assert cell.events("v1", e.RequestFailed)[0].code == "attempts_exhausted"

    in_cell(test, workers=2, hook=Breaking(times=100))


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_a_device_may_be_lost_in_any_stage(in_cell: InCell, verb: str) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(an_image("i1"))
        await cell.finish("i1")
        assert cell.status("i1") == "completed", told(cell.log)
        assert len(cell.all_events(e.WorkerLost)) == 1

    in_cell(test, workers=1, hook=Breaking(verb, "i1", at=0))
