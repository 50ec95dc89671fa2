"""Turn wishes in priority order into actions with few interruptions; not where priorities come from.

Shared by every policy that can say "these requests, in this order, at these degrees".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby, product

from msgspec import Struct

from genserve.domain.cluster import ClusterState, Request, Segment, Worker
from genserve.domain.estimate import is_of_head
from genserve.domain.placement import denoisers, holders, is_free, places
from genserve.domain.plan import AnyAction, Plan, Start, Waiting, Yield
from genserve.domain.request import Stage


class Wish(Struct, frozen=True):
    """A batch (usually of one) that should run at a degree, and why."""

    request_ids: tuple[str, ...]
    degree: int
    reason: str


def assign(state: ClusterState, wishes: Sequence[Wish], *, preemptive: bool) -> Plan:
    """Give GPUs to wishes in order; what runs keeps its GPUs unless ``preemptive`` and something before it needs them.

    A start goes to free GPUs first, then behind segments that are about to end (a yield under way, a decode),
    so that no GPU idles while the news travels.
    """
    requests = state.requests
    if not any(requests[r].is_idle for w in wishes for r in w.request_ids[:1]):
        return Plan(note="nothing waits")
    return _Assignment(state, wishes, preemptive=preemptive).plan()


def chain(
    requests: Sequence[Request], workers: tuple[str, ...], *, ids: SegmentIds, after: str, reason: str
) -> list[Start]:
    """The segments that finish a batch from where it stands: denoise on the group, encode and decode on its leader.

    Where the leader doesn't hold those stages, and somebody who does is not denoising, they run there. What doesn't
    run on the group need not wait for ``after``. Requests that are about to stop go on from there.
    """
    first = requests[0]
    is_open = bool(first.segments)
    after = first.segments[0] if is_open else after
    names = tuple(r.request_id for r in requests)
    stages = {Stage.ENCODE: (Stage.ENCODE, Stage.DENOISE, Stage.DECODE), Stage.DENOISE: (Stage.DENOISE, Stage.DECODE)}
    starts: list[Start] = []
    ids.stages.take(workers)
    for stage in stages.get(first.stage, (Stage.DECODE,)):
        is_denoise = stage is Stage.DENOISE
        group = workers if is_denoise else (ids.stages.choose(first.spec.model, stage, workers[0]),)
        is_apart = stage is Stage.ENCODE and group[0] not in workers
        start = Start(
            ids.take(),
            names,
            first.spec.model,
            stage,
            group,
            reason,
            (None if is_open else first.step) if is_denoise else 0,
            first.spec.steps if is_denoise else 0,
            "" if is_apart else after,
        )
        starts.append(start)
        after = start.segment_id
    return starts


class SegmentIds:
    """Deterministic, unique ids for the segments of one decision, and who runs their encodes and decodes."""

    def __init__(self, state: ClusterState) -> None:
        self.stages = StageWorkers(state)
        self._prefix = f"s{state.position}"
        self._count = 0

    def take(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"


class StageWorkers:
    """Workers for encodes and decodes of one decision: the group's leader if it can, else the least busy who can."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._chosen: dict[str, int] = {}
        self._taken: set[str] = set()

    def take(self, group: tuple[str, ...]) -> None:
        """Those denoise from now on."""
        self._taken.update(group)

    def choose(self, model: str, stage: Stage, leader: str) -> str:
        if self._is_anywhere:
            return leader
        able = holders(self._state, model, stage)
        if leader in able:
            return leader
        fits = [self._state.workers[w] for w in able if not self._denoises(w)]
        if not fits:
            return leader
        node = self._state.workers[leader].node
        best = min(fits, key=lambda w: (len(w.queue) + self._chosen.get(w.worker_id, 0), w.node != node, w.worker_id))
        self._chosen[best.worker_id] = self._chosen.get(best.worker_id, 0) + 1
        return best.worker_id

    @cached_property
    def _is_anywhere(self) -> bool:
        """No worker has said where its stages are."""
        return not any(w.resident or w.displaced for w in self._state.workers.values())

    def _denoises(self, worker_id: str) -> bool:
        """A short stage would wait for a long one there; loading it beside the denoiser takes less."""
        queue = (self._state.segments[s] for s in self._state.workers[worker_id].queue)
        return worker_id in self._taken or any(segment.stage is Stage.DENOISE for segment in queue)


