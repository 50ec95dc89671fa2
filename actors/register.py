"""The segments that a worker has been told: how they were revised, who left them early, which have ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from actors.relay import MAX_REMEMBERED, Left, Milestones
from genserve.scheduling import protocol as p
from genserve.scheduling.segments import LEAVING, Revision


class Register:
    """Plain object inside a worker, used on its event loop."""

    def __init__(self) -> None:
        self._revisions: dict[str, Revision] = {}
        self._attempts: dict[str, dict[str, int]] = {}
        self._left: dict[str, tuple[str, ...]] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._milestones = Milestones()

    @property
    def live(self) -> tuple[str, ...]:
        """Ids of the queued and the running ones."""
        return tuple(self._revisions)

    def enter(self, command: p.RunSegment) -> bool:
        """Whether it is new; a repeated command changes nothing."""
        if command.segment_id in self._revisions or command.segment_id in self._ended:
            return False
        self._revisions[command.segment_id] = Revision()
        self._attempts[command.segment_id] = {m.request_id: m.attempt for m in command.members}
        return True

    def revision(self, segment_id: str) -> Revision | None:
        """None unless it is queued or running."""
        return self._revisions.get(segment_id)

    def note(self, report: p.AnyReport) -> None:
        """If a request leaves its segment with that report, its segments queued so far are void.

        Those of a later attempt are not: the scheduler may have given this one up before it was told.
        """
        if not isinstance(report, LEAVING):
            return
        self._left[report.segment_id] = (*self._left.get(report.segment_id, ()), report.request_id)
        for segment_id, revision in self._revisions.items():
            is_later = self._attempts[segment_id].get(report.request_id, 0) > report.attempt
            if segment_id != report.segment_id and not is_later:
                revision.skip = (*revision.skip, report.request_id)

    def skip(self, command: p.RunSegment, left: Left) -> None:
        """Leave out who left the segment before that one; None: everybody."""
        everybody = tuple(m.request_id for m in command.members)
        revision = self._revisions[command.segment_id]
        revision.skip = (*revision.skip, *(everybody if left is None else left))

    def end(self, segment_id: str) -> None:
        """It has run, or will not run any more; whoever waits for that goes on."""
        skipped = self._revisions[segment_id].skip
        self.drop([segment_id])
        self._milestones.reach(segment_id, (*skipped, *self._left.pop(segment_id, ())))
        self._ended[segment_id] = None
        while len(self._ended) > MAX_REMEMBERED:
            self._ended.popitem(last=False)

    def drop(self, segment_ids: Iterable[str]) -> None:
        """As if they had never been told."""
        for segment_id in segment_ids:
            del self._revisions[segment_id]
            del self._attempts[segment_id]

    def refuse(self, segment_id: str) -> None:
        """It will never run here."""
        self._milestones.reach(segment_id, None)

    def start_over(self) -> None:
        """What runs stops at its next boundary; nothing that was still to come will come."""
        self._milestones.give_up()
        for revision in self._revisions.values():
            revision.change(stop=True, drop=())

    async def end_of(self, segment_id: str) -> Left:
        """Returns when it has ended; who left it early, None where it will not run."""
        return await self._milestones.wait(segment_id)
