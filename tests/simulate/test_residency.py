"""Stages apart in simulation: encode and decode on one GPU, denoising on others, under the laws of every log."""

from __future__ import annotations

from functools import reduce

import pytest
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.costs import CostData, CostTable, Prices, StageCost
from genserve.domain.ids import worker_stream
from genserve.domain.plan import Load, Plan, Start, Unload
from genserve.domain.request import Media, RequestSpec, Shape, Stage
from genserve.planners.fifo import Fifo
from genserve.planners.registry import build_planner
from genserve.simulate.simulation import Outage, Run, Scenario, simulate
from tests.builders import History

SHAPE = Shape(256, 256, 5)
COSTS = CostTable(
    CostData(
        "apart",
        (
            StageCost("v", Stage.ENCODE, SHAPE, 50_000),
            StageCost("v", Stage.DENOISE, SHAPE, 100_000),
            StageCost("v", Stage.DENOISE, SHAPE, 60_000, 2),
            StageCost("v", Stage.DECODE, SHAPE, 300_000),
        ),
        Prices(load_us=400_000, move_us=0),
        {"v/denoise": 7},
    )
)
APART = (("gpu-0000", ("v/encode", "v/decode")), ("*", ("v/denoise",)))
PLANNERS = ("fifo", "edf", "srtf", "static_sp", "save", "genserve", "tetriserve", "tridentserve", "super_p95")


def videos(count: int, *, every_us: int = 200_000) -> tuple[RequestSpec, ...]:
    return tuple(
        RequestSpec(
            f"r{index:02}",
            model="v",
            media=Media.VIDEO,
            shape=SHAPE,
            steps=10,
            arrival_us=index * every_us,
            deadline_us=index * every_us + 6_000_000,
            prompt="a fox",
        )
        for index in range(count)
    )


def places(run: Run, stage: Stage) -> set[str]:
    return {
        w for r in run.log if isinstance(r.event, e.StageStarted) and r.event.stage is stage for w in r.event.workers
    }


def completed(run: Run) -> int:
    return sum(isinstance(r.event, e.RequestCompleted) for r in run.log)


@pytest.mark.parametrize("planner", ["fifo", "save"])
def test_a_worker_that_dropped_its_denoiser_for_want_of_room_is_used_again(planner: str) -> None:
    history = History()
    history.now_us = 1
    held = tuple(("v", stage) for stage in Stage)
    history.add(worker_stream("w0"), e.WorkerJoined("w0", 1, resident=held))
    history.add(worker_stream("w1"), e.WorkerJoined("w1", 1, resident=held))
    history.add(worker_stream("w1"), e.StageUnloaded("w1", "v", Stage.DENOISE, displaced=True))
    history.costs(COSTS).submit(*videos(2, every_us=0))
    policy = build_planner(planner, {})
    plan = policy.plan(replace(history.state, clock_us=1), reduce(policy.remember, history.log, policy.begin()))
    starts = [action for action in plan.actions if isinstance(action, Start) and action.stage is Stage.DENOISE]
    assert {worker for start in starts for worker in start.workers} == {"w0", "w1"}


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_stage_runs_where_it_is_held_and_nothing_is_loaded(planner: str) -> None:
    run = simulate(build_planner(planner, {}), Scenario(videos(12), COSTS, gpus=3, placement=APART))
    assert completed(run) == 12
    assert places(run, Stage.ENCODE) == places(run, Stage.DECODE) == {"gpu-0000"}
    assert places(run, Stage.DENOISE) == {"gpu-0001", "gpu-0002"}
    assert not [r for r in run.log if isinstance(r.event, e.StageLoaded)]


def test_a_decode_overlaps_with_the_denoising_of_the_next_request_on_the_gpu_it_left() -> None:
    placement = (("gpu-0000", ("v/encode",)), ("gpu-0001", ("v/denoise",)), ("gpu-0002", ("v/decode",)))
    run = simulate(Fifo(), Scenario(videos(2, every_us=0), COSTS, gpus=3, placement=placement))
    began = {(r.stream, r.event.stage): r.recorded_us for r in run.log if isinstance(r.event, e.StageStarted)}
    assert began["request/r00", Stage.DECODE] == 1_050_000
    assert began["request/r01", Stage.DENOISE] == 1_100_000
    assert run.finished_us == 2_400_000


def test_a_stage_that_nobody_holds_is_loaded_before_its_first_segment_at_the_table_s_price_and_once() -> None:
    placement = (("*", ("v/encode", "v/decode")),)
    run = simulate(Fifo(), Scenario(videos(3, every_us=5_000_000), COSTS, gpus=1, placement=placement))
    loads = [(r.position, r.event) for r in run.log if isinstance(r.event, e.StageLoaded)]
    assert [(v.model, v.stage, v.took_us, v.memory_bytes) for _, v in loads] == [("v", Stage.DENOISE, 400_000, 7)]
    encoded = next(r.recorded_us for r in run.log if isinstance(r.event, e.StageFinished))
    began = next(r for r in run.log if isinstance(r.event, e.StageStarted) and r.event.stage is Stage.DENOISE)
    assert began.recorded_us == encoded + 400_000
    assert loads[0][0] < began.position


def test_losing_the_decoding_gpu_costs_no_step_of_what_is_denoised_elsewhere() -> None:
    outage = Outage("gpu-0000", 700_000, 800_000)
    run = simulate(Fifo(), Scenario(videos(1), COSTS, gpus=2, placement=APART, outages=(outage,)))
    assert completed(run) == 1
    assert {r.event.attempt for r in run.log if isinstance(r.event, e.StepsFinished)} == {0}
    assert run.steps == 10


@pytest.mark.parametrize("worker", ["gpu-0000", "gpu-0001", "gpu-0002"])
@pytest.mark.parametrize("at_us", [20_000, 60_000, 500_000, 1_200_000, 2_000_000])
@pytest.mark.parametrize("planner", ["edf", "save"])
def test_everything_is_served_when_any_gpu_is_lost_at_any_time(planner: str, worker: str, at_us: int) -> None:
    outage = Outage(worker, at_us, at_us + 300_000)
    scenario = Scenario(videos(6), COSTS, gpus=3, placement=APART, outages=(outage,))
    assert completed(simulate(build_planner(planner, {}), scenario)) == 6


class FakeMover(Fifo, frozen=True):
    """Fifo that moves the denoiser to gpu-0000 with its first decision."""

    def plan(self, state: object, memory: object) -> Plan:
        plan = super().plan(state, memory)  # type: ignore[arg-type]
        if ("v", Stage.DENOISE) in state.workers["gpu-0000"].resident:  # type: ignore[attr-defined]
            return plan
        if state.requests:  # type: ignore[attr-defined]
            return plan
        return Plan(
            (Load("gpu-0000", "v", Stage.DENOISE, "moves in"), Unload("gpu-0001", "v", Stage.DENOISE, "moves out"))
            if ("v", Stage.DENOISE) in state.workers["gpu-0001"].resident  # type: ignore[attr-defined]
            else ()
        )


def test_loads_and_unloads_of_a_plan_are_facts_after_the_time_they_take() -> None:
    run = simulate(FakeMover(), Scenario(videos(1, every_us=0)[:1], COSTS, gpus=2, placement=APART))
    moves = [
        (r.recorded_us, type(r.event).__name__, r.event.worker_id)
        for r in run.log
        if isinstance(r.event, e.StageLoaded | e.StageUnloaded)
    ]
    assert (0, "StageUnloaded", "gpu-0001") in moves
    assert (400_000, "StageLoaded", "gpu-0000") in moves
