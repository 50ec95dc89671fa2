"""Scores, comparisons, bounds, cells and the report."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from genserve.cli.main import app
from genserve.domain.costs import CostTable, StageCost, merge
from genserve.domain.request import Media, RequestSpec, Stage
from genserve.planners.admission import Admission
from genserve.planners.registry import build_planner
from genserve.simulate.bound import clairvoyant, upper_bound
from genserve.simulate.calibration import load_calibration
from genserve.simulate.cells import route, simulate_cells, work_us
from genserve.simulate.compare import Entrant, Setting, build_scenario, compare, mean_ci, parse_entrant, run_one
from genserve.simulate.report import render
from genserve.simulate.score import Outcome, Scorer, percentile, share_met
from genserve.simulate.simulation import Scenario, simulate
from genserve.simulate.truth import Errors
from genserve.simulate.workloads import Workload
from tests.builders import IMAGE, SECOND, VIDEO, a_request, some_costs

SMALL = Setting(Workload(requests=20), seeds=2)


def scored(*specs: RequestSpec, planner: str = "fifo", gpus: int = 1) -> tuple[Scorer, list[Outcome]]:
    scorer = Scorer()
    simulate(build_planner(planner), Scenario(specs, some_costs(), gpus), observers=(scorer.watch,))
    return scorer, list(scorer.outcomes)


def test_a_request_on_time_counts_and_a_late_one_does_not() -> None:
    _, outcomes = scored(a_request("a"), a_request("b", steps=200))
    assert [o.is_met for o in outcomes] == [True, False]
    assert share_met(outcomes) == 0.5


def test_lateness_is_measured_in_allowances() -> None:
    assert Outcome("r", "", Media.IMAGE, 0, 10 * SECOND, 25 * SECOND).lateness == 1.5


def test_a_stop_that_waits_is_a_pause_and_one_that_goes_on_wider_is_a_switch() -> None:
    specs = a_request("long", steps=40), a_request("short", arrival_us=1_050_000)
    _, outcomes = scored(*specs, planner="srtf")
    assert [(o.pauses, o.switches) for o in outcomes] == [(1, 0), (0, 0)]


def test_gpus_are_busy_for_as_long_as_segments_hold_them() -> None:
    scorer, _ = scored(a_request())
    assert scorer.busy_us == 460_000


def test_percentiles_are_nearest_ranks() -> None:
    assert [percentile([1, 2, 3, 4], p) for p in (25, 50, 99)] == [1, 2, 4]
    assert percentile([], 50) == 0


def test_an_interval_uses_students_t() -> None:
    assert mean_ci([1.0, 2.0, 3.0])["ci95"] == pytest.approx(4.30 / 3**0.5)
    assert mean_ci([1.0])["ci95"] == 0.0


def test_an_entrant_is_a_name_with_parameters() -> None:
    entrant = parse_entrant("save:selection=false:phi=0.1")
    assert entrant == Entrant("save", {"selection": False, "phi": 0.1})
    assert entrant.label == "save:phi=0.1:selection=false"


def test_a_planner_that_is_told_the_true_step_times_has_nothing_to_learn() -> None:
    wrong = Setting(Workload(requests=4), errors=Errors(bias=0.2, spread=0.2))
    told = build_scenario(replace(wrong, is_told=True), 0)
    paces = simulate(build_planner("edf"), told).state.pace.values()
    assert {p.permille for p in paces} <= {999, 1000}
    assert {p.permille for p in simulate(build_planner("edf"), build_scenario(wrong, 0)).state.pace.values()} != {1000}


def test_every_planner_meets_the_same_requests() -> None:
    assert build_scenario(SMALL, 1).requests == build_scenario(SMALL, 1).requests


def test_a_comparison_holds_means_intervals_classes_and_every_parameter() -> None:
    result = compare(SMALL, [Entrant("save"), Entrant("fifo")], with_bound=True, jobs=1)
    row = result["planners"]["save"]
    assert set(row["attainment"]) == {"mean", "ci95"}
    assert {"image", "video", "latency_s", "pauses_per_request", "switches_per_request", "decision_us"} <= set(row)
    assert result["bound"]["mean"] >= result["bound"]["found"]["mean"] >= 0
    assert result["parameters"]["workload"]["rate"] == 24.0
    assert result["parameters"]["planners"]["save"]["phi"] == 0.05
    json.dumps(result)


# ── bound ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mix", ["balanced", "heavy"])
def test_no_planner_is_above_the_bound_and_the_search_is_below_it(mix: str) -> None:
    setting = Setting(Workload(mix=mix, requests=40, rate=30))
    scenario = build_scenario(setting, 5)
    bound = upper_bound(scenario.requests, scenario.costs, gpus=8)
    met = {
        p: run_one(setting, Entrant(p), 5).attainment["all"] * 40 for p in ("save", "genserve_ideal", "edf_best_fit")
    }
    assert max(met.values()) <= bound.on_time
    assert max(met["save"], 1) <= clairvoyant(scenario, bound) + 1 <= bound.on_time + 1


def a_tiny_trace(slots: int) -> list[RequestSpec]:
    """Four images of one second each that all must be done in so many seconds, on one GPU."""
    return [a_request(f"r{i}", steps=10, deadline_us=slots * SECOND) for i in range(4)]


def bare_costs() -> CostTable:
    return some_costs(encode_us=1, decode_us=1)


@pytest.mark.parametrize(("slots", "on_time"), [(1, 0), (2, 1), (3, 2), (6, 4)])
def test_the_bound_is_exact_where_exact_is_easy(slots: int, on_time: int) -> None:
    """A second of steps, and a microsecond of encode and decode that just don't fit into the last second."""
    assert upper_bound(a_tiny_trace(slots), bare_costs(), gpus=1).on_time == on_time


