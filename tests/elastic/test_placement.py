"""A whole cell on Ray with encode and decode on one worker and denoising on two: log, weights and pixels together."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from genserve.audit.replay import replay
from genserve.config import Settings
from genserve.domain import events as e
from genserve.domain.request import Stage
from tests.actors.ray_cell import RayCell, settings_of
from tests.actors.real_models import a_tiny_image, a_tiny_video, expected_pixels

pytestmark = [pytest.mark.ray, pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(400)]

DENOISERS = {"worker-1", "worker-2"}
BUDGET_BYTES = 30_000_000
"""Room for the denoiser of one small model, and for the small stages of both."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    placement = {"worker-0": ("*/encode", "*/decode"), "worker-*": ("tiny-wan/denoise",)}
    cluster = {"workers": 3, "placement": placement, "memory_bytes": BUDGET_BYTES}
    return settings_of(tmp_path_factory.mktemp("cell"), models_dir, planner="fifo", cluster=cluster)


def workers_of(cell: RayCell, request_id: str, stage: Stage) -> set[str]:
    started = [event for event in cell.events(request_id) if isinstance(event, e.StageStarted)]
    return {worker for s in started if s.stage is stage for worker in s.workers}


def is_clean(cell: RayCell) -> bool:
    report = replay(cell.log())
    assert report.is_clean, f"{report.first} {report.violations}"
    return True


async def test_workers_hold_what_they_are_given_and_videos_pass_between_them_with_the_same_pixels(
    cell: RayCell, models_dir: Path
) -> None:
    joined = {r.event.worker_id: r.event.resident for r in cell.log() if isinstance(r.event, e.WorkerJoined)}
    assert {stage for _, stage in joined["worker-0"]} == {Stage.ENCODE, Stage.DECODE}
    assert joined["worker-1"] == joined["worker-2"] == (("tiny-wan", Stage.DENOISE),)
    ids = tuple(f"apart-{index}" for index in range(4))
    await cell.submit(*(a_tiny_video(request_id, time.time_ns() // 1000, steps=20) for request_id in ids))
    await cell.finish(*ids)
    for request_id in ids:
        assert cell.pixels(request_id) == expected_pixels(models_dir, a_tiny_video("x", 0, steps=20))
        assert workers_of(cell, request_id, Stage.ENCODE) == {"worker-0"}
        assert workers_of(cell, request_id, Stage.DECODE) == {"worker-0"}
        assert workers_of(cell, request_id, Stage.DENOISE) <= DENOISERS
    assert {worker for r in ids for worker in workers_of(cell, r, Stage.DENOISE)} == DENOISERS
    assert not [r for r in cell.log() if isinstance(r.event, e.StageLoaded)]
    assert is_clean(cell)


async def test_a_denoiser_that_nobody_holds_is_loaded_before_its_segment_and_another_one_makes_room(
    cell: RayCell, models_dir: Path
) -> None:
    await cell.submit(a_tiny_image("guest", time.time_ns() // 1000, steps=20))
    await cell.finish("guest")
    assert cell.pixels("guest") == expected_pixels(models_dir, a_tiny_image("x", 0, steps=20))
    (began,) = [
        r
        for r in cell.log()
        if r.stream == "request/guest" and isinstance(r.event, e.StageStarted) and r.event.stage is Stage.DENOISE
    ]
    (worker,) = began.event.workers
    changes = [(r.position, r.event) for r in cell.log() if isinstance(r.event, e.StageLoaded | e.StageUnloaded)]
    assert [(type(c).__name__, c.worker_id, c.model, c.stage) for _, c in changes] == [
        ("StageUnloaded", worker, "tiny-wan", Stage.DENOISE),
        ("StageLoaded", worker, "tiny-sd3", Stage.DENOISE),
    ]
    (_, unloaded), (position, loaded) = changes
    assert position < began.position
    assert loaded.took_us > 0
    assert 0 < loaded.memory_bytes <= BUDGET_BYTES < loaded.memory_bytes + unloaded.memory_bytes
    assert is_clean(cell)


@pytest.mark.parametrize("victim", ["the one that denoises", "worker-0"])
async def test_a_video_goes_on_from_its_checkpoint_when_a_worker_on_its_way_is_killed(
    cell: RayCell, models_dir: Path, victim: str
) -> None:
    name = f"killed-{victim[-1]}"
    await cell.submit(a_tiny_video(name, time.time_ns() // 1000, steps=120))
    running = await cell.in_the_middle(name)
    await cell.kill("worker-0" if victim == "worker-0" else running)
    await cell.finish(name)
    assert isinstance(cell.events(name)[-1], e.RequestCompleted), cell.events(name)
    assert cell.pixels(name) == expected_pixels(models_dir, a_tiny_video("x", 0, steps=120))
    attempts = {event.attempt for event in cell.events(name) if isinstance(event, e.StageStarted)}
    assert attempts == ({0} if victim == "worker-0" else {0, 1})
    assert is_clean(cell)
