"""What each actor process is made of: the factories that runtimes call; not when they are called."""

from __future__ import annotations

import logging
from functools import partial

from actors.delivery import Inbox
from actors.framework.runtime import Runtime
from actors.link import WorkerSlot
from actors.scheduler import Scheduler
from actors.worker import Worker
from genserve.config import Settings
from genserve.diffusion.catalog import Catalog
from genserve.scheduling.runner import Runner
from observability.logging import setup_logging


def make_scheduler(runtime: Runtime, settings: Settings, workers: int, gpus: float, holder: str) -> Scheduler:
    """The scheduler of a cell with that many workers, each with ``gpus`` of Ray's devices."""
    configure_logging(settings)
    slots = tuple(
        WorkerSlot(
            f"worker-{i}",
            partial(
                runtime.spawn,
                f"worker-{i}",
                make_worker,
                f"worker-{i}",
                settings,
                gpus=gpus,
                threads=settings.cluster.threads_per_worker,
            ),
        )
        for i in range(workers)
    )
    return Scheduler(runtime, settings, slots=slots, holder=holder)


def make_worker(runtime: Runtime, worker_id: str, settings: Settings) -> Worker:
    """A worker with real models; they are loaded when it is first greeted."""
    configure_logging(settings)
    return Worker(runtime, worker_id, partial(_make_device, worker_id, settings), inbox=Inbox())


def _make_device(worker_id: str, settings: Settings) -> Runner:
    """Here and only here does torch enter a process."""
    from genserve.scheduling.device import Device

    return Device(
        Catalog.load(settings.catalog),
        settings.models,
        device=settings.cluster.device,
        threads=settings.cluster.threads_per_worker,
        parallel=settings.cluster.parallel_backend,
        me=worker_id,
        placement=settings.cluster.placement,
        budget_bytes=settings.cluster.memory_bytes,
        step_timeout_s=settings.cluster.step_timeout_s,
    )


def configure_logging(settings: Settings) -> None:
    setup_logging(
        log_format=settings.telemetry.log_format,
        level=settings.telemetry.log_level,
        secrets=settings.http.api_keys,
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
