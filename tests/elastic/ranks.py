"""Processes that form groups, driven by the test: each one has the small models, one thread, and obeys by pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.denoising import Denoising, join
from genserve.diffusion.generation import Generation
from genserve.diffusion.latents import load, save
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.parallel import Parallel, build_parallel
from genserve.diffusion.parallel_state import from_bytes, pack, receive, send, to_parts
from genserve.diffusion.parallel_world import World, host_store
from genserve.errors import GenServeError

NAMES = ("r0", "r1", "r2", "r3")
PATIENCE_S = 200.0


class Rank:
    """What one process can be told to do; every method's answer goes back by pipe."""

    def __init__(self, me: str, models_dir: Path, place: str) -> None:
        torch.set_num_threads(1)
        self.me = me
        self.place = place
        self.models_dir = models_dir
        self.models: dict[str, tuple[DiffusionModel, Parallel]] = {}
        self.world: World | None = None
        self.held: Denoising | None = None

    def join(self, port: int, generation: int, roster: tuple[str, ...], step_timeout_s: float) -> int:
        """Form a world; how many groups this rank is in."""
        self.world = World(
            self.me,
            roster,
            store_port=port,
            generation=generation,
            device=self.place,
            timeout_s=60.0,
            step_timeout_s=step_timeout_s,
        )
        self.world.form()
        return len(self.world._groups)

    def begin(self, name: str, *generations: Generation) -> None:
        model, _ = self._model(name)
        self.held = model.prepare(generations, model.encode(generations))

    def run(self, name: str, members: tuple[str, ...], leader: str, steps: int) -> None:
        """Take steps together; the leader's state goes to the others, who drop it afterwards."""
        model, parallel = self._model(name)
        if len(members) == 1:
            parallel.switch(None)
        else:
            assert self.world is not None
            group = self.world.group(members)
            if self.me == leader:
                assert self.held is not None
                send(model, self.held, group)
            else:
                self.held = receive(model, group, leader)
            parallel.switch(group, self.held)
        assert self.held is not None
        for _ in range(steps):
            model.step(self.held)
        if self.me != leader:
            self.held = None

    def saved(self, name: str) -> list[bytes]:
        """Every member's checkpoint; the batch goes on."""
        assert self.held is not None
        return [save(self._model(name)[0], self.held, index) for index in range(len(self.held.members))]

    def load(self, name: str, generations: tuple[Generation, ...], checkpoints: list[bytes]) -> None:
        """Go on from checkpoints; what was held is dropped."""
        model, _ = self._model(name)
        self.held = join([load(model, g, data) for g, data in zip(generations, checkpoints, strict=True)])

    def take(self, name: str) -> bytes:
        """Give the batch up, for another rank's ``give``."""
        assert self.held is not None
        data, self.held = b"".join(to_parts(pack(self._model(name)[0], self.held))), None
        return data

    def give(self, name: str, data: bytes) -> None:
        self.held = from_bytes(self._model(name)[0], data)

    def forget(self) -> None:
        self.held = None

    def latents(self) -> torch.Tensor:
        assert self.held is not None
        return self.held.latents.to("cpu", copy=True)

    def refusal(self, name: str, degree: int) -> str:
        """The code with which that degree is refused for what is held."""
        assert self.held is not None
        try:
            self._model(name)[1].check(self.held, degree)
        except GenServeError as error:
            return error.code
        return ""

    def broken(self, name: str, members: tuple[str, ...], leader: str) -> str:
        """Run one step in a group that a member leaves by dying: the code of the error that comes of it."""
        try:
            self.run(name, members, leader, 100)
        except GenServeError as error:
            return error.code
        except RuntimeError as error:
            assert self.world is not None
            return self.world.group(members).broken(error).code
        return "nothing"

    def give_up(self, members: tuple[str, ...]) -> None:
        assert self.world is not None
        self.world.group(members).lose()

    def die(self) -> None:
        os._exit(0)

    def use(self, name: str, build: Callable[[Any], Parallel]) -> None:
        """Spread that model by another backend from now on."""
        model, parallel = self._model(name)
        parallel.switch(None)
        self.models[name] = model, build(model.pipeline)

    def _model(self, name: str) -> tuple[DiffusionModel, Parallel]:
        if name not in self.models:
            from genserve.diffusion.load import load_model

            model = load_model(Catalog.load().get(name), self.models_dir, device=self.place)
            self.models[name] = model, build_parallel(model.pipeline)
        return self.models[name]


def _serve(connection: Connection, me: str, models_dir: Path, place: str) -> None:
    with _present(place):
        rank = Rank(me, models_dir, place)
        while True:
            method, args = connection.recv()
            try:
                connection.send((True, getattr(rank, method)(*args)))
            except Exception as error:
                connection.send((False, f"{type(error).__name__}: {error}"))


def _present(place: str) -> AbstractContextManager[object]:
    """The GPU that is not there, imported by those processes only that are to have one."""
    if not place.startswith("fakegpu"):
        return nullcontext()
    from tests import fake_gpu

    return fake_gpu.present()


class Ranks:
    """The processes, by name. Commands to several are sent to all before the first answer is awaited."""

    def __init__(self, models_dir: Path, place: str = "cpu") -> None:
        self._models_dir = models_dir
        self._place = place
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[str, Any] = {}
        self._pipes: dict[str, Connection] = {}
        self._generation = 0
        self._store: Any = None

    def start(self, *names: str) -> None:
        for name in names:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=_serve, args=(theirs, name, self._models_dir, self._place), daemon=True
            )
            process.start()
            self._processes[name], self._pipes[name] = process, ours

    def form(self, *names: str, step_timeout_s: float = 60.0) -> list[int]:
        """A new generation of the world among those processes."""
        self._generation += 1
        self._store = host_store()
        return self.ask(names, "join", self._store.port, self._generation, names, step_timeout_s)

    def ask(self, names: tuple[str, ...], method: str, *args: Any) -> list[Any]:
        """Every answer; all are heard before failures are raised, so that the next question meets its own."""
        self.tell(names, method, *args)
        answers = {name: self._answer(name) for name in names}
        failures = {name: content for name, (is_fine, content) in answers.items() if not is_fine}
        if failures:
            raise AssertionError(f"{method}: {failures}")
        return [content for _, content in answers.values()]

    def tell(self, names: tuple[str, ...], method: str, *args: Any) -> None:
        for name in names:
            self._pipes[name].send((method, args))

    def hear(self, name: str) -> Any:
        is_fine, answer = self._answer(name)
        if not is_fine:
            raise AssertionError(f"{name}: {answer}")
        return answer

    def _answer(self, name: str) -> tuple[bool, Any]:
        if not self._pipes[name].poll(PATIENCE_S):
            raise TimeoutError(f"{name} does not answer")
        return self._pipes[name].recv()  # type: ignore[no-any-return]

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].join()

    def suspend(self, name: str) -> None:
        """It hangs: alive, connected, and silent."""
        os.kill(self._processes[name].pid, signal.SIGSTOP)

    def stop(self) -> None:
        for name in self._processes:
            self.kill(name)