def test_the_bound_is_never_below_the_best_order_found_by_brute_force() -> None:
    lengths, limits = (3, 1, 2, 2), (3, 2, 6, 6)
    trace = [
        a_request(f"r{i}", steps=10 * n, deadline_us=d * SECOND + 100)
        for i, (n, d) in enumerate(zip(lengths, limits, strict=True))
    ]
    best = 0
    for order in itertools.permutations(range(4)):
        now, met = 0.0, 0
        for i in order:
            if now + lengths[i] <= limits[i]:
                now, met = now + lengths[i], met + 1
        best = max(best, met)
    assert upper_bound(trace, bare_costs(), gpus=1).on_time >= best


def test_the_bound_knows_that_a_batch_shares_its_steps() -> None:
    together = StageCost("t2i", Stage.DENOISE, IMAGE, 120_000, batch=4)
    costs = CostTable(merge(bare_costs().data, [together], name="shared"))
    four = [a_request(f"r{i}", steps=10, deadline_us=round(1.6 * SECOND)) for i in range(4)]
    assert upper_bound(four, bare_costs(), gpus=1).on_time == 1
    assert upper_bound(four, costs, gpus=1).on_time == 4


def test_the_bound_is_of_the_true_step_times_not_of_the_believed_ones() -> None:
    loaded = Setting(Workload(requests=20, rate=120), seeds=1)
    slow, fast = (replace(loaded, errors=Errors(bias=bias)) for bias in (1.0, -0.5))
    bounds = [compare(s, [], with_bound=True, jobs=1)["bound"] for s in (slow, fast)]
    assert bounds[0]["mean"] < bounds[1]["mean"]


def test_a_video_that_no_degree_saves_is_not_in_the_bound() -> None:
    video = a_request("v", shape=VIDEO, steps=10, deadline_us=2 * SECOND)
    assert upper_bound([video], some_costs(), gpus=4).on_time == 0
    assert upper_bound([video], some_costs(), gpus=4, largest=4).on_time == 0


# ── cells and report ─────────────────────────────────────────────────────────────────────────────────────


def test_the_router_sends_everything_once_and_evenly() -> None:
    calibration = load_calibration("genserve")
    requests = build_scenario(Setting(Workload(requests=400, rate=400)), 0).requests
    parts = route(requests, calibration.table, cells=8, gpus=8, seed=0)
    assert sorted(s.request_id for p in parts for s in p) == [s.request_id for s in requests]
    loads = [sum(work_us(s, calibration.table) for s in part) for part in parts]
    assert max(loads) < 1.3 * min(loads)


