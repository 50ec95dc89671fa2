"""Time everything that a plan names, with one process per device, and make a cost table of it."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from genserve.diffusion.catalog import Catalog
from genserve.domain.costs import Overheads, Prices, StoreCost
from genserve.domain.request import Stage
from genserve.errors import InvariantBroken
from genserve.profile.table import Profile, Task, Timing, spread_of, stages_of

PACKAGES = ("torch", "diffusers", "transformers")


class Meters:
    """The measuring processes, ``rank-0`` first; a context manager that ends them."""

    def __init__(self, count: int, catalog: Catalog, models_dir: Path, *, device: str, threads: int) -> None:
        self.device = device
        self.names = tuple(f"rank-{index}" for index in range(count))
        self._context = multiprocessing.get_context("spawn")
        self._pipes: dict[str, Connection] = {}
        self._processes: list[Any] = []
        self._store: Any = None
        for index, name in enumerate(self.names):
            place = f"cuda:{index}" if device == "cuda" else device
            arguments = {"catalog": catalog, "models_dir": models_dir, "device": place, "threads": threads}
            self._start(name, {"me": name, **arguments})

    def __enter__(self) -> Meters:
        from genserve.diffusion.parallel_world import host_store

        if len(self.names) > 1:
            self._store = host_store(120.0)
            self.ask(self.names, "join", self._store.port, self.names)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def ask(self, names: Sequence[str], method: str, *args: Any) -> list[Any]:
        """The answer of each; raises InvariantBroken ``profile_failed`` with what went wrong there."""
        for name in names:
            self._pipes[name].send((method, args))
        answers = [self._pipes[name].recv() for name in names]
        for name, (is_fine, answer) in zip(names, answers, strict=True):
            if not is_fine:
                raise InvariantBroken("profile_failed", f"{name} during {method} {args[:1]}: {answer}")
        return [answer for _, answer in answers]

    def _start(self, name: str, arguments: dict[str, Any]) -> None:
        from genserve.profile.measure import serve

        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, arguments), daemon=True)
        process.start()
        self._pipes[name] = ours
        self._processes.append(process)


def profile(
    tasks: Sequence[Task], meters: Meters, *, name: str, repeats: int, progress: Callable[[Task], None] = lambda _: None
) -> Profile:
    """Time the tasks; one that the model cannot do at that degree has no row.

    Prices are those of the dearest model and shape at hand: too high costs less than too low.
    """
    timings, prices, stores = [], Prices(), []
    memory: dict[str, int] = {}
    for model in dict.fromkeys(task.model for task in tasks):
        weights, load_us = meters.ask(meters.names, "weigh", model)[0]
        memory |= {f"{model}/{stage}": size for stage, size in weights.items()}
        done = [timing for task in tasks if task.model == model for timing in _timed(task, meters, repeats, progress)]
        for decoded in (timing.task for timing in done if timing.task.stage is Stage.DECODE):
            stored = Timing(decoded, meters.ask(meters.names[:1], "time_store", decoded, repeats)[0])
            stores.append(StoreCost(model, decoded.shape, stored.at(0.25)))
        if denoised := [timing.task for timing in done if timing.task.stage is Stage.DENOISE]:
            largest, pair = max(denoised, key=lambda task: task.shape.pixels), meters.names[:2]
            measured = meters.ask(pair, "time_prices", largest, pair, repeats)[0]
            prices = _dearest(prices, {**measured, "load_us": load_us})
        timings += done
    return Profile(
        name=name,
        stages=stages_of(timings),
        prices=prices,
        device=device_name(meters.device),
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        spread=spread_of(timings),
        memory_bytes=memory,
        overheads=Overheads(stores=tuple(sorted(stores))),
    )


def _timed(task: Task, meters: Meters, repeats: int, progress: Callable[[Task], None]) -> Iterator[Timing]:
    members = meters.names[: task.degree]
    times = meters.ask(members, "time", task, members, repeats)[0]
    if times:
        yield Timing(task, times)
    progress(task)


def _dearest(prices: Prices, measured: dict[str, int]) -> Prices:
    from msgspec.structs import asdict

    known = asdict(prices) if prices != Prices() else {}
    return Prices(**{**known, **{key: max(us, known.get(key, 0)) for key, us in measured.items()}})


def device_name(place: str) -> str:
    """The accelerator's name, or the processor's with its number of cores."""
    from genserve.diffusion.accelerator import is_accelerator, module_of

    if is_accelerator(place):
        return str(module_of(place).get_device_name(place))
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
