"""A whole cell on Ray whose planner asks for groups: scheduler, workers, log and pixels together."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from genserve.audit.replay import replay
from genserve.config import Settings
from genserve.domain import events as e
from genserve.domain.request import Stage
from tests.actors.ray_cell import RayCell, settings_of
from tests.actors.real_models import a_tiny_video, expected_pixels

pytestmark = [pytest.mark.ray, pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    planned = {"planner": "static_sp", "planner_parameters": {"rule": "fixed", "degree": 2}}
    return settings_of(tmp_path_factory.mktemp("cell"), models_dir, **planned)


def groups_of(cell: RayCell, request_id: str) -> list[tuple[str, ...]]:
    """Who denoised it, segment by segment."""
    started = [event for event in cell.events(request_id) if isinstance(event, e.StageStarted)]
    return [s.workers for s in started if s.stage is Stage.DENOISE]


async def test_videos_planned_on_two_workers_run_on_two_with_the_pixels_of_one(cell: RayCell, models_dir: Path) -> None:
    now_us = time.time_ns() // 1000
    ids = ("wide-1", "wide-2", "wide-3")
    await cell.submit(*(a_tiny_video(request_id, now_us, steps=20) for request_id in ids))
    await cell.finish(*ids)
    for request_id in ids:
        assert isinstance(cell.events(request_id)[-1], e.RequestCompleted), cell.events(request_id)
        assert [len(group) for group in groups_of(cell, request_id)] == [2]
        assert cell.pixels(request_id) == expected_pixels(models_dir, a_tiny_video("x", 0, steps=20))
    report = replay(cell.log())
    assert report.is_clean, f"{report.first} {report.violations}"


async def test_a_request_goes_on_from_its_checkpoint_when_a_member_of_its_group_is_killed(
    cell: RayCell, models_dir: Path
) -> None:
    await cell.submit(a_tiny_video("broken", time.time_ns() // 1000))
    leader = await cell.in_the_middle("broken")
    await cell.kill("worker-1" if leader == "worker-0" else "worker-0")
    await cell.finish("broken")
    assert isinstance(cell.events("broken")[-1], e.RequestCompleted), cell.events("broken")
    assert len(groups_of(cell, "broken")) >= 2
    assert cell.pixels("broken") == expected_pixels(models_dir, a_tiny_video("x", 0))
    report = replay(cell.log())
    assert report.is_clean, f"{report.first} {report.violations}"
