"""One measuring process: loads models, times tasks, alone or in a group with others; obeys by pipe."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from genserve.diffusion.accelerator import give_back, is_accelerator, module_of
from genserve.diffusion.catalog import Catalog
from genserve.diffusion.denoising import Denoising
from genserve.diffusion.generation import Generation
from genserve.diffusion.latents import load, snapshot
from genserve.diffusion.load import open_model
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.parallel import Parallel, build_parallel
from genserve.diffusion.parallel_state import from_bytes, pack, receive, send, to_parts
from genserve.diffusion.parallel_world import World
from genserve.diffusion.weights import Weights
from genserve.domain.request import Media, RequestSpec, Stage
from genserve.errors import GenServeError
from genserve.profile.table import Task
from genserve.scheduling.files import write_durably
from genserve.scheduling.results import encode_results

WARM_UP = 1
UNDER_WAY = 3
LATE_S = 0.005
"""How much later than the others the leader of a group comes: out of a step, while they wait."""


class Meter:
    """Times in microseconds, each one after the device has finished."""

    def __init__(self, me: str, catalog: Catalog, models_dir: Path, *, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        if is_accelerator(device):
            module_of(device).set_device(device)
        self._me = me
        self._catalog = catalog
        self._models_dir = models_dir
        self._device = device
        self._models: dict[str, tuple[DiffusionModel, Parallel]] = {}
        self._weights: dict[str, tuple[dict[str, int], int]] = {}
        self._world: World | None = None

    def join(self, port: int, roster: tuple[str, ...]) -> None:
        self._world = World(self._me, roster, store_port=port, device=self._device, timeout_s=120.0)
        self._world.form()

    def hold(self, model: DiffusionModel) -> None:
        """Time this model under its name, instead of one from the models directory."""
        self._models[model.entry.name] = model, build_parallel(model.pipeline)

    def time(self, task: Task, members: tuple[str, ...], repeats: int) -> tuple[int, ...]:
        """The task's times; in a group every member measures, and all see the same.

        Empty where it cannot be done: the model has no such degree, or the device no room for it.
        """
        try:
            return self._time(task, members, repeats)
        except torch.OutOfMemoryError:
            give_back(self._device)
            return ()

    def _time(self, task: Task, members: tuple[str, ...], repeats: int) -> tuple[int, ...]:
        model, _ = self._load(task.model)
        generations = self._generations(task, steps=repeats + WARM_UP)
        if task.stage is Stage.ENCODE:
            (first,) = generations[:1]
            return self._repeat(model, repeats, lambda: model.prepare([first], [model._encode_anew(first.prompt, "")]))
        batch = model.prepare(generations, model.encode(generations))
        if task.stage is Stage.DECODE:
            return self._repeat(model, repeats, lambda: model.decode(batch))
        try:
            self._switch(task.model, batch, members)
        except GenServeError:
            return ()
        return self._repeat(model, repeats, lambda: model.step(batch))

    def time_prices(self, task: Task, members: tuple[str, ...], repeats: int) -> dict[str, int]:
        """Median price of a pause, a resume and a move on one process, and of a change of degree in a group."""
        model, generation, batch = self._under_way(task)
        content = snapshot(model, batch).to_bytes()
        prices = {
            "pause_us": self._median(model, repeats, lambda: snapshot(model, batch)),
            "resume_us": self._median(model, repeats, lambda: load(model, generation, content)),
        }
        prices["move_us"] = self._median(model, repeats, lambda: _moved(model, batch))
        if len(members) > 1 and self._world is not None:
            prices["switch_us"] = round(statistics.median(map(sum, self.time_changes(task, members, repeats))))
        return prices

    def time_changes(self, task: Task, members: tuple[str, ...], repeats: int) -> list[tuple[int, int]]:
        """What it takes to go from one process to a group, and back."""
        model, _, batch = self._under_way(task)
        return [self._widen_and_narrow(model, batch, members) for _ in range(repeats + WARM_UP)][WARM_UP:]

    def _under_way(self, task: Task) -> tuple[DiffusionModel, Generation, Denoising]:
        """A request on this process alone whose sampler has its history: it is part of what moves."""
        model, parallel = self._load(task.model)
        (generation,) = self._generations(task, steps=UNDER_WAY + 1)
        batch = model.prepare([generation], model.encode([generation]))
        parallel.switch(None)
        for _ in range(UNDER_WAY):
            model.step(batch)
        return model, generation, batch

    def time_store(self, task: Task, repeats: int) -> tuple[int, ...]:
        """From frames to the files of a result, durably on disk, as a request actor makes them."""
        entry, model = self._catalog.get(task.model), self._load(task.model)[0]
        (generation,) = self._generations(task, steps=1)
        (frames,) = model.decode(model.prepare([generation], model.encode([generation])))
        media = Media(entry.media)
        spec = RequestSpec("", task.model, media, task.shape, 1, 0, 0, fps=entry.default_fps)

        def store() -> None:
            for result in encode_results(spec, frames):
                write_durably(Path(folder) / result.kind, result.content)

        with tempfile.TemporaryDirectory() as folder:
            return self._repeat(model, repeats, store)

    def time_words(self, members: tuple[str, ...], repeats: int) -> tuple[int, ...]:
        """What the leader's word costs a step at most, in microseconds: said, heard by the others, who do nothing else,
        and answered.
        """
        assert self._world is not None
        group = self._world.group(members)
        times = []
        for _ in range(repeats + WARM_UP):
            began_ns = time.perf_counter_ns()
            if self._me == members[0]:
                group.arrive(members[0])
                group.say(2)
                group.meet()
            else:
                group.hear(members[0])
                group.arrive(members[0])
            times.append((time.perf_counter_ns() - began_ns) // 1000)
        return tuple(times[WARM_UP:])

    def _widen_and_narrow(self, model: DiffusionModel, batch: Denoising, members: tuple[str, ...]) -> tuple[int, int]:
        """What a segment on more processes costs beside its steps: sharing the state, and putting the hooks on; then
        what it takes to go on alone. The others are there already.
        """
        assert self._world is not None
        group, (_, parallel) = self._world.group(members), self._load(batch.model)
        if self._me == members[0]:
            time.sleep(LATE_S)
        marks = [time.perf_counter_ns()]
        if self._me == members[0]:
            send(model, batch, group)
        else:
            batch = receive(model, group, members[0])
        for place in (group, None):
            parallel.switch(place, batch)
            model.synchronize()
            marks.append(time.perf_counter_ns())
        widen, narrow = ((after - before) // 1000 for before, after in pairwise(marks))
        return widen, narrow

    def _switch(self, name: str, batch: Denoising, members: tuple[str, ...]) -> None:
        _, parallel = self._load(name)
        if len(members) == 1:
            parallel.switch(None)
            return
        assert self._world is not None
        parallel.switch(self._world.group(members), batch)

    def _repeat(self, model: DiffusionModel, repeats: int, work: Callable[[], object]) -> tuple[int, ...]:
        return tuple(self._times(model, repeats, work))[WARM_UP:]

    def _median(self, model: DiffusionModel, repeats: int, work: Callable[[], object]) -> int:
        return round(statistics.median(self._repeat(model, repeats, work)))

    @torch.no_grad()
    def _times(self, model: DiffusionModel, repeats: int, work: Callable[[], object]) -> Iterator[int]:
        for _ in range(repeats + WARM_UP):
            began_ns = time.perf_counter_ns()
            work()
            model.synchronize()
            yield (time.perf_counter_ns() - began_ns) // 1000

    def _generations(self, task: Task, *, steps: int) -> list[Generation]:
        entry = self._catalog.get(task.model)
        return [
            Generation(
                prompt="a lighthouse at dusk",
                steps=steps,
                seed=seed,
                guidance_scale=entry.default_guidance_scale,
                width=task.shape.width,
                height=task.shape.height,
                frames=task.shape.frames,
            )
            for seed in range(task.batch)
        ]

    def _load(self, name: str) -> tuple[DiffusionModel, Parallel]:
        """One model at a time: large ones would not fit beside each other."""
        if name not in self._models:
            self._models.clear()
            gc.collect()
            give_back(self._device)
            model, weights = open_model(self._catalog.get(name), self._models_dir, device=self._device)
            took_us = [self._loaded_in_us(weights, stage) for stage in Stage]
            self._models[name] = model, build_parallel(model.pipeline)
            self._weights[name] = {stage: weights.bytes_of(stage) for stage in Stage}, max(took_us)
        return self._models[name]

    def _loaded_in_us(self, weights: Weights, stage: Stage) -> int:
        began_ns = time.perf_counter_ns()
        weights.load(stage)
        return (time.perf_counter_ns() - began_ns) // 1000

    def weigh(self, name: str) -> tuple[dict[str, int], int]:
        """Memory of the weights by stage, in bytes, and the longest that loading one of the stages took."""
        self._load(name)
        return self._weights[name]


def _moved(model: DiffusionModel, batch: Denoising) -> Denoising:
    return from_bytes(model, bytearray().join(to_parts(pack(model, batch))))


def serve(connection: Connection, arguments: dict[str, Any]) -> None:
    """Obey until the pipe is closed."""
    meter = Meter(**arguments)
    while True:
        try:
            method, args = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, getattr(meter, method)(*args)))
        except Exception as error:
            connection.send((False, f"{type(error).__name__}: {error}"))
