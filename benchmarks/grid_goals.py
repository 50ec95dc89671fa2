"""The goals of SAVE at the points of the grid, kept or missed; not how they were measured.

A goal on one point is a sentence and whether it holds; what a point has no results for is no goal there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from benchmarks.grid_points import BOUND, SAVE, Point
from benchmarks.grid_table import Found, Row

RELATIVE = {
    ("balanced", "", 0.0): (3.0, 20.0),
    ("heavy", "", 0.0): (6.0, 50.0),
    ("balanced, skewed", "", 0.0): (7.0, 80.0),
    ("balanced", "sigma", 0.8): (10.0, 0.0),
    ("heavy, skewed", "", 0.0): (12.0, 0.0),
}
"""Least relative gain over genserve_ideal and over the literal genserve, in percent, on 8 GPUs."""

VIDEOS = {"balanced": 97.0, "heavy": 87.0, "balanced, skewed": 79.0}
LIGHT_LOAD = 99.9
"""Where everybody has so many percent on time, nobody can be ahead."""


class Verdict(Struct, frozen=True):
    """One goal at one point: what is asked, what was found, and whether that will do."""

    goal: str
    point: str
    found: str
    is_kept: bool


def judge_all(points: list[Point], found: Found) -> list[Verdict]:
    return [v for p in points if p.name in found and p.base != "trap" for v in _judge(p, found[p.name])]


def _judge(point: Point, rows: Mapping[str, Row]) -> Iterator[Verdict]:
    ours = rows[SAVE]
    yield from _ahead(point, rows)
    yield from _near_the_bound(point, rows)
    yield from _relative(point, rows)
    is_middle = not point.axis and point.setting.gpus == 8
    if is_middle and point.base in VIDEOS:
        yield _verdict("99.5% of images on time", point, ours["image"], ours["image"] >= 99.5)
        least = VIDEOS[point.base]
        yield _verdict(f"{least:g}% of videos on time", point, ours["video"], ours["video"] >= least)
    yield _verdict("at most 0.5 pauses per request", point, ours["pauses"], ours["pauses"] <= 0.5)
    yield _verdict("at most 1.5 switches per request", point, ours["switches"], ours["switches"] <= 1.5)
    theirs = rows.get("genserve_ideal")
    if theirs is not None:
        for what in ("p99_s", "worst_lateness"):
            text = f"{ours[what]:.1f} against {theirs[what]:.1f}"
            yield Verdict(f"{what} not above genserve_ideal's", point.name, text, ours[what] <= theirs[what])


def _ahead(point: Point, rows: Mapping[str, Row]) -> Iterator[Verdict]:
    """Ahead of everybody at once: the nearest one decides."""
    others = [(row["gain"], name) for name, row in rows.items() if name not in (SAVE, BOUND)]
    if not others or rows[SAVE]["on_time"] >= LIGHT_LOAD:
        return
    gain, name = min(others)
    interval = rows[name]["gain_ci95"]
    yield Verdict("ahead of every other planner", point.name, f"{gain:+.1f} ±{interval:.1f} on {name}", gain > 0)
    if point.axis == "switch":
        yield Verdict("3 points ahead at every switch price", point.name, f"{gain:+.1f} on {name}", gain >= 3)


def _near_the_bound(point: Point, rows: Mapping[str, Row]) -> Iterator[Verdict]:
    bound, gpus = rows.get(BOUND), point.setting.gpus
    if bound is None:
        return
    least = 93.0 if gpus > 8 else 99.0 if point.base == "balanced" and not point.axis else 97.0
    yield _verdict(f"{least:g}% of the bound", point, bound["reached"], bound["reached"] >= least)


def _relative(point: Point, rows: Mapping[str, Row]) -> Iterator[Verdict]:
    least = RELATIVE.get((point.base, point.axis, point.value)) if point.setting.gpus == 8 else None
    for name, gain in zip(("genserve_ideal", "genserve"), least or (), strict=False):
        if gain and name in rows:
            found = 100 * (rows[SAVE]["on_time"] / rows[name]["on_time"] - 1)
            yield _verdict(f"{gain:g}% above {name}", point, found, found >= gain)


def _verdict(goal: str, point: Point, found: float, is_kept: bool) -> Verdict:
    return Verdict(goal, point.name, f"{found:.2f}", is_kept)


def print_goals(verdicts: list[Verdict]) -> None:
    """Every goal with at how many points it is kept, and each miss."""
    print("\n| goal | kept at | missed at |\n|---|---:|---|")
    for goal in dict.fromkeys(v.goal for v in verdicts):
        of = [v for v in verdicts if v.goal == goal]
        missed = "; ".join(f"{v.point}: {v.found}" for v in of if not v.is_kept)
        print(f"| {goal} | {sum(v.is_kept for v in of)} of {len(of)} | {missed} |")
