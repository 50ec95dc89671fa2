"""The scheduler as a request actor sees it: streams, and attempts that may be over."""

from __future__ import annotations

from collections.abc import Sequence

from actors.framework.runtime import Runtime, UnreachableError
from genserve.domain import events as e
from genserve.domain.ids import REQUEST_STREAM, request_stream
from genserve.domain.request import RequestSpec
from genserve.errors import CallerError


class FakeJournal:
    """``lost_answers`` of the next appends are stored but not answered; below ``attempts`` everything is refused."""

    def __init__(self, runtime: Runtime | None = None) -> None:
        self.streams: dict[str, list[e.Recorded]] = {}
        self.attempts: dict[str, int] = {}
        self.lost_answers = 0
        self.reads = 0

    def add(self, request_id: str, *events: e.AnyEvent) -> None:
        stream = self.streams.setdefault(request_stream(request_id), [])
        for event in events:
            version = len(stream) + 1
            stream.append(e.Recorded(version, request_stream(request_id), version, 0, event))

    def submit(self, spec: RequestSpec) -> None:
        self.add(spec.request_id, e.RequestSubmitted(spec))

    async def read_stream(self, stream: str, after: int) -> Sequence[e.Recorded]:
        self.reads += 1
        return self.streams.get(stream, [])[after:]

    async def extend(
        self, stream: str, version: int, events: tuple[e.AnyEvent, ...]
    ) -> tuple[bool, Sequence[e.Recorded]]:
        request_id = stream[len(REQUEST_STREAM) :]
        known = self.streams.get(stream, [])
        if any(getattr(event, "attempt", 99) < self.attempts.get(request_id, 0) for event in events):
            raise CallerError("stale_attempt", f"{stream} has moved on")
        if len(known) != version:
            return False, known[version:]
        self.add(request_id, *events)
        if self.lost_answers:
            self.lost_answers -= 1
            raise UnreachableError("died during extend")
        return True, self.streams[stream][version:]

    def events(self, request_id: str = "r1") -> list[e.AnyEvent]:
        return [recorded.event for recorded in self.streams[request_stream(request_id)]]

    def story(self, request_id: str = "r1") -> list[str]:
        return [type(event).__name__ for event in self.events(request_id)]
