"""The points at which all planners meet, most telling first; not how they are run."""

from __future__ import annotations

from itertools import product

from msgspec import Struct
from msgspec.structs import replace

from genserve.simulate.compare import Setting
from genserve.simulate.truth import Errors
from genserve.simulate.workloads import Workload

SAVE = "save"
PLANNERS = (
    SAVE, "edf_best_fit", "genserve_ideal", "genserve", "tetriserve:continuous=true", "tridentserve", "srtf",
)  # fmt: skip
BOUND = "bound"
SLOW = "genserve"
"""Runs after everything else, at every point."""
SEEDS = 20


class Point(Struct, frozen=True):
    """One setting of the grid. ``axis`` and ``value`` say what differs from ``base``: "" and 0 at the base itself."""

    base: str
    axis: str
    value: float
    setting: Setting

    @property
    def name(self) -> str:
        gpus = f"{self.setting.gpus}-gpus"
        return "-".join([self.base.replace(", ", "-"), gpus, *([self.axis, f"{self.value:g}"] if self.axis else [])])

    def seeds_of(self, entrant: str) -> int:
        """How many seeds an entrant runs here; 0: it doesn't."""
        return 0 if self.base == "trap" and entrant == BOUND else SEEDS


def _base(mix: str, sizes: str, arrivals: str, gpus: int) -> Point:
    """24 requests a minute on 8 GPUs and in proportion; 100 requests on 8 GPUs, 400 on more."""
    workload = Workload(
        mix=mix, sizes=sizes, rate=24.0 * gpus / 8, arrivals=arrivals, requests=100 if gpus == 8 else 400
    )
    words = [mix, *(["skewed"] if sizes == "skewed" else []), *(["bursty"] if arrivals == "bursty" else [])]
    return Point(", ".join(words), "", 0.0, Setting(workload, gpus=gpus))


def _star(base: Point) -> list[Point]:
    """One thing changed at a time."""
    setting, workload = base.setting, base.setting.workload
    points = [
        *(("sigma", v, replace(setting, workload=replace(workload, sigma=v))) for v in (0.8, 0.9, 1.1, 1.2, 1.3)),
        *(("rate", v, replace(setting, workload=replace(workload, rate=v))) for v in (12.0, 18.0, 30.0, 36.0)),
        *(("switch", v, replace(setting, switch_s=v)) for v in (0.01, 0.1, 0.4, 0.8, 2.0)),
        *(("bias", v, replace(setting, errors=Errors(bias=v))) for v in (0.2, -0.2)),
        ("spread", 0.2, replace(setting, errors=Errors(spread=0.2, noise=0.02))),
    ]
    return [Point(base.base, axis, value, changed) for axis, value, changed in points]


def _trap() -> Point:
    """Images that alone fill the pool for half an hour, and large videos that are lost when they arrive."""
    workload = Workload("trap", mix="0.0125", rate=81.0, duration_s=1800.0)
    return Point("trap", "", 0.0, Setting(workload))


def grid() -> list[Point]:
    """Every point once: all mixes, sizes, arrivals and pools at the middle of the axes, and four stars."""
    every = [_base(m, s, a, g) for g, m, s, a in product((8, 64, 32), MIXES, SIZES, ARRIVALS)]
    known = {p.name: p for p in every}
    stars = [_star(known[name]) for name in STARS]
    small = [p for p in every if p.setting.gpus == 8]
    large = [p for p in every if p.setting.gpus > 8]
    first = [p for p in large if p.name in FIRST]
    sigma = [p for star in stars for p in star if p.axis == "sigma"]
    return [*small, *first, _trap(), *sigma, *(p for star in stars for p in star if p.axis != "sigma"),
            *(p for p in large if p not in first)]  # fmt: skip


MIXES = ("heavy", "balanced", "light")
SIZES = ("uniform", "skewed")
ARRIVALS = ("poisson", "bursty")
STARS = ("heavy-8-gpus", "heavy-skewed-8-gpus", "balanced-bursty-8-gpus", "balanced-8-gpus")
FIRST = ("heavy-64-gpus", "heavy-skewed-64-gpus", "heavy-bursty-64-gpus", "heavy-32-gpus")
