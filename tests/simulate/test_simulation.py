"""The simulated driver: same loop, same facts, laws kept, equal seeds give equal bytes."""

from __future__ import annotations

import random
from typing import ClassVar

import msgspec
import pytest

from genserve.domain import events as e
from genserve.domain.costs import Prices
from genserve.domain.evolve import fold
from genserve.domain.plan import Plan
from genserve.domain.request import RequestSpec
from genserve.planners.fifo import Fifo
from genserve.planners.registry import build_planner
from genserve.scheduling.digest import state_digest
from genserve.simulate.simulation import ClusterState, Outage, Run, Scenario, simulate
from genserve.simulate.truth import Errors
from tests.builders import SECOND, VIDEO, a_request, some_costs

BASELINES = ("fifo", "sjf", "srtf", "edf")


def run(*specs: RequestSpec, planner: str = "fifo", **scenario: object) -> Run:
    fields = {"costs": some_costs(), "gpus": 1, **scenario}
    return simulate(build_planner(planner), Scenario(specs, **fields))  # type: ignore[arg-type]


def a_mixed_load(count: int = 40, *, seed: int = 1) -> tuple[RequestSpec, ...]:
    draw, now, specs = random.Random(seed), 0, []
    for index in range(count):
        now += int(draw.expovariate(1) * SECOND)
        shape = {"shape": VIDEO} if draw.random() < 0.4 else {}
        specs.append(a_request(f"r{index:03}", arrival_us=now, **shape))
    return tuple(specs)


def facts_of(result: Run, request_id: str) -> list[str]:
    return [type(r.event).__name__ for r in result.log if r.stream == f"request/{request_id}"]


def finish_us(result: Run, request_id: str) -> int:
    done = [r for r in result.log if r.stream == f"request/{request_id}" and isinstance(r.event, e.RequestCompleted)]
    return done[0].recorded_us


def test_a_request_leaves_the_facts_of_its_three_stages_in_order() -> None:
    assert facts_of(run(a_request()), "r1") == [
        "RequestSubmitted",
        "StageStarted",
        "StageFinished",
        "StageStarted",
        "StepsFinished",
        "StepsFinished",
        "StageFinished",
        "StageStarted",
        "StageFinished",
        "RequestCompleted",
    ]


def test_a_request_alone_takes_what_the_table_says() -> None:
    assert finish_us(run(a_request()), "r1") == 10_000 + 4 * 100_000 + 50_000


def test_fifo_on_one_gpu_serves_in_arrival_order() -> None:
    result = run(a_request("late", arrival_us=2), a_request("early", arrival_us=1, steps=40))
    assert finish_us(result, "early") < finish_us(result, "late")


def test_sjf_serves_the_shorter_of_two_waiting_requests_first() -> None:
    specs = a_request("now"), a_request("long", arrival_us=1, steps=40), a_request("short", arrival_us=2)
    result = run(*specs, planner="sjf")
    assert finish_us(result, "short") < finish_us(result, "long")


def test_srtf_interrupts_a_long_request_at_the_next_step_boundary() -> None:
    specs = a_request("long", steps=40), a_request("short", arrival_us=1_050_000)
    result = run(*specs, planner="srtf")
    paused = [r for r in result.log if isinstance(r.event, e.RequestPaused)]
    assert [(r.stream, r.recorded_us, r.event.step) for r in paused] == [("request/long", 1_110_000, 11)]
    assert finish_us(result, "short") == 1_110_000 + 460_000


def test_edf_interrupts_a_request_for_one_with_an_earlier_deadline() -> None:
    specs = a_request("loose", steps=40, deadline_us=60 * SECOND), a_request("tight", arrival_us=SECOND)
    result = run(*specs, planner="edf")
    assert finish_us(result, "tight") < finish_us(result, "loose")


