"""DiffServe (MLSys 2025, arXiv 2411.15381): a light model answers first, a threshold sends the doubtful to a heavy one.

Every ``resolve_s`` the allocation problem (section M4, by enumeration) gives numbers of light and heavy workers, their
batch sizes and the threshold; workers serve their queue first come, first served, in batches that never wait to fill
(M5). Demand is the exponentially weighted mean of arrivals per second (com 2.1, 20 samples, M3) times ``inflation``.

Changed: demand counts arrivals, not requests in flight (open point 3); a worker changes roles only when idle, so a
running batch is never lost (11); where the pool has no light worker every answer still begins on the light model; the
release's drop rule is a rule against deferring what would be too late, since an answer in hand is better than none.
``by_quality`` takes the least FID of the published curve in place of the largest threshold (1). ``random_split`` is the
baseline that is blind to the answers (Proteus): as many go on as the threshold would send, but drawn by lot. Requests
without a heavy model are served by light workers.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, ClassVar

from msgspec import Struct

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState, Request
from genserve.domain.costs import CostTable
from genserve.domain.placement import is_free
from genserve.domain.plan import AnyAction, Defer, Plan, Waiting
from genserve.domain.request import Shape, Stage, Status
from genserve.planners.assign import SegmentIds, chain
from genserve.planners.diffserve_allocation import Allocation, Cascade, allocate, heavy_share_at
from genserve.planners.interface import Policy

SECOND_US = 1_000_000
SAMPLES = 20
DECAY = 2.1 / 3.1
"""com = 2.1: each sample weighs 2.1 / 3.1 of the next one."""

_CURVE = "0.05=0.36 0.1=0.449 0.15=0.514 0.2=0.582 0.25=0.69 0.3=0.788 0.35=0.837 0.4=0.878 0.45=0.922 0.5=0.993"
_FID = "0=18.55 0.1=17.85 0.2=17.33 0.3=16.98 0.4=16.79 0.5=16.95 0.6=17.26 0.7=17.95 0.8=18.86 0.9=20.17 1=22.77"


class Traffic(Struct, frozen=True):
    """Arrivals per second of the last SAMPLES + 1 seconds, and what they were of."""

    counts: tuple[tuple[int, int], ...] = ()
    light: str = ""
    heavy: str = ""
    shape: Shape = Shape(512, 512)
    slo_us: int = 0


class DiffServe(Policy, frozen=True):
    """``curve`` is f(t) and ``fid`` the quality by share of light answers, as "x=y" pairs; cascade 1 by default."""

    title: ClassVar[str] = "diffserve"

    resolve_s: int = 5
    inflation: float = 1.2
    threshold: float = -1.0
    by_quality: bool = False
    random_split: bool = False
    curve: str = _CURVE
    fid: str = _FID

    def begin(self) -> Traffic:
        return Traffic()

    def remember(self, memory: Traffic, recorded: e.Recorded) -> Traffic:
        event = recorded.event
        if not isinstance(event, e.RequestSubmitted):
            return memory
        second, spec = recorded.recorded_us // SECOND_US, event.request
        counts = tuple(c for c in memory.counts if c[0] > second - SAMPLES - self.resolve_s - 1)
        if counts and counts[-1][0] == second:
            counts = (*counts[:-1], (second, counts[-1][1] + 1))
        else:
            counts = (*counts, (second, 1))
        slo_us = spec.deadline_us - spec.arrival_us
        return Traffic(counts, spec.model, spec.heavy_model or memory.heavy, spec.shape, slo_us)

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        if not state.workers:
            idle = sorted(r.request_id for r in state.requests.values() if r.is_idle)
            return Plan(waiting=tuple(Waiting(r, "no worker has joined") for r in idle), note="no workers")
        allocation = self.allocation(state, memory)
        actions = [*self._deferrals(state, allocation), *_Batches(state, memory, allocation).starts()]
        started = {r for a in actions for r in getattr(a, "request_ids", ())}
        idle = sorted(r.request_id for r in state.requests.values() if r.is_idle and r.request_id not in started)
        told = tuple(Waiting(r, "its workers are busy") for r in idle)
        return Plan(tuple(actions), told, "" if actions else "every worker is busy or has no queue")

    def allocation(self, state: ClusterState, memory: Traffic) -> Allocation:
        """Solved on what was known at the last multiple of ``resolve_s``."""
        workers = len(state.workers)
        if not memory.heavy:
            return Allocation(workers, 1, 0, 1, 0.0, 0.0)
        now_s = state.clock_us // SECOND_US // self.resolve_s * self.resolve_s
        demand = round(max(0.2, self.inflation * demand_at(memory, now_s)), 3)
        cascade = _cascade(state.costs, memory.light, memory.heavy, memory.shape, memory.slo_us, self.curve, self.fid)
        return _solve(cascade_key(cascade), workers, demand, self.by_quality)

    def _deferrals(self, state: ClusterState, allocation: Allocation) -> list[AnyAction]:
        """Answers below the threshold go on, unless the heavy pass would end later than 1.5 SLOs after arrival."""
        threshold = self.threshold if self.threshold >= 0 else allocation.threshold
        share = heavy_share_at(_pairs(self.curve), threshold) if self.random_split else 0.0
        actions: list[AnyAction] = []
        for request in sorted(state.requests.values(), key=lambda r: r.request_id):
            if not request.is_answered or not request.spec.heavy_model:
                continue
            drawn = lot(request.request_id) < share
            is_doubtful = drawn if self.random_split else request.score_permille < 1000 * threshold
            if is_doubtful and not self._is_too_late(state, request):
                reason = f"scored {request.score_permille / 1000:.3f}, threshold {threshold:.3f}"
                if self.random_split:
                    reason = f"drawn by lot for a share of {share:.3f}"
                actions.append(Defer(request.request_id, reason))
        return actions

    def _is_too_late(self, state: ClusterState, request: Request) -> bool:
        spec = request.spec
        heavy_us = state.costs.step_us(spec.heavy_model, spec.shape) * (spec.heavy_steps or spec.steps)
        return state.clock_us + heavy_us > spec.arrival_us + 1.5 * (spec.deadline_us - spec.arrival_us)


def lot(request_id: str) -> float:
    """A number in [0, 1) that is the request's own, so that a decision can be made again."""
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=6).digest()) / 2**48