class _Assignment:
    def __init__(self, state: ClusterState, wishes: Sequence[Wish], *, preemptive: bool) -> None:
        self.state = state
        self.wishes = wishes
        self.preemptive = preemptive
        self.ids = SegmentIds(state)
        self.actions: list[AnyAction] = []
        able = denoisers(state)
        self.workers = sorted((w for w in state.workers.values() if w.worker_id in able), key=_by_id)
        self.free = {w.worker_id: "" for w in self.workers if is_free(state, w)}
        self.soon = dict(self._ending())

    def plan(self) -> Plan:
        idle = [w for w in self.wishes if self._is_idle(w)]
        chosen = self._choose(self.wishes if self.preemptive else idle)
        unstarted = [w for w in idle if w.request_ids in chosen]
        if self.preemptive:
            self._yield_for(unstarted, chosen)
        waiting = [w for w in idle if not (w.request_ids in chosen and self._try_start(w))]
        note = "" if self.actions else ("all GPUs are taken" if waiting else "nothing waits")
        return Plan(tuple(self.actions), tuple(self._explain(waiting)), note)

    def _is_idle(self, wish: Wish) -> bool:
        requests = self.state.requests
        return all(requests[r].is_idle for r in wish.request_ids)

    def _choose(self, wishes: Sequence[Wish]) -> set[tuple[str, ...]]:
        """The batches that get GPUs if all that may be interrupted could be rearranged at once."""
        budget = len(self.workers)
        if not self.preemptive:
            budget = len(self.free) + len(self.soon)
        chosen = set()
        for wish in wishes:
            if budget <= 0:
                break
            if wish.degree <= budget:
                chosen.add(wish.request_ids)
                budget -= wish.degree
        return chosen

    def _yield_for(self, unstarted: list[Wish], chosen: set[tuple[str, ...]]) -> None:
        """Ask the least important runners to stop until enough GPUs come free."""
        missing = sum(w.degree for w in unstarted) - len(self.free) - len(self.soon)
        for wish in reversed(self.wishes):
            if missing <= 0:
                return
            segment = None if wish.request_ids in chosen else self._find_stoppable(wish)
            if segment is not None:
                self.actions.append(Yield(segment.segment_id, f"gives way to {unstarted[0].request_ids[0]}"))
                self.soon.update(dict.fromkeys(segment.workers, segment.segment_id))
                missing -= segment.degree

    def _find_stoppable(self, wish: Wish) -> Segment | None:
        """The denoising segment of a runner; encodes and decodes are short and end by themselves."""
        for segment_id in self.state.requests[wish.request_ids[0]].segments:
            segment = self.state.segments[segment_id]
            if segment.stage is Stage.DENOISE and not segment.yielding and segment.after not in self.state.segments:
                return segment
        return None

    def _ending(self) -> Iterable[tuple[str, str]]:
        """Workers that come free without anyone's doing, and the segment they wait for."""
        segments = self.state.segments
        for worker in self.workers:
            queue = [segments[s] for s in worker.queue] if worker.worker_id not in self.free else []
            if queue and _ends_by_itself(queue[0]) and is_of_head(queue):
                yield worker.worker_id, queue[0].segment_id

    def _try_start(self, wish: Wish) -> bool:
        requests = [self.state.requests[r] for r in wish.request_ids]
        group = self._find_group(wish.degree, requests[0])
        if group is None:
            return False
        before = [self.free.pop(w, "") or self.soon.pop(w, "") for w in group]
        after = next((s for s in before if s), "")
        self.actions.extend(chain(requests, group, ids=self.ids, after=after, reason=wish.reason))
        return True

    def _find_group(self, degree: int, request: Request) -> tuple[str, ...] | None:
        """Workers for a start: on the home of its latents if possible, on idle GPUs rather than on busy ones."""
        home, model = request.home, request.spec.model
        for every, find in product((self.free, {**self.free, **self.soon}), (holders, places)):
            able = find(self.state, model, Stage.DENOISE)
            pool = {w: s for w, s in every.items() if w in able}
            if degree == 1 and home in pool:
                return (home,)
            group = self._find_aligned(pool, degree)
            if group is not None:
                return group if home not in group else (home, *(w for w in group if w != home))
        return None

    def _find_aligned(self, usable: dict[str, str], degree: int) -> tuple[str, ...] | None:
        """The first aligned block of ``degree`` workers of one node that are all usable.

        Aligned power-of-two blocks are the only groups that every cluster creates in advance.
        """
        for _, members in groupby(self.workers, key=_node):
            names = [w.worker_id for w in members]
            for start in range(0, len(names) - degree + 1, degree):
                block = tuple(names[start : start + degree])
                if all(w in usable for w in block):
                    return block
        return None

    def _explain(self, waiting: Sequence[Wish]) -> Iterable[Waiting]:
        for wish in waiting:
            for request_id in wish.request_ids:
                if not self.state.workers:
                    yield Waiting(request_id, "no worker has joined")
                else:
                    yield Waiting(request_id, f"{wish.reason}: requests before it hold the GPUs")


def _ends_by_itself(segment: Segment) -> bool:
    return segment.yielding or (segment.stage is Stage.DECODE and segment.is_running)


def _by_id(worker: Worker) -> tuple[str, str]:
    """Total order of workers: by node, then by id."""
    return worker.node, worker.worker_id


def _node(worker: Worker) -> str:
    return worker.node
