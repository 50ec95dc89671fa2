"""The segments that a worker has been told: how they were revised, who left them early, which have ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from actors.relay import MAX_REMEMBERED, Milestones
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from genserve.scheduling.segments import LEAVING, Revision


class Register:
    """Plain object inside a worker, used on its event loop."""

    def __init__(self) -> None:
        self._commands: dict[str, p.RunSegment] = {}
        self._revisions: dict[str, Revision] = {}
        self._left: dict[str, p.Left] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._milestones = Milestones()

    @property
    def live(self) -> tuple[str, ...]:
        """Ids of the queued and the running ones."""
        return tuple(self._commands)

    def enter(self, command: p.RunSegment) -> bool:
        """Whether it is new; a repeated command changes nothing."""
        if command.segment_id in self._commands or command.segment_id in self._ended:
            return False
        self._commands[command.segment_id] = command
        self._revisions[command.segment_id] = Revision()
        self._inherit(command)
        return True

    def revision(self, segment_id: str) -> Revision | None:
        """None unless it is queued or running."""
        return self._revisions.get(segment_id)

    def note(self, report: p.AnyReport) -> None:
        """A request's later segments are void if it leaves its segment with that report, but for those that go on from
        a stop; if it has done its steps, those are.

        Those of a later attempt are not: the scheduler may have given this one up before it was told.
        """
        if isinstance(report, LEAVING):
            self._note_left(report)
        elif not isinstance(report, p.Ended) or report.stage is not Stage.DENOISE:
            return
        later = [command for command in self._commands.values() if _comes_after(command, report)]
        beyond = _beyond_stop(later)
        for command in later:
            is_beyond = command.segment_id in beyond
            if isinstance(report, p.Dropped | p.Failed) or is_beyond is isinstance(report, p.Ended):
                self._skip(command.segment_id, (report.request_id,))

    def _inherit(self, command: p.RunSegment) -> None:
        """Leave out who will not come, or did not come, out of the segment before; it may have been over already."""
        if not command.continues:
            return
        before = self._revisions.get(command.after)
        if before is not None:
            self._skip(command.segment_id, before.skip)
            if command.is_open:
                before.goes_on = tuple(m.request_id for m in command.members)
        elif command.after in self._ended:
            self.skip(command, self._milestones.find(command.after))

    def skip(self, command: p.RunSegment, left: p.Left | None) -> None:
        """Leave out who left the segment before that one for good, or stopped; of an open one, who did not stop.

        None: everybody.
        """
        everybody = tuple(m.request_id for m in command.members)
        self._skip(command.segment_id, everybody if left is None else left.parted(everybody, is_open=command.is_open))

    def _skip(self, segment_id: str, request_ids: tuple[str, ...]) -> None:
        """Leave out of it, and of whatever continues it here."""
        revision = self._revisions[segment_id]
        revision.skip = (*revision.skip, *request_ids)
        for later in [c for c in self._commands.values() if c.continues and c.after == segment_id]:
            self._skip(later.segment_id, request_ids)

    def _note_left(self, report: p.AnyReport) -> None:
        left, name = self._left.get(report.segment_id, p.Left()), (report.request_id,)
        if isinstance(report, p.Stopped):
            self._left[report.segment_id] = p.Left((*left.stopped, *name), left.gone)
        else:
            self._left[report.segment_id] = p.Left(left.stopped, (*left.gone, *name))

    def end(self, segment_id: str) -> None:
        """It has run, or will not run any more; whoever waits for that goes on."""
        left, skipped = self._left.pop(segment_id, p.Left()), self._revisions[segment_id].skip
        self.drop([segment_id])
        self._milestones.reach(segment_id, p.Left(left.stopped, (*skipped, *left.gone)))
        self._ended[segment_id] = None
        while len(self._ended) > MAX_REMEMBERED:
            self._ended.popitem(last=False)

    def drop(self, segment_ids: Iterable[str]) -> None:
        """As if they had never been told."""
        for segment_id in segment_ids:
            del self._commands[segment_id]
            del self._revisions[segment_id]

    def refuse(self, segment_id: str) -> None:
        """It will never run here."""
        self._milestones.reach(segment_id, None)

    def start_over(self) -> None:
        """What runs stops at its next boundary; nothing that was still to come will come."""
        self._milestones.give_up()
        for revision in self._revisions.values():
            revision.change(stop=True, drop=())

    async def end_of(self, segment_id: str) -> p.Left | None:
        """Returns when it has ended; who left it early, None where it will not run."""
        return await self._milestones.wait(segment_id)


def _comes_after(command: p.RunSegment, report: p.AnyReport) -> bool:
    """Whether it is another segment of the same attempt, or of an earlier one, of the same request."""
    if command.segment_id == report.segment_id:
        return False
    return any(m.request_id == report.request_id and m.attempt <= report.attempt for m in command.members)


def _beyond_stop(commands: Iterable[p.RunSegment]) -> set[str]:
    """The open ones and whatever comes after them."""
    found: set[str] = set()
    for command in commands:
        if command.is_open or command.after in found:
            found.add(command.segment_id)
    return found
