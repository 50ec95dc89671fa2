"""Decision time of every planner by pool size and live requests, how it grows, and the simulator's speed.

    python -m benchmarks.bench_planners                the curve for every planner, then the simulator
    python -m benchmarks.bench_planners save fifo      for these only; parameters as name:parameter=value
    python -m benchmarks.bench_planners --simulator    the simulator only

A decision is one call of ``plan`` on a state met in a simulated overload in which about so many requests are live;
p50 and p99 are over all such calls, in CPU time of the deciding thread, so that other programs on the machine don't
count. Garbage collection stays on. Growth is the exponent of p50 between the ends of a row of the grid: 1 is linear.
"""

from __future__ import annotations

import argparse
import math
import time
from contextlib import suppress
from typing import Any

from genserve.domain.cluster import ClusterState
from genserve.domain.events import Recorded
from genserve.domain.plan import Plan
from genserve.planners.interface import Planner
from genserve.planners.registry import build_planner, planner_names
from genserve.simulate.calibration import load_calibration
from genserve.simulate.compare import Entrant, parse_entrant
from genserve.simulate.score import percentile
from genserve.simulate.simulation import Scenario, simulate
from genserve.simulate.workloads import Workload, draw_requests

SIZES = ((8, 10), (8, 50), (8, 100), (32, 200), (64, 200), (64, 500))
VARIANTS = ("tetriserve:continuous=true",)
"""Forms of a planner that decide so differently that they get a line of their own."""

MAX_DECISIONS = 1_500
MIN_DECISIONS = 300
MAX_SEEDS = 6
"""Some planners seldom have so many live: further seeds are run until there are enough decisions."""

GOAL_MS = {"save": {(8, 50): 1.0, (64, 500): 10.0}}
OTHERS_GOAL_MS = {(8, 50): 5.0, (64, 500): 50.0}


class Enough(Exception):
    """Enough decisions were timed."""


class Timed:
    """A planner with a stopwatch; everything else is the planner's own."""

    def __init__(self, planner: Planner, live: int) -> None:
        self.planner, self.live = planner, live
        self.name, self.digest = planner.name, planner.digest
        self.took_us: list[float] = []

    def parameters(self) -> Any:
        return self.planner.parameters()

    def begin(self) -> Any:
        return self.planner.begin()

    def remember(self, memory: Any, recorded: Recorded) -> Any:
        return self.planner.remember(memory, recorded)

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        began = time.thread_time_ns()
        plan = self.planner.plan(state, memory)
        took = time.thread_time_ns() - began
        if 0.8 * self.live <= len(state.requests) <= 1.2 * self.live:
            self.took_us.append(took / 1000)
            if len(self.took_us) >= MAX_DECISIONS:
                raise Enough
        return plan


def time_decisions(entrant: Entrant, *, gpus: int, live: int) -> list[float]:
    """Microseconds per decision with about ``live`` requests on ``gpus`` GPUs, as many arriving as are served."""
    took: list[float] = []
    for seed in range(MAX_SEEDS):
        if len(took) >= MIN_DECISIONS:
            break
        timed = Timed(build_planner(entrant.name, entrant.parameters), live)
        with suppress(Enough):
            simulate(timed, _overload(gpus, live, seed), keep_log=False)
        took += timed.took_us
    return took


def _overload(gpus: int, live: int, seed: int) -> Scenario:
    """So many requests at once, then as many as the pool can serve."""
    calibration = load_calibration("genserve")
    burst = Workload(mix="heavy", rate=live * 20.0, requests=live)
    steady = Workload(mix="heavy", rate=gpus * 2.2, requests=4 * live)
    first = draw_requests(burst, calibration, seed=2 * seed + 1)
    later = draw_requests(steady, calibration, seed=2 * seed + 2)
    renamed = tuple(type(s)(f"s{s.request_id}", *_rest(s)) for s in later)
    return Scenario((*first, *renamed), calibration.table, gpus=gpus)


def _rest(spec: Any) -> tuple[Any, ...]:
    return tuple(getattr(spec, field) for field in spec.__struct_fields__[1:])


def growth(p50: dict[tuple[int, int], float]) -> str:
    """Exponents of p50 in live requests (few GPUs, many GPUs) and in GPUs."""

    def exponent(low: tuple[int, int], high: tuple[int, int], factor: float) -> float:
        return math.log(max(1.0, p50[high]) / max(1.0, p50[low])) / math.log(factor)

    in_live = exponent((8, 10), (8, 100), 10), exponent((64, 200), (64, 500), 2.5)
    return f"live^{in_live[0]:.1f} (8 GPUs), live^{in_live[1]:.1f} (64), GPUs^{exponent((32, 200), (64, 200), 2):.1f}"


def print_curve(names: list[str]) -> None:
    """One line per planner, and what misses its goal."""
    print("decision time, microseconds, p50 / p99, by GPUs x live requests")
    print(f"{'':<27}" + "".join(f"{f'{g} x {n}':>17}" for g, n in SIZES) + "  grows as")
    missed = []
    for name in names:
        entrant, p50, cells = parse_entrant(name), {}, []
        for gpus, live in SIZES:
            took = time_decisions(entrant, gpus=gpus, live=live)
            p50[gpus, live], p99 = percentile(took, 50), percentile(took, 99)
            cells.append(f"{p50[gpus, live]:>8,.0f} /{p99:>7,.0f}")
            goal_ms = GOAL_MS.get(entrant.name, OTHERS_GOAL_MS).get((gpus, live))
            if goal_ms is not None and p99 > goal_ms * 1000:
                missed.append(f"{name} at {gpus} x {live}: {p99 / 1000:.1f} ms, goal {goal_ms:g} ms")
        print(f"{name:<27}" + "".join(cells) + f"  {growth(p50)}", flush=True)
    print("every planner keeps its goal (p99)" if not missed else "missed: " + "; ".join(missed))


def time_simulator(name: str, *, gpus: int, rate: float, duration_s: float, every_step: bool = False) -> None:
    """``every_step``: each denoising step is recorded, folded and checked as a fact of its own."""
    calibration = load_calibration("genserve")
    requests = draw_requests(Workload(rate=rate, duration_s=duration_s), calibration, seed=0)
    scenario = Scenario(requests, calibration.table, gpus=gpus, progress_us=int(every_step))
    began = time.perf_counter(), time.process_time()
    run = simulate(build_planner(name), scenario, keep_log=False)
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    simulated = run.facts if every_step else run.facts + run.steps
    print(
        f"{name:<5} {gpus:>3} GPUs, {duration_s / 60:.0f} min, {len(requests):>6,} requests"
        f"{', every step a fact' if every_step else '':<20}: {wall:6.2f} s wall, {cpu:6.2f} s CPU, "
        f"{run.facts / wall:9,.0f} facts/s, {simulated / wall:9,.0f} events/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("planners", nargs="*", help="all there are, unless some are named")
    parser.add_argument("--simulator", action="store_true", help="only the simulator")
    asked = parser.parse_args()
    if not asked.simulator:
        print_curve(asked.planners or sorted({*planner_names(), *VARIANTS}))
    print("\nsimulator, laws checked; an event is a recorded fact or a denoising step")
    time_simulator("fifo", gpus=8, rate=18, duration_s=3600)
    time_simulator("fifo", gpus=8, rate=18, duration_s=3600, every_step=True)
    time_simulator("fifo", gpus=64, rate=168, duration_s=3600)
    time_simulator("save", gpus=64, rate=168, duration_s=3600)


if __name__ == "__main__":
    main()
