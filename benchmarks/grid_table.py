"""What the grid found, as markdown tables, a CSV and a list of goals kept and missed; not how it was run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from msgspec import Struct

from benchmarks.grid_points import BOUND, PLANNERS, SAVE, Point
from genserve.simulate.compare import mean_ci, summarise
from genserve.simulate.score import Score


class Cell(Struct, frozen=True):
    """What one entrant did at one point, seed by seed; for the bound, its share of requests on time."""

    point: str
    entrant: str
    scores: tuple[Score, ...] = ()
    bounds: tuple[float, ...] = ()
    took_s: float = 0.0


Row = dict[str, float]
Found = dict[str, dict[str, Row]]
"""By point and entrant: percentages, allowances, seconds; the bound has only ``on_time``, ``seeds`` and ``reached``."""

LARGEST = "video-L"
SHORT = {"tetriserve:continuous=true": "tetriserve, continuous"}


def summarise_all(cells: Mapping[str, Mapping[str, Cell]]) -> Found:
    return {name: _summarise_point(of) for name, of in cells.items() if SAVE in of}


def _summarise_point(cells: Mapping[str, Cell]) -> dict[str, Row]:
    ours = cells[SAVE].scores
    rows = {name: _row(cells[name].scores, ours) for name in PLANNERS if name in cells}
    if BOUND in cells:
        bounds = cells[BOUND].bounds
        reached = fmean(s.attainment["all"] for s in ours[: len(bounds)]) / fmean(bounds)
        rows[BOUND] = {"seeds": len(bounds), "on_time": 100 * fmean(bounds), "reached": 100 * reached}
    return rows


def _row(scores: Sequence[Score], ours: Sequence[Score]) -> Row:
    """``gain`` is ours minus theirs, paired by seed."""
    both = min(len(scores), len(ours))
    scores = scores[:both]
    summary: dict[str, Any] = summarise(scores, against=ours[:both])
    latency, largest = summary["latency_s"], summary["classes"].get(LARGEST)
    return {
        "seeds": both,
        "on_time": 100 * summary["attainment"]["mean"],
        "ci95": 100 * summary["attainment"]["ci95"],
        "gain": 100 * summary["gain_of_first"]["mean"],
        "gain_ci95": 100 * summary["gain_of_first"]["ci95"],
        "image": 100 * (summary["image"] or mean_ci([]))["mean"],
        "video": 100 * (summary["video"] or mean_ci([]))["mean"],
        "largest": 100 * largest["mean"] if largest else 0.0,
        "largest_served": 100 * summary["served"].get(LARGEST, 0.0),
        "largest_p99_s": latency.get(LARGEST, {}).get("p99", 0.0),
        "worst_lateness": summary["worst_lateness"],
        "p99_s": latency["all"].get("p99", 0.0),
        "pauses": summary["pauses_per_request"],
        "switches": summary["switches_per_request"],
    }


def write_csv(path: Path, points: Iterable[Point], found: Found) -> None:
    """One line per point and entrant that was run."""
    columns = list(_columns(found))
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["base", "gpus", "axis", "value", "planner", *columns])
        for point in points:
            for entrant, row in found.get(point.name, {}).items():
                values = [f"{row[c]:.4g}" if c in row else "" for c in columns]
                out.writerow([point.base, point.setting.gpus, point.axis, point.value or "", entrant, *values])


def _columns(found: Found) -> Iterable[str]:
    return dict.fromkeys(c for rows in found.values() for row in rows.values() for c in row)


def print_all(points: Sequence[Point], found: Found) -> None:
    done = [p for p in points if p.name in found]
    print(f"\n{len(done)} of {len(points)} points have results\n")
    trap = [p for p in done if p.base == "trap"]
    middle = [p for p in done if not p.axis and p not in trap]
    print_middle(middle, found)
    for key in dict.fromkeys((p.base, p.axis) for p in done if p.axis):
        print_axis(*key, [p for p in done if (p.base, p.axis) == key], found)
    for point in (p for p in done if p.base in ("heavy", "balanced", "heavy, skewed") and not p.axis):
        print_tails(f"{point.base}, {point.setting.gpus} GPUs", found[point.name])
    for point in trap:
        print_tails("trap", found[point.name])


def print_middle(points: Sequence[Point], found: Found) -> None:
    print("| GPUs | " + " | ".join(["workload", *map(_short, PLANNERS), "bound", "save of it"]) + " |")
    print("|---:|---|" + "---:|" * (len(PLANNERS) + 2))
    for point in points:
        rows = found[point.name]
        bound = rows.get(BOUND)
        cells = [_attainment(rows.get(p), with_interval=p == SAVE) for p in PLANNERS]
        cells += [f"{bound['on_time']:.1f}", f"{bound['reached']:.1f}"] if bound else ["", ""]
        print(f"| {point.setting.gpus} | {point.base} | " + " | ".join(cells) + " |")


def print_axis(base: str, axis: str, points: Sequence[Point], found: Found) -> None:
    print(f"\n| {base}: {axis} | " + " | ".join(f"{p.value:g}" for p in points) + " |")
    print("|---|" + "---:|" * len(points))
    for name in (*PLANNERS, BOUND):
        if any(name in found[p.name] for p in points):
            print(f"| {_short(name)} | " + " | ".join(_attainment(found[p.name].get(name)) for p in points) + " |")


def print_tails(title: str, rows: Mapping[str, Row]) -> None:
    """Who pays."""
    print(f"\n| {title} | on time | largest on time | finished while others came | p99 s | worst lateness |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in (p for p in PLANNERS if p in rows):
        row = rows[name]
        cells = [_attainment(row), f"{row['largest']:.0f}%", f"{row['largest_served']:.0f}%"]
        cells += [f"{row['largest_p99_s']:.0f}", f"{row['worst_lateness']:.1f}"]
        print(f"| {_short(name)} | " + " | ".join(cells) + " |")


def _attainment(row: Row | None, *, with_interval: bool = False) -> str:
    if row is None:
        return ""
    return f"{row['on_time']:.1f}" + (f" ±{row['ci95']:.1f}" if with_interval else "")


def _short(name: str) -> str:
    return SHORT.get(name, name)
