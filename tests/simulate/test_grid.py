"""The grid on which all planners meet, and the trap."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from benchmarks.grid import missing, read, run_cell
from benchmarks.grid_goals import judge_all
from benchmarks.grid_points import BOUND, PLANNERS, SAVE, Point, grid
from benchmarks.grid_table import Row, summarise_all, write_csv
from genserve.simulate.calibration import load_calibration
from genserve.simulate.compare import Entrant, Setting, run_one
from genserve.simulate.workloads import Workload

SMALL = Point("heavy", "", 0.0, Setting(Workload(mix="heavy", requests=6)))


def a_row(**changes: float) -> Row:
    row: Row = {"on_time": 90.0, "gain": 2.0, "gain_ci95": 1.0, "image": 99.6, "video": 88.0, "pauses": 0.3}
    row |= {"switches": 1.0, "p99_s": 200.0, "worst_lateness": 5.0}
    return {**row, **changes}


def test_the_grid_has_every_mix_size_arrival_and_pool_and_no_point_twice() -> None:
    points = grid()
    assert len({p.name for p in points}) == len(points)
    middle = {(p.base, p.setting.gpus) for p in points if not p.axis and p.base != "trap"}
    assert len(middle) == 3 * 2 * 2 * 3
    assert {p.value for p in points if p.axis == "switch"} == {0.01, 0.1, 0.4, 0.8, 2.0}


def test_the_rate_grows_with_the_pool() -> None:
    rates = {p.setting.gpus: p.setting.workload.rate for p in grid() if p.base == "heavy" and not p.axis}
    assert rates == {8: 24.0, 32: 96.0, 64: 192.0}


def test_what_has_been_run_is_not_run_again(tmp_path: Path) -> None:
    trap = replace(SMALL, base="trap")
    assert len(list(missing(tmp_path, [trap]))) == len(PLANNERS)
    run_cell(tmp_path, trap, "genserve")
    assert "genserve" not in {entrant for _, entrant in missing(tmp_path, [trap])}


def test_a_line_is_written_for_every_entrant_that_was_run(tmp_path: Path) -> None:
    for entrant in (SAVE, "srtf", BOUND):
        run_cell(tmp_path, SMALL, entrant)
    found = summarise_all(read(tmp_path, [SMALL]))
    assert found[SMALL.name][SAVE]["on_time"] <= found[SMALL.name][BOUND]["on_time"]
    write_csv(tmp_path / "grid.csv", [SMALL], found)
    lines = (tmp_path / "grid.csv").read_text().splitlines()
    assert [line.split(",")[4] for line in lines] == ["planner", SAVE, "srtf", BOUND]


def test_a_planner_that_is_ahead_of_ours_makes_a_goal_missed() -> None:
    rows = {SAVE: a_row(gain=0.0), "edf": a_row(on_time=90.5, gain=-0.5), BOUND: {"on_time": 93.0, "reached": 96.8}}
    missed = [v.goal for v in judge_all([SMALL], {SMALL.name: rows}) if not v.is_kept]
    assert missed == ["ahead of every other planner", "97% of the bound"]


def test_a_large_video_of_the_trap_is_lost_when_it_arrives() -> None:
    calibration = load_calibration("trap")
    video = next(c for c in calibration.classes if c.label == "video-L")
    table = calibration.table
    fastest = min(table.step_us(video.model, video.shape, degree=k) for k in table.degrees(video.model, video.shape))
    assert video.allowance_us < video.steps * fastest


def test_who_is_starved_is_not_served_while_others_come() -> None:
    trap = Setting(Workload("trap", mix="0.05", rate=85, duration_s=200))
    assert run_one(trap, Entrant("srtf"), 0).served["video-L"] < run_one(trap, Entrant("fifo"), 0).served["video-L"]
