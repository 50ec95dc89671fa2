"""What every policy has in common: ends that follow from the state alone; not scheduling."""

from __future__ import annotations

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.events import AnyEvent, RequestCancelled, RequestFailed
from genserve.domain.ids import request_stream
from genserve.domain.plan import Accept, Cancel, Defer, Plan
from genserve.domain.request import Status

MAX_FAILURES = 4
"""How many failed attempts a request may cost before it is given up: one bad request must not eat the pool."""


def verdicts(state: ClusterState) -> list[tuple[str, AnyEvent]]:
    """Requests whose end is due: cancelled while in no segment, failed for good, or out of attempts."""
    ends = []
    for request in state.requests.values():
        if request.cancelling or request.fatal or request.failures > MAX_FAILURES:
            verdict = _find_verdict(request)
            if verdict is not None:
                ends.append((request_stream(request.request_id), verdict))
    return sorted(ends, key=lambda end: end[0])


def _find_verdict(request: Request) -> AnyEvent | None:
    if request.cancelling and not request.segments and request.status is not Status.FINISHING:
        return RequestCancelled("cancel requested")
    if request.fatal:
        return RequestFailed(request.fatal, request.fault.removeprefix(f"{request.fatal}: "))
    if request.failures > MAX_FAILURES:
        message = f"{request.failures} attempts failed, {MAX_FAILURES} are allowed; the last with {request.fault}"
        return RequestFailed("attempts_exhausted", message)
    return None


def accepts(state: ClusterState, plan: Plan) -> tuple[Accept, ...]:
    """A light answer that the planner does not defer stands: planners that know no cascades need not learn them."""
    answered = [r.request_id for r in state.requests.values() if r.is_answered]
    if not answered:
        return ()
    decided = {a.request_id for a in plan.actions if isinstance(a, Accept | Defer)}
    return tuple(Accept(r, "the light answer stands") for r in sorted(answered) if r not in decided)


def cancels(state: ClusterState) -> tuple[Cancel, ...]:
    """Orders to stop what is cancelled but still in a segment and not yet told so."""
    due = [r.request_id for r in state.requests.values() if r.cancelling and r.segments and not r.stopping]
    return tuple(Cancel(request_id, "cancel requested") for request_id in sorted(due))
