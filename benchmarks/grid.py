"""Ours against all at every point of a declared grid, resumably: one file per point and entrant, then a table.

    python -m benchmarks.grid --out var/grid --jobs 2     run what is missing, most telling points first, then print
    python -m benchmarks.grid --out var/grid --only trap  only points whose name contains this
    python -m benchmarks.grid --out var/grid --print --csv docs/results/grid.csv

Every entrant meets the same requests at a point. Stop it at any time and start it again: what is there is kept.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import msgspec

from benchmarks.grid_goals import judge_all, print_goals
from benchmarks.grid_points import BOUND, PLANNERS, SLOW, Point, grid
from benchmarks.grid_table import Cell, print_all, summarise_all, write_csv
from genserve.simulate.compare import parse_entrant, prove_one, run_one


def file_of(out: Path, point: Point, entrant: str) -> Path:
    return out / f"{point.name}.{entrant.replace(':', '_')}.json"


def run_cell(out: Path, point: Point, entrant: str) -> tuple[str, float]:
    """Run all seeds and write the file whole, so that an interrupted run leaves nothing half done."""
    began, seeds = time.process_time(), range(point.seeds_of(entrant))
    if entrant == BOUND:
        proven = [prove_one(point.setting, s) for s in seeds]
        cell = Cell(point.name, entrant, bounds=tuple(b.on_time / len(x.requests) for x, b in proven))
    else:
        parsed = parse_entrant(entrant)
        cell = Cell(point.name, entrant, tuple(run_one(point.setting, parsed, s) for s in seeds))
    took_s = time.process_time() - began
    path = file_of(out, point, entrant)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(msgspec.json.encode(msgspec.structs.replace(cell, took_s=took_s)))
    unfinished.rename(path)
    return path.stem, took_s


def missing(out: Path, points: list[Point]) -> Iterator[tuple[Point, str]]:
    """What has to be run, in order of the grid, the slow last; files with fewer seeds than asked for are missing."""
    for entrants in ([e for e in (*PLANNERS, BOUND) if e != SLOW], [SLOW]):
        for point in points:
            for entrant in entrants:
                if point.seeds_of(entrant) and not _is_done(out, point, entrant):
                    yield point, entrant


def _is_done(out: Path, point: Point, entrant: str) -> bool:
    path = file_of(out, point, entrant)
    if not path.exists():
        return False
    cell = msgspec.json.decode(path.read_bytes(), type=Cell)
    return len(cell.scores) + len(cell.bounds) >= point.seeds_of(entrant)


def read(out: Path, points: list[Point]) -> dict[str, dict[str, Cell]]:
    """By point and entrant, whatever there is."""
    found: dict[str, dict[str, Cell]] = {}
    for point in points:
        for entrant in (*PLANNERS, BOUND):
            path = file_of(out, point, entrant)
            if path.exists():
                found.setdefault(point.name, {})[entrant] = msgspec.json.decode(path.read_bytes(), type=Cell)
    return found


def run(out: Path, points: list[Point], jobs: int) -> None:
    todo = list(missing(out, points))
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(run_cell, out, point, entrant) for point, entrant in todo]
        for done, future in enumerate(as_completed(futures), start=1):
            name, took_s = future.result()
            print(f"{done}/{len(todo)} {name} {took_s:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, made if need be")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", default="", help="only points whose name contains this")
    parser.add_argument("--print", action="store_true", dest="only_print", help="run nothing")
    parser.add_argument("--csv", type=Path, help="also write one line per point and entrant")
    asked = parser.parse_args()
    points = [p for p in grid() if asked.only in p.name]
    asked.out.mkdir(parents=True, exist_ok=True)
    if not asked.only_print:
        run(asked.out, points, asked.jobs)
    found = summarise_all(read(asked.out, points))
    print_all(points, found)
    print_goals(judge_all(points, found))
    if asked.csv:
        write_csv(asked.csv, points, found)


if __name__ == "__main__":
    main()
