"""Committed decisions become commands to workers; not when they are decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from actors.fleet import Fleet
from actors.pool import RequestPool
from genserve.domain.cluster import ClusterState, Segment
from genserve.domain.events import PlanDecided, Recorded
from genserve.domain.plan import Cancel, Load, Start, Unload, Yield
from genserve.scheduling import protocol as p


class Dispatch:
    """The live Dispatcher: looks the details of an action up in the state that already contains it."""

    def __init__(
        self, fleet: Fleet, pool: RequestPool, state: Callable[[], ClusterState], *, checkpoint_every: int
    ) -> None:
        self._fleet = fleet
        self._pool = pool
        self._state = state
        self._checkpoint_every = checkpoint_every

    def dispatch(self, recorded: Recorded) -> None:
        """Send the commands of one committed decision."""
        if isinstance(recorded.event, PlanDecided):
            for action in recorded.event.actions:
                self._act(action)

    def stop_void(self, before: ClusterState) -> None:
        """Stop what a loss has voided on workers that live: it would run on for nobody."""
        state = self._state()
        for segment_id, segment in before.segments.items():
            if segment_id not in state.segments and segment.leader in state.workers:
                self._revise(segment, stop=True)

    def resend(self) -> None:
        """Send everything again that is under way: after a change of leader nobody knows what arrived.

        In the order in which it was decided, for all workers: two that share two segments must agree on the first.
        """
        state = self._state()
        for segment in state.segments.values():
            self._run(segment)
        for segment in state.segments.values():
            dropped = tuple(r for r in segment.request_ids if state.requests[r].stopping)
            if segment.yielding or dropped:
                self._revise(segment, stop=segment.yielding, drop=dropped)

    def _act(self, action: object) -> None:
        state = self._state()
        if isinstance(action, Start) and action.segment_id in state.segments:
            self._run(state.segments[action.segment_id])
        elif isinstance(action, Yield) and action.segment_id in state.segments:
            self._revise(state.segments[action.segment_id], stop=True)
        elif isinstance(action, Load | Unload):
            keep = isinstance(action, Load)
            self._fleet.tell(action.worker_id, p.HoldStage(state.epoch, action.model, action.stage, keep))
        elif isinstance(action, Cancel) and action.request_id in state.requests:
            for segment in self._segments_of(state, action.request_id):
                self._revise(segment, drop=(action.request_id,))

    def _segments_of(self, state: ClusterState, request_id: str) -> Iterable[Segment]:
        return [state.segments[s] for s in state.requests[request_id].segments if s in state.segments]

    def _run(self, segment: Segment) -> None:
        state = self._state()
        before = _before(state, segment)
        after_on = before.leader if before is not None and before.leader not in segment.workers else ""
        command = p.RunSegment(
            epoch=state.epoch,
            segment_id=segment.segment_id,
            stage=segment.stage,
            model=segment.model,
            members=tuple(self._member(state, request_id) for request_id in segment.request_ids),
            group=segment.workers,
            from_step=segment.from_step,
            to_step=segment.to_step,
            after=segment.after,
            generation=self._fleet.generation,
            checkpoint_every=self._checkpoint_every,
            after_on=after_on,
            after_incarnation=state.workers[after_on].incarnation if after_on else 0,
            continues=before is not None,
        )
        for worker_id in segment.workers:
            self._fleet.tell(worker_id, command)

    def _revise(self, segment: Segment, *, stop: bool = False, drop: tuple[str, ...] = ()) -> None:
        self._fleet.tell(segment.leader, p.Revise(self._state().epoch, segment.segment_id, stop, drop))

    def _member(self, state: ClusterState, request_id: str) -> p.Member:
        request = state.requests[request_id]
        return p.Member(request.spec, request.attempt, self._pool.assign(request_id), request.home, request.checkpoint)


def _before(state: ClusterState, segment: Segment) -> Segment | None:
    """The live segment that the requests of this one are in before it."""
    before = state.segments.get(segment.after)
    if before is None or before.leader not in state.workers:
        return None
    return before if set(before.request_ids) & set(segment.request_ids) else None
