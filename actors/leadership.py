"""Becoming the leader: lease, introduction, who stands in for its planner; not how history is read (see recollection),
nor what a leader does.
"""

from __future__ import annotations

import asyncio

from genserve.config import Settings
from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostData
from genserve.domain.events import AnyEvent, CostsUpdated, LeaderElected, PlannerChanged
from genserve.journal.errors import JournalUnavailable, LeaseHeld
from genserve.journal.journal import Journal
from genserve.planners.interface import Planner
from genserve.planners.registry import build_planner
from genserve.scheduling.costs import load_costs
from observability.logging import get_logger

LEASE_S = 3.0
STAND_IN = "edf"


async def lead(journal: Journal, holder: str) -> None:
    """Take the lease, waiting for another holder's to expire and for a database that is away, and say so."""
    told = ""
    while True:
        try:
            await journal.take_over(holder, lease_s=LEASE_S)
        except (LeaseHeld, JournalUnavailable) as busy:
            if busy.code != told:
                told = busy.code
                get_logger("genserve.scheduler").warning("waiting to lead", code=busy.code, reason=busy.message)
            await asyncio.sleep(min(busy.retry_after_s, LEASE_S / 3))
        else:
            return


def introduction(
    state: ClusterState, planner: Planner, *, epoch: int, holder: str, settings: Settings
) -> list[AnyEvent]:
    """What a new leader tells the log first: itself, and its planner and costs where they differ from the log's."""
    events: list[AnyEvent] = [LeaderElected(epoch, holder)]
    if planner.digest != state.planner_digest:
        events.append(PlannerChanged(planner.name, planner.digest, planner.parameters()))
    costs: CostData | None = load_costs(settings.costs)
    if costs is not None and costs != state.costs.data:
        events.append(CostsUpdated(costs))
    return events


def stand_in(error: Exception) -> Planner:
    """Decides in place of a planner that failed; the next leader tries that one anew."""
    get_logger("genserve.scheduler").error("planner failed", stand_in=STAND_IN, exc_info=error)
    return build_planner(STAND_IN)
