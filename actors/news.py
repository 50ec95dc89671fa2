"""Which streams the log has grown by lately, told by the scheduler and kept by each ingress; not what grew.

With it a client that follows one request costs a read per fact of that request, not one per fact of the whole log.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from msgspec import Struct

from genserve.domain.events import Recorded

KEPT = 10_000
"""Events that the scheduler remembers, and streams that an ingress does."""


class News(Struct, frozen=True):
    """The log's last position that is told, and the streams that grew up to it; None: possibly all of them."""

    position: int
    streams: frozenset[str] | None = None


class Teller:
    """The scheduler's side. Guarantee: who asks again with the position it was told misses no stream."""

    def __init__(self) -> None:
        self.position = 0
        self._recent: deque[tuple[int, str]] = deque(maxlen=KEPT)

    def note(self, batch: Sequence[Recorded]) -> None:
        """Committed events, in the order of the log."""
        self._recent.extend((recorded.position, recorded.stream) for recorded in batch)
        self.position = self._recent[-1][0] if self._recent else self.position

    def since(self, position: int) -> News:
        """What grew beyond a position; somebody who was away for too long hears that anything may have."""
        if not self._recent or self._recent[0][0] > position + 1:
            return News(self.position)
        newest = []
        for at, stream in reversed(self._recent):
            if at <= position:
                break
            newest.append(stream)
        return News(self.position, frozenset(newest))


class Listener:
    """An ingress's side: at which told position a stream last grew."""

    def __init__(self) -> None:
        self.position = 0
        self._grown: OrderedDict[str, int] = OrderedDict()
        self._all_grown = 0

    def hear(self, news: News) -> None:
        self.position = news.position
        if news.streams is None:
            self._all_grown = news.position
            self._grown.clear()
            return
        for stream in sorted(news.streams):
            self._grown[stream] = news.position
            self._grown.move_to_end(stream)
        while len(self._grown) > KEPT:
            self._all_grown = max(self._all_grown, self._grown.popitem(last=False)[1])

    def has_grown(self, stream: str, since: int) -> bool:
        """Whether the stream may have grown after this listener stood at ``since``."""
        return max(self._all_grown, self._grown.get(stream, 0)) > since
