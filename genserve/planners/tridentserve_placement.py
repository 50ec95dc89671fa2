"""TridentServe's placement planner as published (section M3 of the spec): which stages live on which GPUs.

Each request prefers the first virtual replica type that fits its memory: V0 all three stages together, V1 encode
apart, V2 decode apart, V3 all apart. GPUs are shared out by demand and split so that stage rates balance. Changed:
shares are weighted by GPU-seconds, not by counts (open point 3); what the floor leaves goes to the bottleneck type;
a re-plan needs the imbalance to last and a dwell time to have passed (open point 4). Not the dispatcher.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

IMBALANCE = 1.5
"""The fastest stage rate over the slowest at which the published planner re-plans."""

TYPES: tuple[tuple[str, ...], ...] = (("EDC",), ("DC", "E"), ("ED", "C"), ("D", "E", "C"))
"""Virtual replicas V0 to V3: the placements that together cover a request, primary first."""


class Demand(Struct, frozen=True):
    """One class of requests: its share, GPU-seconds by stage, and peak memory in bytes by placement."""

    share: float
    encode_s: float
    diffuse_s: float
    decode_s: float
    memory: dict[str, int]

    def seconds(self, placement: str) -> float:
        times = {"E": self.encode_s, "D": self.diffuse_s, "C": self.decode_s}
        return sum(times[stage] for stage in placement)


def optimal_type(demand: Demand, capacity: int) -> int | None:
    """The first of V0 to V3 whose placements all fit into a GPU's memory; None when none does."""
    for number, placements in enumerate(TYPES):
        if all(demand.memory[p] <= capacity for p in placements):
            return number
    return None


def place(demands: Sequence[Demand], *, gpus: int, capacity: int) -> dict[str, int]:
    """GPUs by placement; they sum to ``gpus`` if any class can be served."""
    by_type: dict[int, list[Demand]] = {}
    for demand in demands:
        kind = optimal_type(demand, capacity)
        if kind is not None:
            by_type.setdefault(kind, []).append(demand)
    weights = {t: sum(d.share * d.seconds("EDC") for d in of) for t, of in by_type.items()}
    total = sum(weights.values())
    if not total:
        return {}
    shares = {t: int(w / total * gpus) for t, w in weights.items()}
    bottleneck = max(shares, key=lambda t: (weights[t] / max(1, shares[t]), -t))
    shares[bottleneck] += gpus - sum(shares.values())
    counts: dict[str, int] = {}
    for kind, count in sorted(shares.items()):
        for placement, number in split(by_type[kind], kind, count).items():
            counts[placement] = counts.get(placement, 0) + number
    return counts


def split(demands: Sequence[Demand], kind: int, gpus: int) -> dict[str, int]:
    """The GPUs of one type over its placements, so that all finish requests at the same rate.

    Largest remainders; every placement gets a GPU. Empty when there are fewer GPUs than placements.
    """
    placements = TYPES[kind]
    if gpus < len(placements):
        return {}
    work = {p: sum(d.share * d.seconds(p) for d in demands) for p in placements}
    total = sum(work.values())
    ideal = {p: gpus * w / total for p, w in work.items()}
    counts = {p: max(1, int(ideal[p])) for p in placements}
    while sum(counts.values()) < gpus:
        counts[max(placements, key=lambda p: (work[p] / counts[p], p))] += 1
    while sum(counts.values()) > gpus:
        counts[max((p for p in placements if counts[p] > 1), key=lambda p: (counts[p] - ideal[p], p))] -= 1
    return counts


def imbalance(counts: dict[str, int], demands: Sequence[Demand]) -> float:
    """The fastest stage rate over the slowest under a mix; 1 for a single placement."""
    rates = []
    for placement, count in counts.items():
        work = sum(d.share * d.seconds(placement) for d in demands)
        if work:
            rates.append(count / work)
    return max(rates) / min(rates) if rates else 1.0


def must_replan(ratios: Sequence[float], *, periods: int = 3, since_s: float = 1e9, dwell_s: float = 30.0) -> bool:
    """Whether the last ``periods`` ratios all reach the published limit, and the last change is old enough."""
    recent = ratios[-periods:]
    return since_s >= dwell_s and len(recent) == periods and min(recent) >= IMBALANCE
