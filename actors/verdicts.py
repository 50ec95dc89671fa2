"""Submissions wait here for admission's verdict; the test is the planners', and when it is made is the loop's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from genserve.config import Settings
from genserve.domain.cluster import ClusterState
from genserve.domain.events import Recorded, RequestFailed, RequestSubmitted
from genserve.domain.ids import request_stream
from genserve.errors import RefusedByPolicy
from genserve.planners.admission import Admission
from genserve.planners.interface import Parameter
from genserve.scheduling.verdicts import REFUSED

MIN_RETRY_S, MAX_RETRY_S = 1.0, 3600.0

ReadStream = Callable[[str], Awaitable[Sequence[Recorded]]]


def admission_of(settings: Settings) -> Admission | None:
    """None admits everything."""
    chosen = settings.admission
    return Admission(chosen.fill, round(chosen.verdict_within_s * 1_000_000)) if chosen.fill > 0 else None


def parameters_of(settings: Settings) -> dict[str, Parameter]:
    """The planner's; SAVE is told where everything in the pool was promised its deadline."""
    promised: dict[str, Parameter] = {"admitted": True}
    is_promised = settings.planner == "save" and admission_of(settings) is not None
    return {**(promised if is_promised else {}), **settings.planner_parameters}


class Verdicts:
    """``moved`` is notified whenever the log has grown; ``state`` is the loop's.

    An open verdict is in the log, so a repeated submission, also to a successor, waits for the same one.
    """

    def __init__(
        self,
        admission: Admission | None,
        *,
        state: Callable[[], ClusterState],
        moved: asyncio.Condition,
        read: ReadStream,
        clock_us: Callable[[], int],
    ) -> None:
        self._admission = admission
        self._state = state
        self._moved = moved
        self._read = read
        self._clock_us = clock_us

    def due_us(self) -> int:
        """By when a submission that comes now gets its verdict; 0 if it needs none."""
        return self._clock_us() + self._admission.patience_us if self._admission is not None else 0

    async def wait(self, ids: Sequence[str]) -> None:
        """Until all of them have one. Raises RefusedByPolicy ``refused`` if one was refused, or was long ago."""
        if self._admission is None:
            return
        async with self._moved:
            await self._moved.wait_for(lambda: not self._is_open(ids))
        for request_id in ids:
            if request_id not in self._state().requests:
                _raise_if_refused(request_id, await self._read(request_stream(request_id)))

    def _is_open(self, ids: Sequence[str]) -> bool:
        undecided = self._state().undecided or {}
        return any(request_id in undecided for request_id in ids)


def _raise_if_refused(request_id: str, history: Sequence[Recorded]) -> None:
    deadline_us = 0
    for recorded in history:
        event = recorded.event
        if isinstance(event, RequestSubmitted):
            deadline_us = event.request.deadline_us
        elif isinstance(event, RequestFailed) and event.code == REFUSED:
            later_s = (event.quote_us - deadline_us) / 1_000_000
            retry_s = min(max(later_s, MIN_RETRY_S), MAX_RETRY_S)
            raise RefusedByPolicy(REFUSED, f"request {request_id} was refused: {event.message}", None, retry_s)
