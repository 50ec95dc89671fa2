"""A tiny live driver with a random, legal and unkind world: late reports, lost workers, refusals, cancels."""

from __future__ import annotations

import random

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState, Segment
from genserve.domain.costs import CostData
from genserve.domain.ids import SCHEDULER_STREAM, request_stream, worker_stream
from genserve.domain.request import Stage, Status
from genserve.planners.interface import Planner
from genserve.planners.registry import build_planner
from genserve.scheduling.loop import Loop
from tests.builders import VIDEO, a_request

Facts = list[tuple[str, e.AnyEvent]]


class Chaos:
    """Records what the loop decides and what a world drawn from ``seed`` makes of it, until ``moves`` are made."""

    def __init__(self, seed: int, *, planner: str = "edf", workers: int = 2) -> None:
        self.draw = random.Random(seed)
        self.log: list[e.Recorded] = []
        self.now_us = 1_000_000
        self.loop = Loop(build_planner(planner), dispatcher=self)
        self.late: Facts = []
        self.requests = 0
        self.incarnations = {f"w{i}": 1 for i in range(workers)}
        self._versions: dict[str, int] = {}
        self.change_planner(self.loop.planner)
        self.record([(SCHEDULER_STREAM, e.CostsUpdated(CostData("guess")))])
        self.record([(worker_stream(w), e.WorkerJoined(w, 1)) for w in self.incarnations])

    def change_planner(self, planner: Planner) -> None:
        """Another policy from here on, as after a restart: it remembers the whole log."""
        self.loop.planner, self.loop.memory = planner, planner.begin()
        for recorded in self.log:
            self.loop.memory = planner.remember(self.loop.memory, recorded)
        self.record([(SCHEDULER_STREAM, e.PlannerChanged(planner.name, planner.digest, planner.parameters()))])

    def dispatch(self, recorded: e.Recorded) -> None:
        """The world is drawn from the state, not from what was dispatched."""

    def run(self, moves: int) -> list[e.Recorded]:
        for _ in range(moves):
            self.now_us += self.draw.randrange(1, 200_000)
            self.record(self._move())
        return self.log

    def record(self, facts: Facts) -> None:
        while facts:
            batch = [self._recorded(stream, event) for stream, event in facts]
            self.log += batch
            facts = self.loop.observe(batch, self.now_us)
        if len(self.log) > 100_000:
            raise RuntimeError("the loop decides without end")

    def _recorded(self, stream: str, event: e.AnyEvent) -> e.Recorded:
        version = self._versions[stream] = self._versions.get(stream, 0) + 1
        position = sum(self._versions.values())
        return e.Recorded(position, stream, version, self.now_us, event, self.now_us, f"event-{position}")

    def _move(self) -> Facts:
        state = self.loop.state
        moves = [self._submit, self._segment, self._segment, self._segment, self._segment, self._store]
        rare = [self._cancel, self._lose, self._join, self._refuse, self._fail, self._checkpoint, self._straggle]
        return self.draw.choice([*moves, self.draw.choice(rare)])(state)

    def _submit(self, state: ClusterState) -> Facts:
        if len(state.requests) > 6:
            return self._segment(state)
        self.requests += 1
        deadline_us = self.now_us + self.draw.randrange(1, 5_000_000)
        shape = {"shape": VIDEO} if self.draw.random() < 0.4 else {}
        spec = a_request(f"r{self.requests}", arrival_us=self.now_us, deadline_us=deadline_us, **shape)
        return [(request_stream(spec.request_id), e.RequestSubmitted(spec))]

    def _segment(self, state: ClusterState) -> Facts:
        """One report of the segment at the head of some worker's queue."""
        heads = [state.segments[w.queue[0]] for w in state.workers.values() if w.queue]
        heads = [s for s in heads if all(state.workers[w].queue[0] == s.segment_id for w in s.workers)]
        if not heads:
            return []
        segment = self.draw.choice(sorted(heads, key=lambda s: s.segment_id))
        facts: Facts = []
        for request_id in segment.request_ids:
            facts += [(request_stream(request_id), event) for event in self._report(state, segment, request_id)]
        if self.draw.random() < 0.1:
            self.late += facts
        return facts

    def _report(self, state: ClusterState, segment: Segment, request_id: str) -> list[e.AnyEvent]:
        request = state.requests[request_id]
        name, attempt, stage = segment.segment_id, request.attempt, segment.stage
        if not segment.started_us:
            step = request.step if stage is Stage.DENOISE else 0
            return [e.StageStarted(name, stage, attempt, segment.workers, len(segment.request_ids), step)]
        if request.stopping:
            return [e.RequestCancelled("at a boundary")]
        is_over = stage is not Stage.DENOISE or request.step >= segment.to_step
        if segment.yielding and not is_over:
            return [e.RequestPaused(name, attempt, request.step, segment.leader)]
        if not is_over:
            return [e.StepsFinished(name, attempt, request.step, request.step + 1, 50_000, segment.degree)]
        return [e.StageFinished(name, stage, attempt, 70_000)]

    def _store(self, state: ClusterState) -> Facts:
        done = [r for r in state.requests.values() if r.status is Status.FINISHING]
        return [(request_stream(r.request_id), e.RequestCompleted(r.attempt)) for r in done]

    def _cancel(self, state: ClusterState) -> Facts:
        return [(request_stream(r), e.CancelRequested()) for r in sorted(state.requests)[:1]]

    def _lose(self, state: ClusterState) -> Facts:
        name = self.draw.choice(sorted(self.incarnations))
        return [(worker_stream(name), e.WorkerLost(name, self.incarnations[name], "killed"))]

    def _join(self, state: ClusterState) -> Facts:
        name = self.draw.choice(sorted(self.incarnations))
        self.incarnations[name] += 1
        return [(worker_stream(name), e.WorkerJoined(name, self.incarnations[name]))]

    def _refuse(self, state: ClusterState) -> Facts:
        """Only what has not begun, and nothing whose requests are still running."""
        ready = sorted(s.segment_id for s in state.segments.values() if not s.started_us and not s.after)
        if not ready:
            return []
        segment = state.segments[self.draw.choice(ready)]
        return [(worker_stream(segment.leader), e.ActionRefused(segment.segment_id, segment.leader, "stale", "no"))]

    def _fail(self, state: ClusterState) -> Facts:
        running = sorted(r.request_id for r in state.requests.values() if r.status is Status.RUNNING)
        return [
            (request_stream(r), e.AttemptFailed(state.requests[r].attempt, "out_of_memory", "too big"))
            for r in running[:1]
        ]

    def _checkpoint(self, state: ClusterState) -> Facts:
        begun = sorted(r.request_id for r in state.requests.values() if r.step)
        return [
            (request_stream(r), e.LatentsCheckpointed(state.requests[r].attempt, state.requests[r].step, "u", 9, "h"))
            for r in begun[:1]
        ]

    def _straggle(self, state: ClusterState) -> Facts:
        """Reports of an attempt that is over come late."""
        late, self.late = self.late[:3], self.late[3:]
        live = {request_stream(r.request_id): r.attempt for r in state.requests.values()}
        return [(stream, event) for stream, event in late if getattr(event, "attempt", 99) < live.get(stream, 0)]
