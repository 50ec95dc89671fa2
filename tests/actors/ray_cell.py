"""A cell on real Ray with the small models, to be disturbed by tests; the fixtures are in tests/conftest.py."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray

from actors.framework.ray_runtime import RayRuntime, namespace_of
from actors.gateway import ClusterGateway
from actors.plant import make_scheduler
from actors.scheduler import NAME
from genserve.config import Cluster, Durability, Settings, Telemetry
from genserve.domain import events as e
from genserve.domain.ids import request_stream
from genserve.domain.request import RequestSpec
from genserve.journal.contract import Reader
from genserve.journal.open import open_reader
from genserve.journal.upgrade import upgrade
from genserve.scheduling.gateway import Submission

PATIENCE_S = 120
NAMESPACE = namespace_of(Cluster().name)


@contextmanager
def ray_cluster() -> Iterator[None]:
    """Ray with room for three workers that believe to have a GPU each."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address="local", num_cpus=2, num_gpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def settings_of(
    folder: Path,
    models_dir: Path,
    *,
    progress_every_ms: int = 100,
    cluster: Mapping[str, Any] = MappingProxyType({}),
    **changes: Any,
) -> Settings:
    """Settings of a small cell whose database is there, with frequent checkpoints."""
    settings = Settings(
        data_dir=folder,
        models_dir=models_dir,
        cluster=Cluster(**{"workers": 2, "request_actors": 2, "device": "cpu", **cluster}),
        durability=Durability(checkpoint_every_steps=5, progress_every_ms=progress_every_ms),
        telemetry=Telemetry(log_level="warning"),
        **changes,
    )
    upgrade(settings.database)
    return settings


class RayCell:
    """A scheduler and its workers, two by default, on a local Ray cluster, without HTTP."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime = RayRuntime(settings.cluster.name)
        self.reader: Reader = open_reader(settings.database)
        self.gateway = ClusterGateway(self.runtime.find(NAME), self.reader)

    async def start(self) -> None:
        """Returns when every worker has joined, however slow this machine is."""
        workers = self.settings.cluster.workers or 2
        scheduler = await self.runtime.spawn(NAME, make_scheduler, self.settings, workers, 1.0, "test")
        await scheduler.ask("start")
        for index in range(workers):
            await self.joined(f"worker-{index}")

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
        before = await pid_of(name)
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await pid_of(name) not in (0, before):
                    return
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def hanging(self, name: str) -> AsyncIterator[None]:
        """The process behind an actor is there and does not answer."""
        pid = await pid_of(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    async def joined(self, name: str) -> None:
        """Return once the scheduler has that worker."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if name in (await self.gateway.health()).details["workers"]:
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


async def pid_of(name: str) -> int:
    """0 while there is none."""
    try:
        handle = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
        return int(await handle.pid.remote())
    except (ValueError, ray.exceptions.RayActorError):
        return 0