def test_a_resume_costs_what_the_table_says() -> None:
    specs = a_request("long", steps=40), a_request("short", arrival_us=1_050_000)
    free = run(*specs, planner="srtf")
    priced = run(*specs, planner="srtf", costs=some_costs(prices=Prices(0, 0, 300_000, 0, 0)))
    assert finish_us(priced, "long") == finish_us(free, "long") + 300_000


def test_a_cancelled_request_frees_its_gpu_at_the_next_step_boundary() -> None:
    specs = a_request("cancelled", steps=40), a_request("next", arrival_us=1)
    result = run(*specs, cancels=((1_050_000, "cancelled"),))
    assert facts_of(result, "cancelled")[-2:] == ["RequestPaused", "RequestCancelled"]
    assert finish_us(result, "next") == 1_110_000 + 460_000


def test_a_lost_worker_sends_its_request_back_to_the_start_and_the_request_finishes() -> None:
    result = run(a_request(steps=40), outages=(Outage("gpu-0000", SECOND, 2 * SECOND),))
    assert finish_us(result, "r1") == 2 * SECOND + 10_000 + 4_000_000 + 50_000


def test_slower_steps_than_the_table_says_are_measured_and_learned() -> None:
    result = run(a_request(), errors=Errors(bias=0.5))
    assert finish_us(result, "r1") == 10_000 + 4 * 150_000 + 50_000
    assert [p.permille for p in result.state.pace.values()] == [1500]


@pytest.mark.parametrize("planner", BASELINES)
def test_every_request_of_a_mixed_load_with_failures_and_noise_completes(planner: str) -> None:
    outages = (Outage("gpu-0001", 5 * SECOND, 9 * SECOND), Outage("gpu-0002", 12 * SECOND, 13 * SECOND))
    result = run(*a_mixed_load(), planner=planner, gpus=4, outages=outages, errors=Errors(0.1, 0.2, 0.05))
    assert sum(isinstance(r.event, e.RequestCompleted) for r in result.log) == 40
    assert not result.state.requests
    assert not result.state.segments


@pytest.mark.parametrize("planner", BASELINES)
def test_equal_seeds_give_byte_equal_logs(planner: str) -> None:
    logs = [run(*a_mixed_load(), planner=planner, gpus=2, errors=Errors(0.0, 0.1, 0.1), seed=7).log for _ in range(2)]
    assert msgspec.json.encode(logs[0]) == msgspec.json.encode(logs[1])


def test_folding_the_simulated_log_gives_the_states_its_decisions_saw() -> None:
    result = simulate(build_planner("edf"), Scenario(a_mixed_load(), some_costs(), gpus=2), digest=state_digest)
    decisions = [r.event for r in result.log if isinstance(r.event, e.PlanDecided)]
    for decided in decisions:
        state = fold(ClusterState(), result.log[: decided.input_position])
        state = msgspec.structs.replace(state, clock_us=decided.clock_us)
        assert state_digest(state) == decided.state_digest


class Watched(Fifo, frozen=True):
    """Says at its own expense when it was asked."""

    asked_us: ClassVar[list[int]] = []

    def plan(self, state: ClusterState, memory: object) -> Plan:
        self.asked_us.append(state.clock_us)
        return super().plan(state, memory)


def test_the_end_of_an_encode_whose_next_segment_is_queued_gives_no_reason_to_decide() -> None:
    """Asked at the arrival, at the end of denoising, which frees the rest of a group, and at the end of decode."""
    simulate(Watched(), Scenario((a_request(arrival_us=1),), some_costs(), gpus=1))
    assert sorted(set(Watched.asked_us)) == [0, 1, 410_001, 460_001]


def test_whoever_waits_while_another_encodes_gets_its_chance_as_soon_as_that_ends() -> None:
    """What encodes cannot be interrupted; without a decision at its end the image would wait for the whole video."""
    video = a_request("video", shape=VIDEO, steps=10, deadline_us=60 * SECOND)
    image = a_request("image", arrival_us=5_000, deadline_us=2 * SECOND)
    assert finish_us(run(video, image, planner="save"), "image") < 2 * SECOND
