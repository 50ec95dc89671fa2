"""One cell on two machines: requests move between them, groups do not span them, and one may die and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.plant import make_scheduler
from actors.scheduler import NAME
from genserve.audit.replay import replay
from genserve.domain import events as e
from genserve.domain.request import RequestSpec
from tests.actors.machines import HERE, THERE, TwoMachines, can_be_made, make_wandering_scheduler, two_machines
from tests.actors.ray_cell import RayCell, settings_of
from tests.actors.real_models import a_tiny_image, a_tiny_video, expected_pixels
from tests.wander import Wander, wander

__all__ = ["wander"]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.models,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not can_be_made(), reason="takes root and Debian's iproute2"),
]
WORKERS = 4


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoMachines]:
    with two_machines(tmp_path_factory.mktemp("machines")) as machines:
        yield machines


@asynccontextmanager
async def running(folder: Path, models_dir: Path, **settings: Any) -> AsyncIterator[RayCell]:
    """A cell with two workers on each machine."""
    cell = RayCell(settings_of(folder, models_dir, cluster={"workers": WORKERS}, **settings))
    make = make_wandering_scheduler if cell.settings.planner == Wander.title else make_scheduler
    scheduler = await cell.runtime.spawn(NAME, make, cell.settings, WORKERS, 1.0, "test")
    try:
        await scheduler.ask("start")
        await everybody(cell)
        yield cell
    finally:
        await cell.runtime.kill_all()
        cell.reader.close()


async def everybody(cell: RayCell) -> None:
    for index in range(WORKERS):
        await cell.joined(f"worker-{index}")


def some_requests() -> list[RequestSpec]:
    now_us = time.time_ns() // 1000
    videos = [a_tiny_video(f"video-{index}", now_us) for index in range(3)]
    return [*videos, *(a_tiny_image(f"image-{index}", now_us) for index in range(3))]


def check(cell: RayCell, specs: list[RequestSpec], models_dir: Path) -> None:
    for spec in specs:
        assert isinstance(cell.events(spec.request_id)[-1], e.RequestCompleted), cell.events(spec.request_id)
        assert cell.pixels(spec.request_id) == expected_pixels(models_dir, spec)
    report = replay(cell.log())
    assert report.is_clean, f"{report.first} {report.violations}"


def nodes_of(cell: RayCell, request_id: str) -> list[set[str]]:
    """The machines of each of its segments."""
    nodes: dict[str, str] = {}
    found = []
    for recorded in cell.log():
        if isinstance(recorded.event, e.WorkerJoined):
            nodes[recorded.event.worker_id] = recorded.event.node
        elif isinstance(recorded.event, e.StageStarted) and recorded.stream.endswith(f"/{request_id}"):
            found.append({nodes[worker] for worker in recorded.event.workers})
    return found


async def test_requests_wander_between_machines_and_keep_every_pixel(
    machines: TwoMachines, tmp_path: Path, models_dir: Path, wander: Wander
) -> None:
    async with running(tmp_path, models_dir, planner=wander.name) as cell:
        specs = some_requests()[1:4]
        await cell.submit(*specs)
        await cell.finish(*(spec.request_id for spec in specs))
        check(cell, specs, models_dir)
        assert any(len(set.union(*nodes_of(cell, spec.request_id))) == 2 for spec in specs)


async def test_a_group_is_of_one_machine_and_the_other_may_die_and_come_back(
    machines: TwoMachines, tmp_path: Path, models_dir: Path
) -> None:
    parameters = {"rule": "fixed", "degree": 2}
    async with running(tmp_path, models_dir, planner="static_sp", planner_parameters=parameters) as cell:
        specs = some_requests()
        await cell.submit(*specs)
        await cell.in_the_middle(specs[0].request_id)
        await asyncio.to_thread(machines.crash)
        await asyncio.to_thread(machines.boot)
        await cell.finish(*(spec.request_id for spec in specs))
        await everybody(cell)
        check(cell, specs, models_dir)
        segments = [nodes for spec in specs for nodes in nodes_of(cell, spec.request_id)]
        assert all(len(nodes) == 1 for nodes in segments)
        assert set.union(*segments) == {HERE, THERE}
        degrees = {
            len(event.workers)
            for spec in specs
            for event in cell.events(spec.request_id)
            if isinstance(event, e.StageStarted)
        }
        assert 2 in degrees
