"""The composition root: a cell on a Ray cluster, from settings to a URL and back to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid

import ray
from msgspec.structs import replace

from actors.framework.ray_cluster import count_gpus, count_machines, join_cluster, start_cluster, take_name
from actors.framework.ray_runtime import RayRuntime
from actors.framework.runtime import Ref, UnreachableError
from actors.plant import make_scheduler
from actors.preflight import check_machines, check_settings, check_workers
from actors.scheduler import NAME
from actors.serving import Serving
from actors.watch import WATCH_S, Say, refuse_watched, watch_once
from genserve.config import Settings
from genserve.diffusion.catalog import Catalog
from genserve.errors import Unavailable
from genserve.journal.upgrade import upgrade
from genserve.journal.urls import shown
from genserve.scheduling.costs import find_shipped_costs
from genserve.scheduling.gateway import Health

LOGICAL_WORKERS = 2
"""Workers where there is no GPU: enough to see two requests run side by side."""


class Cell:
    """A scheduler, its workers and its ingress on Ray. ``start`` and ``stop`` are a pair."""

    def __init__(self, settings: Settings, *, say: Say = lambda _: None) -> None:
        self.settings = _with_costs(settings)
        self._say = say
        self._runtime = RayRuntime(settings.cluster.name)
        self._serving = Serving(self.settings, say)
        self._scheduler: Ref | None = None
        self._name: object = None

    @property
    def url(self) -> str:
        """Where clients find it, once it has been started."""
        return self._serving.url

    async def start(self) -> None:
        """Bring everything up; returns when requests are accepted and workers have joined.

        Raises CallerError before anything is started where the settings cannot work.
        """
        check_settings(self.settings)
        address = self.settings.cluster.address
        self._say(f"Ray: joining {address}" if address else "Ray: starting")
        workers, gpus = self._join() if address else self._start_ray()
        settings = _on_gpus(self.settings) if gpus else self.settings
        await self._make_room()
        self._say(f"database: upgrading {shown(settings.database)}")
        await asyncio.to_thread(upgrade, settings.database)
        self._say(f"scheduler: recovering the log and greeting {workers} workers, which load their models")
        holder = uuid.uuid4().hex
        self._scheduler = await self._runtime.spawn(NAME, make_scheduler, settings, workers, gpus, holder)
        await self._scheduler.ask("start")
        self._say("Ray Serve: starting the HTTP ingress")
        await asyncio.to_thread(self._serving.start)

    async def watch(self) -> Health:
        """The scheduler's health; asking also makes a restarted scheduler lead again."""
        if self._scheduler is None:
            raise Unavailable("scheduler_unavailable", "the cell has not been started")
        await self._scheduler.ask("start")
        await self._scheduler.ask("watch")
        health: Health = await self._scheduler.ask("health")
        return health

    async def stop(self) -> None:
        """Take down what is this cell's; requests under way go on from the log at the next start."""
        if not ray.is_initialized():
            return
        await asyncio.to_thread(self._serving.stop)
        if self._scheduler is not None:
            with contextlib.suppress(UnreachableError):
                await self._scheduler.ask("stop")
            await self._runtime.kill_all()
        await asyncio.to_thread(ray.shutdown)

    def _join(self) -> tuple[int, int]:
        """How many workers there will be, and how many of the cluster's GPUs each one takes: 1, if it has any."""
        cluster = self.settings.cluster
        join_cluster(cluster.address)
        self._name = take_name(cluster.name)
        gpus = count_gpus() if cluster.device in ("auto", "cuda") else 0
        workers = cluster.workers or gpus or LOGICAL_WORKERS
        check_workers(self.settings, workers, gpus=gpus)
        check_machines(self.settings, count_machines())
        return workers, int(gpus > 0)

    async def _make_room(self) -> None:
        """Remove what a process that was killed left in the cluster; refuse where others are in the way."""
        left = await self._runtime.names()
        if NAME in left:
            await refuse_watched(self._runtime.find(NAME), self.settings.cluster.name)
        await asyncio.to_thread(self._serving.check, is_name_ours=bool(left))
        if left:
            self._say(f"Ray: removing {len(left)} actors that an earlier start left behind")
            await asyncio.to_thread(self._serving.remove)
            await self._runtime.kill_all()

    def _start_ray(self) -> tuple[int, int]:
        """As ``_join``, in a cluster of its own."""
        cluster = self.settings.cluster
        real = _count_gpus() if cluster.device in ("auto", "cuda") else 0
        workers = cluster.workers or real or LOGICAL_WORKERS
        check_workers(self.settings, workers, gpus=real)
        start_cluster(gpus=real)
        return workers, int(real > 0)


def _with_costs(settings: Settings) -> Settings:
    """The shipped cost table where none is named and it is about the models that are served."""
    if settings.costs is not None:
        return settings
    return replace(settings, costs=find_shipped_costs(Catalog.load(settings.catalog)))


def _on_gpus(settings: Settings) -> Settings:
    """A worker that has been given a GPU and cannot use it is not to run on the CPU instead."""
    return replace(settings, cluster=replace(settings.cluster, device="cuda"))


def _count_gpus() -> int:
    """Devices that PyTorch sees; only asked here, in a process that does nothing else."""
    from genserve.diffusion.accelerator import count_gpus

    return count_gpus()


async def serve_forever(settings: Settings, say: Say) -> None:
    """Run a cell until SIGINT or SIGTERM, which may come while it starts."""
    cell = Cell(settings, say=say)
    running = asyncio.create_task(_run(cell, say))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        say("stopping")
    finally:
        await cell.stop()


async def _run(cell: Cell, say: Say) -> None:
    await cell.start()
    is_ready: bool | None = None
    while True:
        is_ready = await watch_once(cell, say, is_ready)
        await asyncio.sleep(WATCH_S)
