"""Is a plan legal in a state? Not whether it is wise.

Checked before a plan is recorded, live and in simulation, so that an illegal one never reaches a worker.
"""

from __future__ import annotations

from collections.abc import Sequence

from genserve.domain.cluster import ClusterState, Request, Segment
from genserve.domain.placement import is_placed
from genserve.domain.plan import Accept, Cancel, Defer, Load, Plan, Start, Unload, Yield
from genserve.domain.request import Stage, Status

_ORDER = (Stage.ENCODE, Stage.DENOISE, Stage.DECODE)


def find_faults(state: ClusterState, plan: Plan) -> list[str]:
    """What is illegal about the plan, in words that name the ids; empty when it may be recorded."""
    strangers = [w.request_id for w in plan.waiting if w.request_id not in state.requests]
    faults = [f"{request_id} is told to wait but is not a live request" for request_id in strangers]
    if not plan.actions:
        return faults
    check = _Check(state)
    check.faults += faults
    for action in plan.actions:
        if isinstance(action, Start):
            check.start(action)
        elif isinstance(action, Yield):
            check.yields(action)
        elif isinstance(action, Cancel):
            check.known_request(action.request_id, "cancelled")
        elif isinstance(action, Accept | Defer):
            check.answered(action)
        elif isinstance(action, Load | Unload):
            check.residency(action)
    return check.faults


