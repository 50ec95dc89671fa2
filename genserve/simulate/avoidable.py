"""Refusals that need not have been: what a schedule that knew everything could have served besides; not admission.

Two numbers per run, for the truth lies between. ``found`` refused requests were on time, together with everything that
was on time in the run, in a schedule that was found by simulation; that no schedule at all has more than ``at_most`` of
them is proven by linear programming.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct
from msgspec.structs import replace

from genserve.planners.save import Save
from genserve.simulate.bound import Bound, upper_bound
from genserve.simulate.score import Scorer
from genserve.simulate.simulation import Scenario, simulate

MAX_CELLS = 400_000
"""Finer than the bound's: whether one more request fits is a matter of seconds."""

MAX_TRIES = 12
"""Simulations per run in search of a schedule; more of them find little."""


class Avoidable(Struct, frozen=True):
    found: int = 0
    at_most: int = 0


def avoidable_refusals(scenario: Scenario, *, met: Collection[str], refused: Collection[str]) -> Avoidable:
    """How many of ``refused`` could have been on time besides all of ``met``, which were on time in a real run."""
    if not refused:
        return Avoidable()
    wanted = {*met, *refused}
    requests = tuple(r for r in scenario.requests if r.request_id in wanted)
    largest = 1 << (min(scenario.gpus, scenario.gpus_per_node).bit_length() - 1)
    bound = upper_bound(requests, scenario.costs, gpus=scenario.gpus, largest=largest, must=met, max_cells=MAX_CELLS)
    at_most = bound.on_time - len(met)
    return Avoidable(_search(scenario, set(met), _candidates(bound, refused), at_most), at_most)


def _candidates(bound: Bound, refused: Collection[str]) -> list[str]:
    """Those first of which the relaxed optimum serves most."""
    return sorted((r for r in refused if bound.saved[r] > 0.01), key=lambda r: (-bound.saved[r], r))


def _search(scenario: Scenario, met: set[str], candidates: list[str], at_most: int) -> int:
    """Take refused requests back in ever smaller bunches, and keep each bunch that costs nobody its deadline."""
    served, tries, size = set(met), 0, max(1, at_most)
    while candidates and size and tries < MAX_TRIES and len(served) - len(met) < at_most:
        rest: list[str] = []
        for start in range(0, len(candidates), size):
            bunch = candidates[start : start + size]
            tries += 1
            if tries <= MAX_TRIES and _is_kept(scenario, served | set(bunch)):
                served.update(bunch)
            else:
                rest += bunch
        candidates, size = rest, size // 2
    return len(served) - len(met)


def _is_kept(scenario: Scenario, wanted: set[str]) -> bool:
    """Whether our policy has all of them on time when they are all that comes."""
    scorer = Scorer()
    requests = tuple(r for r in scenario.requests if r.request_id in wanted)
    alone = replace(scenario, requests=requests, admission=None)
    simulate(Save(admitted=True), alone, observers=(scorer.watch,), keep_log=False)
    return all(o.is_met for o in scorer.outcomes)
