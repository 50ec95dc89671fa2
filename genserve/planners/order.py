"""Live requests in a total order as single-GPU wishes; not for policies that choose degrees."""

from __future__ import annotations

from collections.abc import Callable

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.request import Status
from genserve.planners.assign import Wish


def wishes_in_order(state: ClusterState, key: Callable[[Request], int], *, reason: str) -> list[Wish]:
    """Higher priority first, then by ``key``, then by id; requests that need no GPU any more are left out.

    None at all while nobody waits: there is nothing to put in order then.
    """
    if not any(r.is_idle for r in state.requests.values()):
        return []
    live = [r for r in state.requests.values() if r.status is not Status.FINISHING and not r.cancelling]
    live.sort(key=lambda r: (-r.spec.priority, key(r), r.spec.request_id))
    return [Wish((r.request_id,), 1, reason) for r in live]
