"""SIGKILL on real Ray, with real models, in the middle of denoising: nothing acknowledged is lost, no pixel changes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import ray

from actors.framework.ray_runtime import NAMESPACE, RayRuntime
from actors.framework.runtime import Ref, UnreachableError
from actors.gateway import ClusterGateway
from actors.plant import make_scheduler
from actors.scheduler import NAME
from genserve.audit.replay import replay
from genserve.config import Cluster, Durability, Settings, Telemetry
from genserve.domain import events as e
from genserve.domain.ids import request_stream
from genserve.domain.request import RequestSpec, Stage
from genserve.errors import Unavailable
from genserve.journal.contract import Reader
from genserve.journal.open import open_reader
from genserve.journal.upgrade import upgrade
from genserve.scheduling.gateway import Submission
from tests.actors.real_models import a_tiny_image, a_tiny_video, expected_pixels

pytestmark = [pytest.mark.ray, pytest.mark.models, pytest.mark.timeout(240)]
PATIENCE_S = 120


class RayCell:
    """A scheduler and its workers, two by default, on a local Ray cluster, without HTTP."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime = RayRuntime()
        self.reader: Reader = open_reader(settings.database)
        self.gateway = ClusterGateway(self.runtime.find(NAME), self.reader)

    async def start(self) -> None:
        workers = self.settings.cluster.workers or 2
        scheduler = await self.runtime.spawn(NAME, make_scheduler, self.settings, workers, 1.0, "test")
        await scheduler.ask("start")

    async def submit(self, *specs: RequestSpec) -> None:
        await self.gateway.submit(Submission(specs))

    async def finish(self, *request_ids: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(self._follow(request_id) for request_id in request_ids))

    async def _follow(self, request_id: str) -> None:
        async for _ in self.gateway.follow(request_id, after=0):
            pass

    async def in_the_middle(self, request_id: str) -> str:
        """Return once a checkpoint of the request is in the log; the worker that runs it."""
        worker_id = ""
        async with asyncio.timeout(PATIENCE_S):
            async for recorded in self.gateway.follow(request_id, after=0):
                if isinstance(recorded.event, e.StageStarted):
                    worker_id = recorded.event.workers[0]
                if isinstance(recorded.event, e.LatentsCheckpointed):
                    return worker_id
        raise AssertionError(f"{request_id} ended without a checkpoint")

    async def kill(self, name: str) -> None:
        """SIGKILL the process behind an actor; returns when it is another one."""
        before = await _pid(name)
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await _pid(name) not in (0, before):
                    return
                await asyncio.sleep(0.05)

    async def serving(self, request_id: str) -> str:
        """The name of the request actor in charge."""
        for name in ("request-0", "request-1"):
            if request_id in await self.runtime.find(name).ask("serving"):
                return name
        raise AssertionError(f"nobody serves {request_id}")

    def events(self, request_id: str) -> list[e.AnyEvent]:
        return [recorded.event for recorded in self.reader.read_stream(request_stream(request_id))]

    def log(self) -> list[e.Recorded]:
        return self.reader.read(0, 100_000)

    def pixels(self, request_id: str) -> tuple[str, ...]:
        """Hashes of the stored files."""
        stored = [event.artifact for event in self.events(request_id) if isinstance(event, e.ArtifactStored)]
        return tuple(artifact.sha256 for artifact in stored)


async def _pid(name: str) -> int:
    """0 while there is none."""
    try:
        handle = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
        return int(await handle.pid.remote())
    except (ValueError, ray.exceptions.RayActorError):
        return 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(namespace=NAMESPACE, num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("ray"),
        models_dir=models_dir,
        cluster=Cluster(workers=2, request_actors=2, device="cpu"),
        durability=Durability(checkpoint_every_steps=5, progress_every_ms=100),
        telemetry=Telemetry(log_level="warning"),
    )
    upgrade(settings.database)
    return settings


@pytest.fixture
async def cell(cluster: None, settings: Settings) -> AsyncIterator[RayCell]:
    """The same cell for every test of this module: actors are detached, so one test finds what the last one left."""
    cell = RayCell(settings)
    await cell.start()
    yield cell
    cell.reader.close()


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
    scheduler: Ref = cell.runtime.find(NAME)
    for name in (*await scheduler.ask("stop"), NAME):
        await cell.runtime.kill(name)
    with pytest.raises(UnreachableError):
        await cell.runtime.find("worker-0").ask("reporting")
