"""Overheads in the simulator, costs out of a log, and a log beside its own simulation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from genserve.cli.main import app
from genserve.domain import events as e
from genserve.domain.costs import CostTable, Overheads, StoreCost
from genserve.domain.request import RequestSpec
from genserve.errors import CallerError
from genserve.planners.registry import build_planner
from genserve.planners.view import View
from genserve.profile.from_log import costs_of_log
from genserve.scheduling.costs import load_costs
from genserve.simulate.reality import compare_outcomes, read_recording, simulate_recording
from genserve.simulate.simulation import Outage, Run, Scenario, simulate
from tests.audit.logs import store
from tests.builders import IMAGE, SECOND, VIDEO, a_cluster, a_request, some_costs

OVERHEADS = Overheads(20_000, (StoreCost("t2i", IMAGE, 30_000), StoreCost("t2v", VIDEO, 90_000)))


def costs_with_overheads() -> CostTable:
    return CostTable(replace(some_costs().data, overheads=OVERHEADS))


def run(*specs: RequestSpec, planner: str = "fifo", **scenario: object) -> Run:
    fields = {"costs": costs_with_overheads(), "gpus": 1, **scenario}
    return simulate(build_planner(planner), Scenario(specs, **fields))  # type: ignore[arg-type]


def a_busy_run(planner: str, *, gpus: int = 2) -> Run:
    """A mixed load on two GPUs, with an outage and a cancel."""
    specs = [
        a_request(f"r{i:02}", arrival_us=1 + i * 400_000, **({"shape": VIDEO} if i % 3 == 0 else {})) for i in range(15)
    ]
    return run(
        *specs,
        planner=planner,
        gpus=gpus,
        outages=(Outage("gpu-0001", 2 * SECOND, 4 * SECOND),),
        cancels=((3 * SECOND, "r06"),),
    )


def times_of(result: Run, kind: type[e.Event]) -> list[int]:
    return [r.recorded_us for r in result.log if isinstance(r.event, kind)]


def test_work_begins_when_the_decision_has_arrived_and_the_result_exists_when_it_is_stored() -> None:
    result = run(a_request())
    assert times_of(result, e.StageStarted)[0] == 20_000
    assert times_of(result, e.StageFinished)[-1] == 20_000 + 10_000 + 4 * 100_000 + 50_000
    assert times_of(result, e.RequestCompleted) == [480_000 + 30_000]


def test_a_gpu_is_free_for_others_while_a_result_is_being_stored() -> None:
    result = run(a_request("r1"), a_request("r2"))
    assert times_of(result, e.StageStarted)[3] == 480_000
    assert times_of(result, e.RequestCompleted)[0] == 480_000 + 30_000


def test_a_cancel_that_comes_while_the_result_is_being_stored_wins() -> None:
    result = run(a_request(), cancels=((490_000, "r1"),))
    assert times_of(result, e.RequestCancelled) == [510_000]
    assert not times_of(result, e.RequestCompleted)


def test_a_stop_arrives_as_late_as_any_other_command() -> None:
    specs = a_request("long", steps=40), a_request("short", arrival_us=1_125_000)
    assert times_of(run(*specs, planner="srtf"), e.RequestPaused) == [1_230_000]
    assert times_of(run(*specs, planner="srtf", costs=some_costs()), e.RequestPaused) == [1_210_000]


def test_planners_want_the_pixels_early_enough_to_store_them() -> None:
    (task,) = View(a_cluster(1, requests=[a_request(deadline_us=SECOND)], costs=costs_with_overheads()).state).tasks
    assert task.deadline_us == 970_000


@pytest.mark.parametrize("planner", ["fifo", "edf", "save"])
def test_a_simulated_log_agrees_with_its_own_simulation_to_the_microsecond(planner: str) -> None:
    recording = read_recording(a_busy_run(planner).log)
    assert recording.outages == (Outage("gpu-0001", 2 * SECOND, 4 * SECOND),)
    agreement = compare_outcomes(recording.outcomes, simulate_recording(recording))["all"]
    assert agreement["requests"] == 14
    assert agreement["finish_error_abs"] == {"p50": 0.0, "p90": 0.0, "p99": 0.0}
    assert (agreement["attainment_error"], agreement["same_verdict"]) == (0.0, 100.0)


def test_the_costs_of_a_log_are_those_it_was_made_with() -> None:
    known = costs_with_overheads().data
    measured = costs_of_log(a_busy_run("fifo", gpus=1).log, name="test")
    assert measured == replace(known, stages=tuple(sorted(known.stages)))
    learned = costs_of_log(a_busy_run("srtf").log, name="test")
    assert learned.overheads is not None
    assert learned.overheads.stores == OVERHEADS.stores


def test_other_costs_than_the_recorded_ones_show_as_errors_of_the_finish() -> None:
    recording = read_recording(run(a_request()).log)
    slower = CostTable(some_costs(step_us=200_000).data).data
    (row,) = [compare_outcomes(recording.outcomes, simulate_recording(recording, costs=slower))["image"]]
    assert row["finish_error"]["p50"] == pytest.approx((860_000 - 510_000) / 510_000)


def test_a_log_without_requests_cannot_be_simulated() -> None:
    with pytest.raises(CallerError, match="no requests"):
        read_recording([])


async def test_simulate_from_log_prints_recorded_beside_simulated(tmp_path: Path) -> None:
    await store(list(a_busy_run("edf").log), tmp_path / "log.db")
    out = tmp_path / "out.json"
    done = CliRunner().invoke(app, ["simulate", "--from-log", str(tmp_path / "log.db"), "--json", str(out)])
    assert done.exit_code == 0, done.output
    assert "edf as recorded" in done.output
    groups = json.loads(out.read_text())["groups"]
    assert groups["all"]["requests"] == groups["image"]["requests"] + groups["video"]["requests"] == 14


async def test_profile_from_log_writes_a_table_that_serves_the_next_simulation(tmp_path: Path) -> None:
    database, table = str(tmp_path / "log.db"), str(tmp_path / "costs.json")
    await store(list(a_busy_run("edf").log), tmp_path / "log.db")
    done = CliRunner().invoke(app, ["profile", "--from-log", database, "--out", table])
    assert done.exit_code == 0, done.output
    known = load_costs(Path(table))
    assert known is not None
    assert known.overheads is not None
    assert known.overheads.stores == OVERHEADS.stores
    assert CliRunner().invoke(app, ["simulate", "--from-log", database, "--costs", table]).exit_code == 0
