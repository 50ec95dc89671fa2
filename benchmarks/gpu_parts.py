"""One model measured on one device: what is timed, in which order, and what becomes of it; not the command line.

The result is a Part, which a later run goes on from: what it holds is not timed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct

from benchmarks.gpu_costs import copies, loops, peaks, weights
from genserve.diffusion.accelerator import Place, give_back
from genserve.diffusion.catalog import Catalog
from genserve.diffusion.model import DiffusionModel
from genserve.domain.request import Shape, Stage
from genserve.errors import GenServeError
from genserve.profile.measure import Meter
from genserve.profile.plan import shapes_of
from genserve.profile.table import Task, Timing

VIDEO_SHAPES = {
    "wan2.1-t2v-1.3b": (Shape(832, 480, 33), Shape(832, 480, 17), Shape(480, 272, 33), Shape(1280, 720, 33)),
    "wan2.2-ti2v-5b": (Shape(1280, 704, 49), Shape(832, 480, 49), Shape(832, 480, 121), Shape(480, 288, 49)),
}
"""Beside the default one; images are measured at the squares of ``genserve profile``."""

BATCHES = (2, 4, 8, 16)
QUICK_US = 300_000
"""What takes less is timed more often."""

WORTH = 0.95
"""A larger batch pays while a member's share of the step falls at least to this share."""


class Part(Struct, frozen=True):
    """Everything measured about one model; times in microseconds, memory in bytes."""

    model: str
    device: str
    versions: dict[str, str]
    date: str
    timings: tuple[Timing, ...] = ()
    prices_us: dict[str, int] = {}
    loop_us: dict[str, int] = {}
    copies_us: dict[str, int] = {}
    weights_bytes: dict[str, int] = {}
    peak_bytes: dict[str, int] = {}
    refused: dict[str, str] = {}
    """What could not be measured, and why; not tried again."""

    left_out: tuple[str, ...] = ()


def measure(model: DiffusionModel, part: Part, *, until: float, keep: Callable[[Part], None]) -> Part:
    """Go on with a part until it is whole or ``until`` (monotonic seconds) has passed; kept after each measurement.

    First what is asked of the default shape, then all other shapes and batches.
    """
    entry = model.entry
    meter = Meter("gpu", Catalog(models=(entry,)), Path(), device=str(model.device), threads=torch.get_num_threads())
    meter.hold(model)
    shape = Shape(entry.default_width, entry.default_height, entry.default_frames)
    largest = Task(entry.name, Stage.DENOISE, shape)
    wanted: tuple[tuple[str, Callable[[], dict[str, int]]], ...] = (
        ("weights_bytes", lambda: weights(model)),
        ("peak_bytes", lambda: peaks(model, shape)),
        ("prices_us", lambda: meter.time_prices(largest, ("gpu",), 5)),
        ("copies_us", lambda: copies(model, shape)),
        ("loop_us", lambda: loops(model, shape)),
    )
    for field, work in wanted:
        if not getattr(part, field) and field not in part.refused and time.monotonic() < until:
            print(f"{entry.name}: {field}", flush=True)
            found, refusal = _tried(work, model.device)
            refused = {**part.refused, **({field: refusal} if refusal else {})}
            part = msgspec.structs.replace(part, **{field: found or {}, "refused": refused})
            keep(part)
    return _time_all(meter, model, part, until=until, keep=keep)


def batching_limit(part: Part) -> dict[str, int]:
    """By shape: the largest batch at which a member's share of a step still falls."""
    rows: dict[str, dict[int, float]] = {}
    for timing in part.timings:
        if timing.task.stage is Stage.DENOISE:
            rows.setdefault(str(timing.task.shape), {})[timing.task.batch] = timing.at(0.25) / timing.task.batch
    limits = {}
    for shape, shares in rows.items():
        sizes = sorted(shares)
        pays = [b for a, b in pairwise(sizes) if shares[b] <= WORTH * shares[a]]
        stops = next((a for a, b in pairwise(sizes) if b not in pays), sizes[-1])
        limits[shape] = stops
    return limits


def tasks_of(model: DiffusionModel) -> Iterator[Task]:
    """The default shape first; then batches of images, which the planner asks about most; then other shapes."""
    entry = model.entry
    default = Shape(entry.default_width, entry.default_height, entry.default_frames)
    others = VIDEO_SHAPES.get(entry.name) or tuple(s for s in shapes_of(entry) if s.pixels <= default.pixels)
    shapes = tuple(dict.fromkeys((default, *others)))
    for shape in shapes:
        for stage in (Stage.DENOISE, Stage.DECODE, Stage.ENCODE):
            yield Task(entry.name, stage, shape)
    if entry.media == "image":
        for shape in sorted(shapes, key=lambda s: s.pixels, reverse=True):
            for batch in BATCHES:
                yield Task(entry.name, Stage.DENOISE, shape, 1, batch)


def _time_all(meter: Meter, model: DiffusionModel, part: Part, *, until: float, keep: Callable[[Part], None]) -> Part:
    known = {str(t.task) for t in part.timings} | part.refused.keys()
    left = [task for task in tasks_of(model) if str(task) not in known]
    while left and time.monotonic() < until:
        task = left.pop(0)
        print(task, flush=True)
        times, refusal = _tried(lambda task=task: _times(meter, task), model.device)
        if refusal:
            part = msgspec.structs.replace(part, refused={**part.refused, str(task): refusal})
        else:
            part = msgspec.structs.replace(part, timings=(*part.timings, Timing(task, times)))
        part = msgspec.structs.replace(part, left_out=tuple(map(str, left)))
        keep(part)
    return part


def _times(meter: Meter, task: Task) -> tuple[int, ...]:
    first = meter.time(task, ("gpu",), 2)
    return meter.time(task, ("gpu",), 7) if max(first) < QUICK_US else first


def _tried(work: Callable[[], Any], place: Place) -> tuple[Any, str]:
    """The work's result, or why there is none: no room, or an error with a code."""
    try:
        return work(), ""
    except torch.OutOfMemoryError:
        give_back(place)
        return None, "out_of_memory"
    except GenServeError as error:
        return None, f"{error.code}: {error.message}"