def test_one_cell_is_the_simulation_without_cells_whatever_the_setting() -> None:
    errors = Errors(bias=0.3)
    setting = Setting(
        Workload(requests=60, rate=60), seeds=1, errors=errors, is_told=True, admission=Admission(0.75, 0)
    )
    (alone,) = compare(setting, [Entrant("save")], jobs=1)["planners"].values()
    (cell,) = simulate_cells(setting, Entrant("save"), cells=1, jobs=1)["planners"].values()
    assert (cell["refused"], cell["latency_s"]) == (alone["refused"], alone["latency_s"])
    assert cell["refused"] > 0


def test_cells_report_attainment_and_decision_load() -> None:
    result = simulate_cells(Setting(Workload(requests=60, rate=96)), Entrant("save"), cells=4, jobs=1)
    assert result["parameters"]["total_gpus"] == 32
    assert 0 < result["planners"]["save"]["attainment"]["mean"] <= 1
    assert 0 < result["cells"]["decision_load_max"] < 1


def test_the_report_is_one_page_without_links_to_elsewhere() -> None:
    page = render(compare(SMALL, [Entrant("save"), Entrant("fifo")], with_bound=True, jobs=1))
    assert page.startswith("<!doctype html>")
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") == 3


def test_the_report_says_what_was_simulated_and_not_what_was_swept(tmp_path: Path) -> None:
    trace = tmp_path / "mine.csv"
    trace.write_text("arrival_s,class\n0,image-S\n")
    drawn, read = (
        compare(Setting(w, seeds=1), [Entrant("fifo")], jobs=1)
        for w in (Workload(requests=3), Workload(trace=str(trace)))
    )
    swept = render({"sweep": "sigma", "points": [{"at": {"sigma": s}, **drawn} for s in (0.8, 1.0)]})
    assert "24 requests/min, mix balanced, uniform sizes, poisson arrivals, 1 seeds of 3 requests" in swept
    assert f"<p>trace {trace}, sigma 1, 1 seeds. Bars" in render(read)


# ── command line ─────────────────────────────────────────────────────────────────────────────────────────


def test_compare_writes_json_and_html_and_prints_a_table(tmp_path: Path) -> None:
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    options = ["--planners", "save,fifo", "--seeds", "2", "--requests", "10", "--jobs", "1"]
    done = CliRunner().invoke(
        app, ["compare", *options, "--sweep", "sigma=0.8,1.2", "--json", str(out), "--html", str(page)]
    )
    assert done.exit_code == 0, done.output
    assert [p["at"] for p in json.loads(out.read_text())["points"]] == [{"sigma": 0.8}, {"sigma": 1.2}]
    assert "On time by sigma" in page.read_text()
    assert "save" in done.output


def test_bound_prints_the_mean_and_each_seed() -> None:
    done = CliRunner().invoke(app, ["bound", "--seeds", "2", "--requests", "10", "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert "by seed  0:" in done.output


def test_simulate_prints_every_class_and_can_write_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    done = CliRunner().invoke(app, ["simulate", "--planner", "edf", "--requests", "10", "--log", str(log)])
    assert done.exit_code == 0, done.output
    assert "video-L" in done.output
    first = json.loads(log.read_text().splitlines()[0])
    assert (first["position"], first["type"], first["event"]["epoch"]) == (1, "LeaderElected", 1)


def test_a_sweep_over_something_unknown_is_refused() -> None:
    done = CliRunner().invoke(app, ["compare", "--sweep", "luck=1,2"])
    assert done.exit_code == 2


def test_a_thinned_bound_is_weaker_but_never_below_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = build_scenario(Setting(Workload(mix="heavy", requests=60)), 2)
    exact = upper_bound(scenario.requests, scenario.costs, gpus=8)
    monkeypatch.setattr("genserve.simulate.bound.MAX_CELLS", 1_500)
    assert upper_bound(scenario.requests, scenario.costs, gpus=8).relaxed >= exact.relaxed - 1e-6
