"""How true the ETA is in simulation: at each arrival the projection is asked, and compared with what happened.

    python benchmarks/bench_eta.py [planner]

Errors are (finished - projected) in seconds and in shares of the request's own allowance; later arrivals, which no
projection knows, are most of them. Also the time one projection takes.
"""

from __future__ import annotations

import sys
import time

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.evolve import evolve
from genserve.planners.registry import build_planner
from genserve.simulate.compare import Setting, build_scenario
from genserve.simulate.project import project
from genserve.simulate.score import percentile
from genserve.simulate.simulation import simulate
from genserve.simulate.workloads import Workload


def measure(name: str, workload: Workload, seeds: range) -> tuple[list[float], list[float], list[float], list[bool]]:
    late_s, shares, took_ms, right = [], [], [], []
    for seed in seeds:
        planner = build_planner(name)
        log = simulate(planner, build_scenario(Setting(workload), seed)).log
        ends = {r.stream: r.recorded_us for r in log if isinstance(r.event, e.RequestCompleted)}
        state, memory = ClusterState(), planner.begin()
        for recorded in log:
            state, memory = evolve(state, recorded), planner.remember(memory, recorded)
            arrived = recorded.event
            if not isinstance(arrived, e.RequestSubmitted):
                continue
            spec = arrived.request
            began = time.perf_counter()
            eta_us = project(state, planner, memory)[spec.request_id]
            took_ms.append((time.perf_counter() - began) * 1000)
            error_us = ends[recorded.stream] - eta_us
            late_s.append(error_us / 1e6)
            shares.append(error_us / (spec.deadline_us - spec.arrival_us))
            right.append((eta_us <= spec.deadline_us) == (ends[recorded.stream] <= spec.deadline_us))
    return late_s, shares, took_ms, right


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "save"
    print(f"{name}: error of the ETA at arrival, finished minus projected; forecast right = met or missed as foretold")
    for rate, mix in ((12, "balanced"), (24, "balanced"), (24, "heavy"), (36, "balanced")):
        late_s, shares, took_ms, right = measure(name, Workload(rate=rate, mix=mix), range(5))
        errors = ", ".join(
            f"p{p} {percentile(late_s, p):+.1f} s ({percentile(shares, p):+.2f})" for p in (5, 50, 90, 99)
        )
        print(
            f"  {rate}/min {mix:<8} {errors}; forecast right {100 * sum(right) / len(right):.1f}%; "
            f"projection {percentile(took_ms, 50):.1f} ms p50, {percentile(took_ms, 99):.1f} ms p99",
            flush=True,
        )


if __name__ == "__main__":
    main()
