"""DiffServe's allocation (MLSys 2025, arXiv 2411.15381, section M4 of the spec): workers, batches and a threshold.

The published objective is the largest threshold t; by enumeration in place of Gurobi, which is exact and needs no
solver. ``by_quality`` takes the feasible point of least FID instead (open point 1). Where nothing is feasible, all
workers run the light model at its best throughput (open point 2). Not the planner that acts on it (see diffserve).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from msgspec import Struct

GRID = 200
"""Thresholds are multiples of 1 / GRID."""


class Cascade(Struct, frozen=True):
    """Batch latencies in milliseconds, f(t) as sampled points, FID by share of light answers, SLO in seconds."""

    light_ms: dict[int, float]
    heavy_ms: dict[int, float]
    deferral: tuple[tuple[float, float], ...]
    fid: tuple[tuple[float, float], ...]
    slo_s: float
    discriminator_ms: float = 0.0


class Allocation(Struct, frozen=True):
    """``threshold`` t sends the share ``heavy_share`` f(t) to the heavy model."""

    light_workers: int
    light_batch: int
    heavy_workers: int
    heavy_batch: int
    threshold: float
    heavy_share: float
    is_fallback: bool = False


def interpolate(points: Sequence[tuple[float, float]], at: float) -> float:
    """Linear between points; the ends go on flat."""
    xs = [x for x, _ in points]
    i = bisect_left(xs, at)
    if i == 0:
        return points[0][1]
    if i == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)


def heavy_share(cascade: Cascade, threshold: float) -> float:
    """f(t), with f(0) = 0 and f(1) = 1."""
    return heavy_share_at(cascade.deferral, threshold)


def heavy_share_at(deferral: Sequence[tuple[float, float]], threshold: float) -> float:
    """f(t) of sampled points between its ends."""
    return interpolate(((0.0, 0.0), *deferral, (1.0, 1.0)), threshold)


def allocate(
    cascade: Cascade,
    *,
    workers: int,
    demand: float,
    light_wait_s: float = 0.0,
    heavy_wait_s: float = 0.0,
    by_quality: bool = False,
) -> Allocation:
    """The allocation for a demand in requests per second, with given mean queueing times."""
    best: tuple[tuple[float, ...], Allocation] | None = None
    for light_batch, heavy_batch in _batches(cascade, light_wait_s + heavy_wait_s):
        light = max(1, math.ceil(demand / _rate(cascade.light_ms, light_batch) - 1e-9))
        heavy = workers - light
        if heavy < 0:
            continue
        share = heavy * _rate(cascade.heavy_ms, heavy_batch) / max(demand, 1e-9)
        found = _best_point(cascade, share, by_quality=by_quality)
        made = Allocation(light, light_batch, heavy, heavy_batch, found[0], heavy_share(cascade, found[0]))
        score = (found[1], -light_batch, -heavy_batch)
        if best is None or score > best[0]:
            best = (score, made)
    return best[1] if best else _all_light(cascade, workers)


def _batches(cascade: Cascade, wait_s: float) -> list[tuple[int, int]]:
    """Pairs whose latencies together with the waits stay within the SLO."""
    fits = []
    for light, light_ms in sorted(cascade.light_ms.items()):
        for heavy, heavy_ms in sorted(cascade.heavy_ms.items()):
            if (light_ms + cascade.discriminator_ms + heavy_ms) / 1000 + wait_s <= cascade.slo_s:
                fits.append((light, heavy))
    return fits


def _rate(table: Mapping[int, float], batch: int) -> float:
    return batch * 1000 / table[batch]


def _best_point(cascade: Cascade, share: float, *, by_quality: bool) -> tuple[float, float]:
    """(threshold, worth): the largest threshold that the heavy workers can carry, or the one of least FID."""
    feasible = [i / GRID for i in range(GRID + 1) if heavy_share(cascade, i / GRID) <= share + 1e-9]
    if not by_quality:
        return feasible[-1], feasible[-1]
    best = min(feasible, key=lambda t: (fid(cascade, t), t))
    return best, -fid(cascade, best)


def fid(cascade: Cascade, threshold: float) -> float:
    """Quality at a threshold, lower is better."""
    return interpolate(cascade.fid, 1 - heavy_share(cascade, threshold))


def fid_of_random_split(cascade: Cascade, light_share: float) -> float:
    """At most this: FID is convex in the share of a mixture that does not look at the answers, so its chord bounds it.

    Not published; the ends of the chord are.
    """
    all_heavy, all_light = cascade.fid[0][1], cascade.fid[-1][1]
    return all_heavy + (all_light - all_heavy) * light_share


def _all_light(cascade: Cascade, workers: int) -> Allocation:
    slo_ms = cascade.slo_s * 1000
    fits = [b for b, ms in cascade.light_ms.items() if ms <= slo_ms] or [min(cascade.light_ms)]
    batch = max(fits, key=lambda b: (_rate(cascade.light_ms, b), -b))
    return Allocation(workers, batch, 0, min(cascade.heavy_ms), 0.0, 0.0, is_fallback=True)
