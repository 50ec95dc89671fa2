"""What every planner must show, ours or yours; not what makes a planner good.

``check_planner`` is the shared suite as a function: run it on a planner of your own. It plans on states taken from the
middle of simulated runs, with failures, cancels, several nodes and wrong estimates.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostData, CostTable, Overheads, Prices, StageCost
from genserve.domain.evolve import fold
from genserve.domain.plan import Plan, Start
from genserve.domain.request import Media, RequestSpec, Shape, Stage
from genserve.errors import InvariantBroken
from genserve.planners.interface import Planner
from genserve.planners.registry import build_planner
from genserve.planners.validate import find_faults
from genserve.simulate.simulation import Outage, Scenario, simulate
from genserve.simulate.truth import Errors

SECOND_US = 1_000_000
IMAGE, LARGE_IMAGE, VIDEO = Shape(64, 64), Shape(128, 128), Shape(64, 64, 16)


def check_planner(planner: Planner, *, seeds: range = range(6)) -> list[str]:
    """Everything that is wrong with a planner, in words; empty when it passes."""
    faults: list[str] = []
    for seed in seeds:
        try:
            faults += _check_seed(planner, seed)
        except InvariantBroken as error:
            faults.append(f"seed {seed}: {error}")
    return faults or check_empty(planner)


def _check_seed(planner: Planner, seed: int) -> list[str]:
    faults: list[str] = []
    for state, memory in states_of(planner, seed):
        faults += [f"seed {seed}, position {state.position}: {f}" for f in check_plan(planner, state, memory)]
    return faults + [f"seed {seed}: {f}" for f in check_run(planner, seed)]


def check_plan(planner: Planner, state: ClusterState, memory: object) -> list[str]:
    """Legal, repeatable, independent of the order of maps, and with a reason for everything."""
    plan = planner.plan(state, memory)
    faults = find_faults(state, plan)
    if planner.plan(state, memory) != plan:
        faults.append("planning twice gives two plans")
    if planner.plan(shuffled(state), memory) != plan:
        faults.append("the plan depends on the order of maps")
    return faults + unexplained(state, plan)


def unexplained(state: ClusterState, plan: Plan) -> list[str]:
    """Actions without a reason, and requests left waiting that were never told why."""
    faults = [f"{type(a).__name__} without a reason" for a in plan.actions if not a.reason]
    started = {r for a in plan.actions if isinstance(a, Start) for r in a.request_ids}
    told = {w.request_id for w in plan.waiting}
    for request in state.requests.values():
        if request.is_idle and not request.fatal and not request.told and request.request_id not in started | told:
            faults.append(f"{request.request_id} is left waiting and not told why")
    if not plan.actions and not plan.note:
        faults.append("a plan without actions has no note")
    return faults


def check_run(planner: Planner, seed: int) -> list[str]:
    """Everything that arrives is finished once arrivals end; an empty answer in time is not an answer."""
    scenario = a_scenario(seed)
    log = simulate(planner, scenario).log
    ended = {r.stream for r in log if isinstance(r.event, e.RequestCompleted | e.RequestCancelled)}
    return [f"{s.request_id} never ended" for s in scenario.requests if f"request/{s.request_id}" not in ended]


def check_empty(planner: Planner) -> list[str]:
    """Nothing to do is a plan; so is having no workers."""
    faults = []
    if planner.plan(ClusterState(), planner.begin()).actions:
        faults.append("acts on an empty cluster")
    state = fold(ClusterState(), [_submission(a_scenario(0).requests[0])])
    plan = planner.plan(state, planner.begin())
    return faults + find_faults(state, plan) + unexplained(state, plan)


def states_of(planner: Planner, seed: int, *, count: int = 8) -> Iterator[tuple[ClusterState, object]]:
    """States in the middle of runs under this planner and under EDF, with this planner's memory of them."""
    draw = random.Random(f"states/{seed}")
    for driver in (planner, build_planner("edf")):
        log = simulate(driver, a_scenario(seed)).log
        for cut in sorted(draw.sample(range(1, len(log)), min(count, len(log) - 1))):
            memory = planner.begin()
            for recorded in log[:cut]:
                memory = planner.remember(memory, recorded)
            state = fold(ClusterState(), log[:cut])
            yield replace(state, clock_us=state.recorded_us + draw.choice((0, 1, 250_000))), memory


def shuffled(state: ClusterState) -> ClusterState:
    """The same state with its maps in another order."""
    maps = {name: dict(reversed(getattr(state, name).items())) for name in ("requests", "segments", "workers", "pace")}
    return replace(state, **maps)


def a_scenario(seed: int) -> Scenario:
    """A small overload of images and videos on one or two nodes, with whatever can go wrong.

    Every other time decisions take a while to reach the GPUs.
    """
    draw = random.Random(f"suite/{seed}")
    gpus = draw.choice((1, 2, 4, 8))
    specs, now_us = [], 0
    for index in range(30):
        now_us += round(draw.expovariate(gpus / 2) * SECOND_US)
        specs.append(_a_spec(draw, index, now_us))
    outage = Outage(f"gpu-{draw.randrange(gpus):04}", draw.randrange(1, 10) * SECOND_US, 12 * SECOND_US)
    cancels = tuple((draw.randrange(10) * SECOND_US, f"r{draw.randrange(30):03}") for _ in range(3))
    errors = Errors(0.0, 0.2, 0.02) if seed % 2 else Errors()
    per_node = 4 if seed % 3 else 8
    costs = suite_costs(dispatch_us=50_000 if seed // 2 % 2 else 0)
    return Scenario(tuple(specs), costs, gpus, per_node, errors, (outage,), cancels, seed=seed)


def _a_spec(draw: random.Random, index: int, at_us: int) -> RequestSpec:
    shape = draw.choice((IMAGE, IMAGE, LARGE_IMAGE, VIDEO))
    media = Media.VIDEO if shape is VIDEO else Media.IMAGE
    alone_us = {IMAGE: 1, LARGE_IMAGE: 3, VIDEO: 10}[shape] * SECOND_US
    allowance_us = round(alone_us * draw.uniform(0.6, 3.0))
    model = "t2v" if media is Media.VIDEO else "t2i"
    return RequestSpec(f"r{index:03}", model, media, shape, 10, at_us, at_us + allowance_us)


def suite_costs(*, dispatch_us: int = 0) -> CostTable:
    """Steps of 0.1, 0.3 and 1 s; two GPUs help a lot, four less, eight hurt. Batches pay for small images."""
    rows = []
    for model, shape, us in (("t2i", IMAGE, 100_000), ("t2i", LARGE_IMAGE, 300_000), ("t2v", VIDEO, 1_000_000)):
        for degree, speed in ((1, 1.0), (2, 1.9), (4, 3.0), (8, 2.5)):
            rows.append(StageCost(model, Stage.DENOISE, shape, round(us / speed), degree))
        rows.append(StageCost(model, Stage.ENCODE, shape, 20_000))
        rows.append(StageCost(model, Stage.DECODE, shape, us))
    for degree, batch, us in ((1, 2, 120_000), (1, 4, 170_000), (2, 2, 80_000)):
        rows.append(StageCost("t2i", Stage.DENOISE, IMAGE, us, degree, batch))
    overheads = Overheads(dispatch_us) if dispatch_us else None
    return CostTable(CostData("suite", tuple(rows), Prices(20_000, 0, 5_000, 0, 0), overheads=overheads))


def _submission(spec: RequestSpec) -> e.Recorded:
    return e.Recorded(1, f"request/{spec.request_id}", 1, spec.arrival_us, e.RequestSubmitted(spec))
