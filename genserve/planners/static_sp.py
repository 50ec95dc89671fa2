"""A fixed degree per shape, first come, first served, never interrupted: RASP, RSSP and plain fixed degrees.

RASP (GenServe, section 2): videos of 256p 1, 480p 2, 720p 4; images 1. RSSP (TetriServe): images of 256 and 512 1, 1024
2, 2048 8. "hetu" is the static baseline of TridentServe's release. "efficient" is the largest degree at 80% efficiency.
"""

from __future__ import annotations

from typing import Any, ClassVar

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.placement import denoisers, is_free
from genserve.domain.plan import Plan, Waiting
from genserve.domain.request import Media, RequestSpec, Status
from genserve.planners.assign import Wish, assign
from genserve.planners.interface import Policy

_RULES: dict[str, tuple[tuple[int, int], ...]] = {
    "rasp": ((256 * 256 * 81, 1), (480 * 480 * 81, 2)),
    "rssp": ((512 * 512, 1), (1024 * 1024, 2)),
}
_BEYOND = {"rasp": 4, "rssp": 8}
_HETU: dict[str, tuple[tuple[int, int], ...]] = {
    "SD3-Medium": ((1024 * 1536, 1), (1 << 60, 2)),
    "FLUX.1-dev": ((512 * 512, 1), (1536 * 1536, 2), (1 << 60, 4)),
    "CogVideoX1.5-5B": ((768 * 1024 * 33, 1), (1024 * 1024 * 65, 2), (1 << 60, 4)),
    "HunyuanVideo": ((720 * 1280 * 17, 1), (720 * 1280 * 33, 2), (720 * 1280 * 65, 4), (1 << 60, 8)),
}


class StaticSp(Policy, frozen=True):
    """``rule`` is rasp, rssp, hetu, efficient or fixed (at ``degree``). Without ``backfill`` the head blocks all."""

    title: ClassVar[str] = "static_sp"

    rule: str = "rasp"
    degree: int = 1
    backfill: bool = False

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        largest = _largest_node(state)
        waiting = [r for r in state.requests.values() if r.is_idle and r.status is not Status.FINISHING]
        waiting.sort(key=lambda r: (-r.spec.priority, r.submitted_us, r.request_id))
        wishes = []
        free = sum(is_free(state, state.workers[w]) for w in denoisers(state))
        blocked: list[Waiting] = []
        for request in waiting:
            degree = min(self.degree_of(state, request), largest)
            if blocked or (degree > free and not self.backfill):
                blocked.append(Waiting(request.request_id, "arrival order: requests before it hold the GPUs"))
                continue
            free -= degree
            wishes.append(Wish((request.request_id,), degree, f"arrival order, degree {degree} for its shape"))
        plan = assign(state, wishes, preemptive=False)
        return Plan(plan.actions, (*plan.waiting, *blocked), plan.note)

    def degree_of(self, state: ClusterState, request: Request) -> int:
        spec = request.spec
        if self.rule == "fixed":
            return self.degree
        if self.rule == "hetu" and spec.model in _HETU:
            return next(k for pixels, k in _HETU[spec.model] if spec.shape.pixels <= pixels)
        if self.rule in _RULES and not (self.rule == "rasp" and spec.media is Media.IMAGE):
            return next((k for p, k in _RULES[self.rule] if spec.shape.pixels <= p), _BEYOND[self.rule])
        return _efficient(state, spec) if self.rule == "efficient" else 1


def _efficient(state: ClusterState, spec: RequestSpec) -> int:
    one = state.costs.step_us(spec.model, spec.shape)
    degrees = state.costs.degrees(spec.model, spec.shape)
    return max(k for k in degrees if one / state.costs.step_us(spec.model, spec.shape, degree=k) / k >= 0.8)


def _largest_node(state: ClusterState) -> int:
    sizes: dict[str, int] = {}
    for worker in state.workers.values():
        sizes[worker.node] = sizes.get(worker.node, 0) + 1
    most = max(sizes.values(), default=1)
    return 1 << (most.bit_length() - 1)
