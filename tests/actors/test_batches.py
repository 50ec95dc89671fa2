"""Batches that a planner makes, through the whole system: members end, fail, stop and start over one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genserve.domain import events as e
from genserve.domain.request import RequestSpec, Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from tests.actors.cell import LocalCell, an_image, batching_costs
from tests.actors.virtual_time import START_US
from tests.builders import SECOND

InCell = Callable[..., None]
NAMES = ("i1", "i2", "i3", "i4")
OTHERS = ("i1", "i3", "i4")


def four(*, steps: int = 6) -> list[RequestSpec]:
    return [an_image(name, steps=steps, seed=n, deadline_us=START_US + 60 * SECOND) for n, name in enumerate(NAMES)]


@pytest.fixture
def batching(tmp_path: Path) -> dict[str, Any]:
    """SAVE on one worker, where sharing steps pays."""
    return {"planner": "save", "workers": 1, "costs": batching_costs(tmp_path)}


def sizes(cell: LocalCell, name: str) -> list[int]:
    """How many shared each denoising segment of a request."""
    return [s.batch for s in cell.events(name, e.StageStarted) if s.stage is Stage.DENOISE]


@pytest.fixture
def expected(in_cell: InCell) -> dict[str, tuple[str, ...]]:
    """Results of the same requests one after the other."""
    found: dict[str, tuple[str, ...]] = {}

    async def test(cell: LocalCell) -> None:
        await cell.submit(*four())
        await cell.finish(*NAMES)
        assert [sizes(cell, name) for name in NAMES] == [[1]] * 4
        found.update(cell.pixels(*NAMES))

    in_cell(test, planner="fifo", workers=1)
    return found


def test_images_submitted_together_share_steps_and_have_the_results_of_runs_alone(
    in_cell: InCell, batching: dict[str, Any], expected: dict[str, tuple[str, ...]]
) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(*four())
        await cell.finish(*NAMES)
        assert [sizes(cell, name) for name in NAMES] == [[4]] * 4
        assert {f.batch for f in cell.all_events(e.StepsFinished)} == {4}
        assert cell.pixels(*NAMES) == expected

    in_cell(test, **batching)


def test_a_batch_that_gives_way_goes_on_together_where_it_stopped(
    in_cell: InCell, batching: dict[str, Any], expected: dict[str, tuple[str, ...]]
) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(*four())
        await cell.wait_for("i1", e.StepsFinished)
        await cell.submit(an_image("urgent", deadline_us=cell.loop.clock_us() + 600_000))
        await cell.finish(*NAMES, "urgent")
        paused = {(f.step, f.home) for name in NAMES for f in cell.events(name, e.RequestPaused)}
        assert len(paused) == 1
        assert [sizes(cell, name) for name in NAMES] == [[4, 4]] * 4
        assert cell.pixels(*NAMES) == expected

    in_cell(test, **batching)


def test_a_member_that_is_cancelled_leaves_the_others_undisturbed(
    in_cell: InCell, batching: dict[str, Any], expected: dict[str, tuple[str, ...]]
) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(*four())
        await cell.wait_for("i2", e.StepsFinished)
        await cell.gateway.cancel("i2", "client")
        await cell.finish(*NAMES)
        assert [cell.status(name) for name in NAMES] == ["completed", "cancelled", "completed", "completed"]
        assert [sizes(cell, name) for name in OTHERS] == [[4]] * 3
        assert cell.events("i1", e.StepsFinished)[-1].batch == 3
        assert cell.pixels(*OTHERS) == {name: expected[name] for name in OTHERS}

    in_cell(test, **batching)


def test_a_member_that_does_not_fit_fails_alone(
    in_cell: InCell, batching: dict[str, Any], expected: dict[str, tuple[str, ...]]
) -> None:
    def hook(verb: str, members: tuple[p.Member, ...], step: int) -> None:
        if verb == "step" and step >= 1 and any(m.request_id == "i2" for m in members):
            raise GenServeError("out_of_memory", "i2 wants too much")

    async def test(cell: LocalCell) -> None:
        await cell.submit(*four())
        await cell.finish(*NAMES)
        assert [cell.status(name) for name in NAMES] == ["completed", "failed", "completed", "completed"]
        assert [sizes(cell, name) for name in OTHERS] == [[4]] * 3
        assert cell.pixels(*OTHERS) == {name: expected[name] for name in OTHERS}

    in_cell(test, hook=hook, **batching)


def test_members_of_a_batch_whose_worker_dies_go_on_together_from_their_checkpoints(
    in_cell: InCell, batching: dict[str, Any], expected: dict[str, tuple[str, ...]]
) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(*four())
        for name in NAMES:
            await cell.wait_for(name, e.LatentsCheckpointed, step=2)
        cell.runtime.crash("worker-0")
        await cell.finish(*NAMES)
        assert [sizes(cell, name) for name in NAMES] == [[4, 4]] * 4
        assert cell.events("i1", e.StageStarted)[-2].from_step >= 2
        assert cell.pixels(*NAMES) == expected

    in_cell(test, **batching)
