"""Decoded pixels are in memory only until they are stored: who holds them, and what if nobody does any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.fleet import Fleet
from actors.pool import RequestPool
from genserve.domain.cluster import ClusterState
from genserve.domain.events import AttemptFailed
from genserve.domain.ids import request_stream
from genserve.domain.request import Status
from genserve.journal.contract import Unit
from genserve.journal.errors import JournalUnavailable, VersionConflict
from genserve.journal.journal import Journal

RETRY_S = 0.2


class Custody:
    """Looks after requests that are FINISHING.

    Their pixels are in a worker's outbox until a request actor has stored them; the actor has them while it does. When
    both have died, the attempt has failed: the pixels are made again from the last checkpoint.
    """

    def __init__(self, journal: Journal, fleet: Fleet, pool: RequestPool, state: Callable[[], ClusterState]) -> None:
        self._journal = journal
        self._fleet = fleet
        self._pool = pool
        self._state = state

    async def check(self) -> None:
        """To be called after every death; costs nothing while no request is finishing."""
        while versions := {r: await self._version(r) for r in self._finishing()}:
            held = await self._pool.holding() | await self._fleet.reporting()
            lost = {r: version for r, version in versions.items() if r not in held}
            if all([await self._has_given_up(*one) for one in lost.items()]):
                return

    def _finishing(self) -> list[str]:
        requests = self._state().requests
        return sorted(r.request_id for r in requests.values() if r.status is Status.FINISHING)

    async def _version(self, request_id: str) -> int:
        events = await asyncio.to_thread(self._journal.reader.read_stream, request_stream(request_id))
        return events[-1].version

    async def _has_given_up(self, request_id: str, version: int) -> bool:
        """False if the request has moved on since it was looked at: then somebody may hold them after all."""
        request = self._state().requests.get(request_id)
        if request is None or request.status is not Status.FINISHING:
            return True
        failed = AttemptFailed(request.attempt, "result_lost", "whoever held the pixels died before storing them")
        while True:
            try:
                await self._journal.append([Unit(request_stream(request_id), (failed,), version)])
            except JournalUnavailable:
                await asyncio.sleep(RETRY_S)
            except VersionConflict:
                return False
            else:
                return True
