"""A whole cell on Ray whose planner asks for groups: scheduler, workers, log and pixels together."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import ray

from actors.framework.ray_runtime import NAMESPACE
from genserve.audit.replay import replay
from genserve.config import Cluster, Durability, Settings, Telemetry
from genserve.domain import events as e
from genserve.domain.request import Stage
from genserve.journal.upgrade import upgrade
from tests.actors.real_models import a_tiny_video, expected_pixels
from tests.actors.test_ray_crashes import RayCell

pytestmark = [pytest.mark.ray, pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(namespace=NAMESPACE, num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("cell"),
        models_dir=models_dir,
        planner="static_sp",
        planner_parameters={"rule": "fixed", "degree": 2},
        cluster=Cluster(workers=2, request_actors=2, device="cpu"),
        durability=Durability(checkpoint_every_steps=5, progress_every_ms=100),
        telemetry=Telemetry(log_level="warning"),
    )
    upgrade(settings.database)
    return settings


@pytest.fixture
async def cell(cluster: None, settings: Settings) -> AsyncIterator[RayCell]:
    cell = RayCell(settings)
    await cell.start()
    yield cell
    cell.reader.close()


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
