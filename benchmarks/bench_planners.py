"""Decision time of every planner by pool size and live requests, and the simulator's speed.

    python benchmarks/bench_planners.py            the curve for every planner, then the simulator
    python benchmarks/bench_planners.py save fifo  for these only

A decision is one call of ``plan`` on a state met in a simulated overload in which about so many requests are live;
p50 and p99 are over all such calls, in CPU time of the deciding thread, so that other programs on the machine don't
count. Garbage collection stays on.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

from genserve.domain.cluster import ClusterState
from genserve.domain.events import Recorded
from genserve.domain.plan import Plan
from genserve.planners.interface import Planner
from genserve.planners.registry import build_planner, planner_types
from genserve.simulate.calibration import load_calibration
from genserve.simulate.score import percentile
from genserve.simulate.simulation import Scenario, simulate
from genserve.simulate.workloads import Workload, draw_requests

SIZES = ((8, 10), (8, 50), (8, 100), (32, 200), (64, 200), (64, 500))
MAX_DECISIONS = 1_500


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


def time_decisions(name: str, *, gpus: int, live: int) -> list[float]:
    """Microseconds per decision with about ``live`` requests on ``gpus`` GPUs, as many arriving as are served."""
    calibration = load_calibration("genserve")
    burst = Workload(mix="heavy", rate=live * 20.0, requests=live)
    steady = Workload(mix="heavy", rate=gpus * 2.2, requests=4 * live)
    first = draw_requests(burst, calibration, seed=1)
    later = draw_requests(steady, calibration, seed=2)
    renamed = tuple(type(s)(f"s{s.request_id}", *_rest(s)) for s in later)
    timed = Timed(build_planner(name), live)
    with suppress(Enough):
        simulate(timed, Scenario((*first, *renamed), calibration.table, gpus=gpus), keep_log=False)
    return timed.took_us


def _rest(spec: Any) -> tuple[Any, ...]:
    return tuple(getattr(spec, field) for field in spec.__struct_fields__[1:])


def time_simulator(name: str, *, gpus: int, rate: float, duration_s: float) -> None:
    calibration = load_calibration("genserve")
    requests = draw_requests(Workload(rate=rate, duration_s=duration_s), calibration, seed=0)
    began = time.perf_counter()
    run = simulate(build_planner(name), Scenario(requests, calibration.table, gpus=gpus), keep_log=False)
    wall = time.perf_counter() - began
    print(
        f"{name:<16} {gpus:>3} GPUs, {duration_s / 60:.0f} min, {len(requests)} requests: {wall:6.2f} s wall, "
        f"{run.facts / wall:9,.0f} facts/s, {run.steps / wall:10,.0f} steps/s, "
        f"{(run.facts + run.steps) / wall:10,.0f} events/s"
    )


def main() -> None:
    names = sys.argv[1:] or sorted(planner_types())
    print("decision time, microseconds, p50 / p99, by GPUs x live requests")
    print(f"{'':<16}" + "".join(f"{f'{g} x {n}':>18}" for g, n in SIZES))
    for name in names:
        cells = []
        for gpus, live in SIZES:
            took = time_decisions(name, gpus=gpus, live=live)
            cells.append(f"{percentile(took, 50):>8,.0f} /{percentile(took, 99):>8,.0f}")
        print(f"{name:<16}" + "".join(cells), flush=True)
    print("\nsimulator, laws checked; an event is a recorded fact or a denoising step")
    time_simulator("fifo", gpus=8, rate=18, duration_s=3600)
    time_simulator("fifo", gpus=64, rate=168, duration_s=3600)
    time_simulator("save", gpus=64, rate=168, duration_s=3600)


if __name__ == "__main__":
    main()