def demand_at(memory: Traffic, now_s: int) -> float:
    """Exponentially weighted arrivals per second over the last SAMPLES whole seconds."""
    counts = dict(memory.counts)
    first = memory.counts[0][0] if memory.counts else now_s
    weight, total, weights = 1.0, 0.0, 0.0
    for second in range(now_s - 1, max(now_s - SAMPLES, first) - 1, -1):
        total += weight * counts.get(second, 0)
        weights += weight
        weight *= DECAY
    return total / weights if weights else float(sum(counts.values()))


class _Batches:
    """Free workers of a role take the head of that role's queue."""

    def __init__(self, state: ClusterState, memory: Traffic, allocation: Allocation) -> None:
        self.state = state
        self.allocation = allocation
        self.ids = SegmentIds(state)
        self.heavy_model = memory.heavy
        self.free = [
            w.worker_id for w in sorted(state.workers.values(), key=lambda w: w.worker_id) if is_free(state, w)
        ]

    def starts(self) -> list[AnyAction]:
        waiting = [r for r in self.state.requests.values() if r.is_idle and r.status is not Status.FINISHING]
        waiting.sort(key=lambda r: (r.submitted_us, r.request_id))
        heavy = [r for r in waiting if r.spec.model == self.heavy_model and self.heavy_model]
        light = [r for r in waiting if r.spec.model != self.heavy_model or not self.heavy_model]
        busy_heavy = self._busy_with_heavy()
        busy_light = len(self.state.workers) - len(self.free) - busy_heavy
        actions = self._serve(light, self.allocation.light_batch, max(1, self.allocation.light_workers) - busy_light)
        room = len(self.state.workers) - max(1, self.allocation.light_workers) - busy_heavy
        if heavy and not light:
            room = max(room, 1 if not self.allocation.heavy_workers else room)
        return actions + self._serve(heavy, self.allocation.heavy_batch, room)

    def _busy_with_heavy(self) -> int:
        heads = (self.state.segments[w.queue[0]] for w in self.state.workers.values() if w.queue)
        return sum(s.model == self.heavy_model for s in heads)

    def _serve(self, queue: list[Request], size: int, workers: int) -> list[AnyAction]:
        actions: list[AnyAction] = []
        while queue and self.free and workers > 0:
            batch = _batch(queue, size)
            for request in batch:
                queue.remove(request)
            group = (self.free.pop(0),)
            workers -= 1
            actions += chain(batch, group, ids=self.ids, after="", reason=f"batch of {len(batch)}")
        return actions


def _batch(queue: list[Request], size: int) -> list[Request]:
    """The head and those behind it that may share its batch and stand where it stands."""
    first = queue[0]
    like = [r for r in queue if (r.spec.batch_key, r.stage, r.step) == (first.spec.batch_key, first.stage, first.step)]
    return like[:size]


CascadeKey = tuple[Any, ...]


def cascade_key(cascade: Cascade) -> CascadeKey:
    return (
        tuple(sorted(cascade.light_ms.items())),
        tuple(sorted(cascade.heavy_ms.items())),
        cascade.deferral,
        cascade.fid,
        cascade.slo_s,
    )


@lru_cache(maxsize=4096)
def _solve(key: CascadeKey, workers: int, demand: float, by_quality: bool) -> Allocation:
    light, heavy, deferral, fid, slo_s = key
    return allocate(
        Cascade(dict(light), dict(heavy), deferral, fid, slo_s), workers=workers, demand=demand, by_quality=by_quality
    )


@lru_cache(maxsize=64)
def _cascade(costs: CostTable, light: str, heavy: str, *rest: Any) -> Cascade:
    shape, slo_us, curve, fid = rest
    return Cascade(
        _latencies(costs, light, shape), _latencies(costs, heavy, shape), _pairs(curve), _pairs(fid), slo_us / SECOND_US
    )


def _latencies(costs: CostTable, model: str, shape: Shape) -> dict[int, float]:
    """Milliseconds by measured batch size; batch 1 where nothing was measured."""
    rows = costs.data.stages
    sizes = {c.batch for c in rows if (c.model, c.shape, c.stage) == (model, shape, Stage.DENOISE)} or {1}
    return {b: costs.step_us(model, shape, batch=b) / 1000 for b in sorted(sizes)}


def _pairs(text: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, _, y in (pair.partition("=") for pair in text.split()))
