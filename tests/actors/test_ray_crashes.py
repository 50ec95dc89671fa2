"""SIGKILL on real Ray, with real models, in the middle of denoising: nothing acknowledged is lost, no pixel changes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from actors.framework.runtime import UnreachableError
from actors.scheduler import NAME
from genserve.audit.replay import replay
from genserve.config import Settings
from genserve.domain import events as e
from genserve.domain.request import Stage
from genserve.errors import Unavailable
from tests.actors.ray_cell import PATIENCE_S, RayCell, settings_of
from tests.actors.real_models import a_tiny_image, a_tiny_video, expected_pixels

pytestmark = [pytest.mark.ray, pytest.mark.models, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    return settings_of(tmp_path_factory.mktemp("ray"), models_dir, cluster={"worker_timeout_s": 10.0})


async def play(cell: RayCell, name: str) -> tuple[str, ...]:
    """A video and an image, both long enough to be hit in the middle; returns their ids."""
    now_us = time.time_ns() // 1000
    ids = (f"video-{name}", f"image-{name}")
    await cell.submit(a_tiny_video(ids[0], now_us), a_tiny_image(ids[1], now_us))
    return ids


async def check(cell: RayCell, ids: tuple[str, ...], models_dir: Path) -> None:
    await cell.finish(*ids)
    for request_id in ids:
        assert isinstance(cell.events(request_id)[-1], e.RequestCompleted), cell.events(request_id)
    assert cell.pixels(ids[0]) == expected_pixels(models_dir, a_tiny_video(ids[0], 0))
    assert cell.pixels(ids[1]) == expected_pixels(models_dir, a_tiny_image(ids[1], 0))
    report = replay(cell.log())
    assert report.is_clean, f"{report.first} {report.violations}"


def attempts(cell: RayCell, request_id: str) -> list[tuple[int, int]]:
    """(attempt, first step) of every denoising run."""
    started = [event for event in cell.events(request_id) if isinstance(event, e.StageStarted)]
    return [(s.attempt, s.from_step) for s in started if s.stage is Stage.DENOISE]


async def test_undisturbed_requests_get_the_pixels_of_the_plain_models(cell: RayCell, models_dir: Path) -> None:
    ids = await play(cell, "plain")
    await check(cell, ids, models_dir)


async def test_a_request_survives_the_death_of_its_worker(cell: RayCell, models_dir: Path) -> None:
    ids = await play(cell, "worker")
    await cell.kill(await cell.in_the_middle(ids[0]))
    await check(cell, ids, models_dir)
    (_, first), (_, resumed) = attempts(cell, ids[0])[:2]
    assert first == 0 < resumed


async def test_a_request_survives_a_worker_that_hangs_and_comes_back(cell: RayCell, models_dir: Path) -> None:
    ids = await play(cell, "hung")
    name = await cell.in_the_middle(ids[0])
    async with cell.hanging(name):
        await check(cell, ids, models_dir)
    (_, first), (_, resumed) = attempts(cell, ids[0])[:2]
    assert first == 0 < resumed
    await cell.joined(name)


async def test_a_request_survives_the_death_of_its_request_actor(cell: RayCell, models_dir: Path) -> None:
    ids = await play(cell, "actor")
    await cell.in_the_middle(ids[0])
    await cell.kill(await cell.serving(ids[0]))
    await check(cell, ids, models_dir)
    assert attempts(cell, ids[0]) == [(0, 0)]


async def test_requests_survive_the_death_of_the_scheduler(cell: RayCell, models_dir: Path) -> None:
    ids = await play(cell, "scheduler")
    await cell.in_the_middle(ids[0])
    await cell.kill(NAME)
    await check(cell, ids, models_dir)
    assert attempts(cell, ids[0]) == [(0, 0)]
    elected = [r.position for r in cell.log() if isinstance(r.event, e.LeaderElected)][-1]
    steps = [r.position for r in cell.log() if isinstance(r.event, e.StepsFinished)]
    assert steps[0] < elected < steps[-1]


async def test_a_submission_is_accepted_again_soon_after_the_schedulers_death(cell: RayCell, models_dir: Path) -> None:
    await cell.kill(NAME)
    spec = a_tiny_image("image-after", time.time_ns() // 1000)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await cell.submit(spec)
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                break
    await cell.finish("image-after")
    assert cell.pixels("image-after") == expected_pixels(models_dir, spec)


async def test_the_cell_stops_and_leaves_no_actor_behind(cell: RayCell) -> None:
    await cell.runtime.find(NAME).ask("stop")
    await cell.runtime.kill_all()
    assert await cell.runtime.names() == []
    with pytest.raises(UnreachableError):
        await cell.runtime.find("worker-0").ask("reporting")
