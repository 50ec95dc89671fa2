"""A stored log, checked end to end: its hash chain, its decisions and its laws; not for repairing it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from genserve.audit.replay import ReplayReport, replay
from genserve.domain.events import Recorded
from genserve.journal.contract import Reader
from genserve.journal.verify import Verdict, verify

PAGE = 1000


class LogCheck(Struct, frozen=True):
    """The chain's verdict, and the replay of every event that the chain vouches for."""

    chain: Verdict
    replay: ReplayReport

    @property
    def is_clean(self) -> bool:
        return self.chain.is_sound and self.replay.is_clean

    @property
    def position(self) -> int:
        """Where the first trouble is, 0 where there is none."""
        first, violations = self.replay.first, self.replay.violations
        found = [self.chain.position, first.position if first else 0, *(v.position for v in violations[:1])]
        return min((position for position in found if position), default=0)


def check_log(reader: Reader) -> LogCheck:
    """Verify the chain, then replay up to where it is sound. Events appended meanwhile are left for the next time."""
    chain = verify(reader)
    return LogCheck(chain, replay(_History(reader, chain.checked)))


class _History:
    """The log up to a position, read page by page, as often as it is iterated."""

    def __init__(self, reader: Reader, until: int) -> None:
        self._reader = reader
        self._until = until

    def __iter__(self) -> Iterator[Recorded]:
        after = 0
        while after < self._until:
            page = self._reader.read(after, min(PAGE, self._until - after))
            if not page:
                return
            yield from page
            after = page[-1].position
