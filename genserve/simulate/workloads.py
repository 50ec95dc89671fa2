"""Requests to simulate: drawn from a calibration's classes, or of a trace (see traces); not how they are served.

A workload is a value; equal values give equal requests. Every parameter is an option of the command line.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from genserve.domain.request import Media, RequestSpec
from genserve.errors import CallerError
from genserve.simulate.calibration import SECOND_US, Calibration, RequestClass
from genserve.simulate.limits import check_limits
from genserve.simulate.traces import Arrival, read_trace

MIXES = {"light": 0.2, "balanced": 0.5, "heavy": 0.8}
"""Share of videos (GenServe)."""

SKEWED = {"S": 0.15, "M": 0.25, "L": 0.6}
"""GenServe's Dirichlet draw is not published; this one leans to high resolutions as the draw used did."""


class Workload(Struct, frozen=True):
    """What arrives. ``rate`` is requests per minute; ``duration_s``, where set, replaces ``requests``.

    ``mix`` and ``sizes`` apply where classes are labelled image-S to video-L; elsewhere ``sizes`` may be "uniform" or
    "skewed" (TetriServe's formula over pixels). ``arrivals`` is poisson, bursty (Gamma gaps of
    ``cv``), wave (DiffServe's: the rate swells from an eighth to all of it and back) or constant.
    """

    calibration: str = "genserve"
    mix: str = "balanced"
    sizes: str = "uniform"
    rate: float = 24.0
    sigma: float = 1.0
    arrivals: str = "poisson"
    cv: float = 3.0
    requests: int = 100
    duration_s: float = 0.0
    trace: str = ""


def draw_requests(workload: Workload, calibration: Calibration, *, seed: int) -> tuple[RequestSpec, ...]:
    """The requests of one seed, in order of arrival.

    Raises CallerError ``invalid_workload``.
    """
    check_limits(asdict(workload))
    arrivals = read_trace(Path(workload.trace), calibration) if workload.trace else _draw(workload, calibration, seed)
    specs = [_spec(kind, at_us, index, workload.sigma) for index, (at_us, kind) in enumerate(arrivals)]
    if not specs:
        source = f"{workload.trace} is empty" if workload.trace else f"give seed {seed} a longer duration"
        raise CallerError("invalid_workload", f"no request arrives: {source}")
    return tuple(sorted(specs, key=lambda s: (s.arrival_us, s.request_id)))


def _draw(workload: Workload, calibration: Calibration, seed: int) -> list[Arrival]:
    shares = class_shares(workload, calibration.classes)
    draw = random.Random(f"workload/{seed}")
    times = _arrival_times(workload, random.Random(f"arrivals/{seed}"))
    return [(at_us, draw.choices(calibration.classes, shares)[0]) for at_us in times]


def class_shares(workload: Workload, classes: Sequence[RequestClass]) -> list[float]:
    """The share of each class, summing to 1."""
    weights = [_weight(workload, c, classes) for c in classes]
    total = sum(weights)
    if total <= 0:
        raise CallerError("invalid_workload", f"mix {workload.mix!r} leaves nothing of {workload.calibration}")
    return [w / total for w in weights]


def _weight(workload: Workload, kind: RequestClass, classes: Sequence[RequestClass]) -> float:
    size = kind.label.rpartition("-")[2]
    if {c.media for c in classes} == {Media.IMAGE, Media.VIDEO} and size in SKEWED:
        share = _video_share(workload.mix)
        share = share if kind.media is Media.VIDEO else 1 - share
        return share * (SKEWED[size] if workload.sizes == "skewed" else 1 / 3)
    if workload.sizes == "skewed":
        return math.exp(kind.shape.pixels / max(c.shape.pixels for c in classes))
    return 1.0


def _video_share(mix: str) -> float:
    try:
        share = MIXES[mix] if mix in MIXES else float(mix)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise CallerError("invalid_workload", f"mix is {', '.join(MIXES)} or a share of videos, got {mix!r}")
    return share


def _arrival_times(workload: Workload, draw: random.Random) -> Iterator[int]:
    mean_s, now_s, count = 60 / workload.rate, 0.0, 0
    shape = 1 / workload.cv**2
    while not _is_over(workload, now_s, count):
        if workload.arrivals == "poisson":
            now_s += draw.expovariate(1 / mean_s)
        elif workload.arrivals == "bursty":
            now_s += draw.gammavariate(shape, mean_s / shape)
        elif workload.arrivals == "wave":
            now_s = _next_in_wave(workload, now_s, draw)
        else:
            now_s += mean_s
        if _is_over(workload, now_s, count):
            return
        count += 1
        yield round(now_s * SECOND_US)


def _next_in_wave(workload: Workload, now_s: float, draw: random.Random) -> float:
    """Poisson with a rate that swells from an eighth of ``rate`` to all of it and back within ``duration_s``."""
    while True:
        now_s += draw.expovariate(workload.rate / 60)
        swell = 0.5 - 0.5 * math.cos(2 * math.pi * now_s / max(1.0, workload.duration_s or 350.0))
        if draw.random() < 0.125 + 0.875 * swell:
            return now_s


def _is_over(workload: Workload, now_s: float, count: int) -> bool:
    return now_s >= workload.duration_s if workload.duration_s > 0 else count >= workload.requests


def _spec(kind: RequestClass, at_us: int, index: int, sigma: float) -> RequestSpec:
    return RequestSpec(
        request_id=f"r{index:06}",
        model=kind.model,
        media=kind.media,
        shape=kind.shape,
        steps=kind.steps,
        arrival_us=at_us,
        deadline_us=at_us + round(kind.allowance_us * sigma),
        slo_class=kind.label,
        heavy_model=kind.heavy_model,
    )