class _Check:
    """Walks the actions in order and keeps track of what the earlier ones would change."""

    def __init__(self, state: ClusterState) -> None:
        self.state = state
        self.faults: list[str] = []
        self.queues: dict[str, tuple[str, ...]] = {}
        self.yielding: set[str] = set()
        self.expected: dict[str, tuple[Stage, int | None]] = {}
        self.started: dict[str, Start] = {}

    def fault(self, message: str) -> None:
        self.faults.append(message)

    def known_request(self, request_id: str, verb: str) -> Request | None:
        request = self.state.requests.get(request_id)
        if request is None:
            self.fault(f"{request_id} is {verb} but is not a live request")
        return request

    def answered(self, action: Accept | Defer) -> None:
        request = self.known_request(action.request_id, "answered")
        if request is None:
            return
        if not request.is_answered:
            self.fault(f"{action.request_id} has no answer to accept or defer")
        elif isinstance(action, Defer) and not request.spec.heavy_model:
            self.fault(f"{action.request_id} is deferred but has no heavy model")

    def known_worker(self, worker_id: str) -> bool:
        if worker_id not in self.state.workers:
            self.fault(f"{worker_id} is not a worker of this cluster")
            return False
        return True

    def residency(self, action: Load | Unload) -> None:
        if not self.known_worker(action.worker_id):
            return
        worker, key = self.state.workers[action.worker_id], (action.model, action.stage)
        if isinstance(action, Load) == (key in worker.resident):
            holds = "holds it already" if isinstance(action, Load) else "does not hold it"
            self.fault(f"{action.model}/{action.stage}: {action.worker_id} {holds}")
        if isinstance(action, Unload):
            queued = [self.state.segments[s] for s in worker.queue]
            if any((s.model, s.stage) == key for s in queued):
                self.fault(f"{action.model}/{action.stage} leaves {action.worker_id}, whose queue needs it")

    def yields(self, action: Yield) -> None:
        segment = self.state.segments.get(action.segment_id)
        if segment is None:
            self.fault(f"segment {action.segment_id} yields but does not exist")
        elif segment.yielding:
            self.fault(f"segment {action.segment_id} is already yielding")
        self.yielding.add(action.segment_id)

    def start(self, start: Start) -> None:
        name = f"start of {start.segment_id}"
        if start.segment_id in self.state.segments or start.segment_id in self.started:
            self.fault(f"{name}: the id is taken")
        if not start.request_ids or len(set(start.request_ids)) != len(start.request_ids):
            self.fault(f"{name}: a batch names each request once, got {start.request_ids}")
        self._check_group(name, start)
        self._check_after(name, start)
        for request_id in start.request_ids:
            self._check_member(name, start, request_id)
        self._check_batch(name, start)
        self.started[start.segment_id] = start

    def _check_group(self, name: str, start: Start) -> None:
        degree = len(start.workers)
        if degree == 0 or degree & (degree - 1) or len(set(start.workers)) != degree:
            self.fault(f"{name}: a group has 1, 2, 4, ... different workers, got {start.workers}")
        if start.stage is not Stage.DENOISE and degree != 1:
            self.fault(f"{name}: {start.stage} takes one GPU, got {degree}")
        known = [w for w in start.workers if self.known_worker(w)]
        if len({self.state.workers[w].node for w in known}) > 1:
            self.fault(f"{name}: the group {start.workers} crosses nodes")
        for worker_id in known:
            queue = self.queues.get(worker_id, self.state.workers[worker_id].queue)
            if queue and not start.after and not self._may_queue_behind(queue):
                self.fault(f"{name}: {worker_id} is busy with {queue[-1]}")
            self.queues[worker_id] = (*queue, start.segment_id)

    def _may_queue_behind(self, queue: tuple[str, ...]) -> bool:
        """Where stages have places of their own, others may line up behind encodes and decodes, which are short."""
        found = (self.state.segments.get(s) or self.started[s] for s in queue)
        return is_placed(self.state) and all(segment.stage is not Stage.DENOISE for segment in found)

    def _check_after(self, name: str, start: Start) -> None:
        if start.after and start.after not in self.state.segments and start.after not in self.started:
            self.fault(f"{name}: waits for {start.after}, which does not exist")

    def _check_member(self, name: str, start: Start, request_id: str) -> None:
        request = self.known_request(request_id, "started")
        if request is None:
            return
        if request.cancelling or request.status is Status.FINISHING or request.spec.model != start.model:
            self.fault(f"{name}: {request_id} cannot run ({request.status}, model {request.spec.model})")
        stage, step = self.expected.get(request_id) or self._position(request)
        if start.stage is not stage:
            self.fault(f"{name}: {request_id} is at {stage}, not at {start.stage}")
        fits = start.from_step == step and (step or 0) < start.to_step <= request.spec.steps
        if start.stage is Stage.DENOISE and not fits:
            self.fault(f"{name}: {request_id} is at step {step}, asked for {start.from_step} to {start.to_step}")
        self.expected[request_id] = self._beyond(request, start)

    def _position(self, request: Request) -> tuple[Stage, int | None]:
        """Where the request will be when its queued segments have run."""
        live = [self.state.segments[s] for s in request.segments if s in self.state.segments]
        if self._is_stopping(live):
            return request.stage, None
        if not live:
            return request.stage, request.step
        last = live[-1]
        if last.stage is Stage.DENOISE and last.to_step < request.spec.steps:
            return Stage.DENOISE, last.to_step
        return self._following(last.stage), request.spec.steps if last.stage is Stage.DENOISE else request.step

    def _is_stopping(self, live: Sequence[Segment]) -> bool:
        """Whether it will stop with nothing queued that goes on from there."""
        are_stops = [s.yielding or s.segment_id in self.yielding for s in live]
        return any(are_stops) and not any(s.is_open for s in live[are_stops.index(True) + 1 :])

    def _beyond(self, request: Request, start: Start) -> tuple[Stage, int | None]:
        if start.stage is Stage.DENOISE and start.to_step < request.spec.steps:
            return Stage.DENOISE, start.to_step
        return self._following(start.stage), request.spec.steps if start.stage is Stage.DENOISE else request.step

    def _following(self, stage: Stage) -> Stage:
        return _ORDER[min(_ORDER.index(stage) + 1, 2)]

    def _check_batch(self, name: str, start: Start) -> None:
        if len(start.request_ids) < 2:
            return
        members = [self.state.requests[r] for r in start.request_ids if r in self.state.requests]
        if len({m.spec.batch_key for m in members}) > 1:
            self.fault(f"{name}: {start.request_ids} differ in model, shape, steps or guidance")
