"""ETAs of live requests, projected by the planner itself and kept for a moment; not promises."""

from __future__ import annotations

import asyncio

from genserve.scheduling.gateway import Forecast
from genserve.scheduling.loop import Loop
from genserve.simulate.project import project

FRESH_US = 500_000


class Forecasts:
    """One projection serves all who ask within half a second; it runs beside the loop, on a frozen state."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._projected_us = 0
        self._position = -1
        self._finishes: dict[str, int] = {}
        self._lock = asyncio.Lock()

    async def find(self, request_id: str, now_us: int) -> Forecast | None:
        """Of a live request, unless the projection found no end for it."""
        request = self._loop.state.requests.get(request_id)
        if request is None:
            return None
        async with self._lock:
            if not self._is_fresh(request_id, now_us):
                await self._project(now_us)
        eta_us = self._finishes.get(request_id)
        deadline_us = request.spec.deadline_us
        return None if eta_us is None else Forecast(eta_us, deadline_us, eta_us <= deadline_us)

    def _is_fresh(self, request_id: str, now_us: int) -> bool:
        if self._position == self._loop.state.position:
            return True
        return request_id in self._finishes and now_us - self._projected_us < FRESH_US

    async def _project(self, now_us: int) -> None:
        loop = self._loop
        self._position, self._projected_us = loop.state.position, now_us
        self._finishes = await asyncio.to_thread(project, loop.state, loop.planner, loop.memory, now_us=now_us)
