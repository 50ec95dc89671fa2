"""The groups that one device is in, by generation, and its models' denoisers on them; not what is run on them."""

from __future__ import annotations

import threading
from typing import Any

from genserve.diffusion.denoising import Denoising
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.parallel import Parallel, build_parallel
from genserve.diffusion.parallel_group import STEP_TIMEOUT_S, Group
from genserve.diffusion.parallel_world import World, host_store
from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p

GENERATIONS_KEPT = 4
"""Segments queued before a change of membership may still name an older generation."""


class Peers:
    """Joining runs beside the step thread and disturbs no group of another generation."""

    def __init__(self, device: str, backend: str = "ulysses", *, step_timeout_s: float = STEP_TIMEOUT_S) -> None:
        self._device = device
        self._backend = backend
        self._step_timeout_s = step_timeout_s
        self._worlds: dict[int, World] = {}
        self._stores: list[Any] = []
        self._parallel: dict[str, Parallel] = {}
        self._lock = threading.Lock()

    def host(self) -> int:
        """The port of a store for a new generation; it stays up for as long as its generation is kept."""
        store = host_store()
        self._stores = [*self._stores[1 - GENERATIONS_KEPT :], store]
        return int(store.port)

    def join(self, me: str, world: p.World) -> None:
        """Form this worker's aligned groups; segments may use those that exist while others are still forming.

        Raises GenServeError ``group_not_formed``.
        """
        joined = World(
            me,
            world.roster,
            store_port=world.port,
            generation=world.generation,
            device=self._device,
            step_timeout_s=self._step_timeout_s,
        )
        with self._lock:
            self._worlds[world.generation] = joined
            old = [self._worlds.pop(generation) for generation in sorted(self._worlds)[:-GENERATIONS_KEPT]]
        for other in old:
            other.close()
        joined.form()

    def lose(self, worker_id: str) -> None:
        """Give up every group with that worker: its process is gone."""
        with self._lock:
            worlds = tuple(self._worlds.values())
        for world in worlds:
            world.lose(worker_id)

    def group(self, generation: int, members: tuple[str, ...]) -> Group:
        """Raises GenServeError ``group_lost`` or ``group_not_formed``."""
        with self._lock:
            world = self._worlds.get(generation)
        if world is None:
            raise GenServeError("group_not_formed", f"generation {generation} of the world was not joined in time")
        return world.group(members)

    def check(self, model: DiffusionModel, denoising: Denoising, degree: int) -> None:
        """Raises GenServeError ``unsupported_degree``."""
        self._of(model).check(denoising, degree)

    def switch(self, model: DiffusionModel, denoising: Denoising, group: Group | None) -> None:
        """Whose step the model's next one is; nothing happens for a model that was never on a group."""
        if group is not None or model.entry.name in self._parallel:
            self._of(model).switch(group, denoising)

    def forget(self, model: str, stage: Stage) -> None:
        """The stage's weights go; nothing here is to keep them. The denoiser will be another object."""
        if stage is Stage.DENOISE and model in self._parallel:
            self._parallel.pop(model).switch(None)

    def _of(self, model: DiffusionModel) -> Parallel:
        name = model.entry.name
        if name not in self._parallel:
            self._parallel[name] = build_parallel(model.pipeline, self._backend)
        return self._parallel[name]
