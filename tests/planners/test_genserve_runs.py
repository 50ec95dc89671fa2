"""GenServe in whole runs: lines 2, 3 and 11 to 14 of what a faithful implementation must show.

Orderings are means over a few seeds on the calibration; where ours does not come out as the paper's, the test says why
and fails on purpose.
"""

from __future__ import annotations

from functools import cache
from statistics import fmean

import pytest

from genserve.domain import events as e
from genserve.domain.plan import Yield
from genserve.planners.genserve import GenServe
from genserve.simulate.compare import Setting, build_scenario, parse_entrant, run_one
from genserve.simulate.score import Score
from genserve.simulate.simulation import simulate
from genserve.simulate.workloads import Workload
from tests.planners.states import free_of_charge

STEPS = 50
RESUME_US = 1_000
"""Paid before the first step of a resumed segment."""
SEEDS = range(4)
FCFS, SJF, SRTF, RASP = "fifo", "sjf", "srtf", "static_sp"
NO_PREEMPTION = "genserve:dp_solver=false:preemption=false"
PREEMPTION, SOLVER = "genserve:dp_solver=false", "genserve:elastic_sp=false"


@cache
def a_log() -> tuple[e.Recorded, ...]:
    return simulate(GenServe(), build_scenario(Setting(Workload(sizes="skewed", requests=60)), 1)).log


@cache
def scores(planner: str, *, sigma: float = 1.0, sizes: str = "uniform", seeds: range = SEEDS) -> tuple[Score, ...]:
    setting = Setting(Workload(sigma=sigma, sizes=sizes))
    return tuple(run_one(setting, parse_entrant(planner), seed) for seed in seeds)


def on_time(planner: str, group: str = "all", **setting: object) -> float:
    return fmean(s.attainment[group] for s in scores(planner, **setting))  # type: ignore[arg-type]


def seconds(planner: str, group: str, percentile: str, *, seeds: range = SEEDS) -> float:
    return fmean(s.latency_s[group][percentile] for s in scores(planner, seeds=seeds))


# ── 2, 3: pauses ─────────────────────────────────────────────────────────────────────────────────────────


def test_2_a_pause_takes_effect_within_one_step_and_the_state_stays_on_the_leader() -> None:
    told: dict[str, int] = {}
    leader: dict[str, str] = {}
    paused = 0
    table = free_of_charge()
    specs = {r.stream: r.event.request for r in a_log() if isinstance(r.event, e.RequestSubmitted)}
    for r in a_log():
        if isinstance(r.event, e.StageStarted):
            leader[r.event.segment_id] = r.event.workers[0]
        elif isinstance(r.event, e.PlanDecided):
            told |= {a.segment_id: r.recorded_us for a in r.event.actions if isinstance(a, Yield)}
        elif isinstance(r.event, e.RequestPaused) and r.event.home:
            spec, waited_us = specs[r.stream], r.recorded_us - told[r.event.segment_id]
            assert waited_us <= 1.35 * table.step_us(spec.model, spec.shape) + RESUME_US
            assert r.event.home == leader[r.event.segment_id]
            paused += 1
    assert paused > 10


def test_3_a_request_paused_any_number_of_times_runs_each_of_its_steps_once() -> None:
    done: dict[str, list[tuple[int, int]]] = {}
    pauses: dict[str, int] = {}
    for r in a_log():
        if isinstance(r.event, e.StepsFinished):
            done.setdefault(r.stream, []).append((r.event.from_step, r.event.to_step))
        elif isinstance(r.event, e.RequestPaused):
            pauses[r.stream] = pauses.get(r.stream, 0) + 1
    assert max(pauses.values()) >= 3
    for spans in done.values():
        assert [s for a, b in spans for s in range(a, b)] == list(range(STEPS))


# ── 11 to 14: orderings ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sigma", [0.8, 1.0, 1.3])
def test_11_strengthened_genserve_srtf_sjf_fcfs_and_rasp_come_in_the_papers_order(sigma: float) -> None:
    order = [on_time(p, sigma=sigma) for p in ("genserve_ideal", SRTF, SJF, FCFS, RASP)]
    assert order == sorted(order, reverse=True)


@pytest.mark.xfail(
    strict=True,
    reason="the literal finish estimate leaves out the decode, so that every 720p video is judged recoverable and then "
    "misses by its decode: literal GenServe is behind SRTF at sigma 0.8 (71 against 72%; the paper 53 against 51)",
)
def test_11_literal_genserve_is_ahead_of_srtf_where_deadlines_are_tightest() -> None:
    assert on_time("genserve", sigma=0.8) > on_time(SRTF, sigma=0.8)


@pytest.mark.xfail(
    strict=True,
    reason="with the decode in its estimate GenServe gains most, not least, where deadlines are tightest: 12 points on "
    "SRTF at sigma 0.8 and 7 at 1.3 (20 seeds; the paper 2 and 7), for SRTF knows nothing of deadlines",
)
def test_11_the_gain_of_genserve_over_srtf_is_smallest_where_deadlines_are_tightest() -> None:
    gains = {s: on_time("genserve_ideal", sigma=s) - on_time(SRTF, sigma=s) for s in (0.8, 1.0, 1.3)}
    assert min(gains, key=lambda s: gains[s]) == 0.8


def test_12_preemption_lifts_images_sharply_and_lowers_videos() -> None:
    before, after = ([on_time(p, g, sizes="skewed") for g in ("image", "video")] for p in (NO_PREEMPTION, PREEMPTION))
    assert after[0] > before[0] + 0.15
    assert after[1] < before[1]


def test_12_the_solver_recovers_videos_and_switching_lifts_them_further() -> None:
    videos = [on_time(p, "video", sizes="skewed") for p in (PREEMPTION, SOLVER, "genserve")]
    assert videos == sorted(videos)


@pytest.mark.xfail(
    strict=True,
    reason="without switching, videos of ours hold the GPUs of their first degree, so images have too few: 58% on time "
    "and 87% with switching, where the paper has 94% both times",
)
def test_12_switching_leaves_images_as_they_are() -> None:
    assert on_time("genserve", "image", sizes="skewed") == pytest.approx(
        on_time(SOLVER, "image", sizes="skewed"), abs=0.05
    )


def test_13_changes_of_degree_stay_rare() -> None:
    assert fmean(s.switches for s in scores("genserve")) / STEPS < 0.01


def test_14_the_image_p90_falls_to_a_third_of_fcfs_and_the_video_median_falls() -> None:
    assert seconds("genserve", "image", "p90") < 0.4 * seconds(FCFS, "image", "p90")
    assert seconds("genserve", "video", "p50") < seconds(FCFS, "video", "p50")


def test_14_without_an_ageing_bound_the_video_p99_rises_above_fcfs() -> None:
    assert seconds("genserve", "video", "p99") > seconds(FCFS, "video", "p99")


@pytest.mark.xfail(
    strict=True,
    reason="a video that may not be paused any more holds its GPUs while others wait: the p99 is 107 s without a bound "
    "and 108 to 112 s with at most one to three pauses, FCFS 93 s (means of 20 seeds)",
)
def test_14_with_an_ageing_bound_the_rise_is_smaller() -> None:
    bounded, free = (seconds(p, "video", "p99", seeds=range(12)) for p in ("genserve:max_pauses=3", "genserve"))
    assert bounded < free
