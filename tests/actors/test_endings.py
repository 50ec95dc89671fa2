"""While a decode runs the next request is already queued behind it, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from genserve.audit.replay import replay
from genserve.domain import events as e
from genserve.domain.costs import UNKNOWN_STEP_US
from genserve.domain.plan import Start
from genserve.scheduling import protocol as p
from tests.actors.cell import LocalCell, WatchedStorage, a_video, an_image, told
from tests.actors.test_crashes import VICTIMS, Kill, at, submit
from tests.actors.virtual_time import run

COMMIT_S = 0.004
DECODE_S = UNKNOWN_STEP_US / 1e6
NAMES = ("v0", "i1", "i2", "i3")
LAST = 86


class SlowCell(LocalCell):
    """One worker whose decodes take what the planner expects, and a log whose commits take a while.

    Its steps are measured in virtual time: the planner believes what it is told of them.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
        super().__init__(folder, workers=1, planner="save", hook=self._work, **changes)  # type: ignore[arg-type]
        assert isinstance(self.storage, WatchedStorage)
        self.storage.before = lambda group: self.loop.jump(COMMIT_S)
        self.measure_virtual_time(monkeypatch)

    def _work(self, verb: str, members: tuple[p.Member, ...], step: int) -> None:
        if verb == "decode":
            self.loop.sleep_in_thread(DECODE_S)

    async def play(self) -> None:
        """A video, an image that it gives way to, and two that can wait."""
        await submit(self, a_video("v0", steps=20))
        await self.wait_for("v0", e.StepsFinished)
        await submit(self, *(an_image(name, seed=i) for i, name in enumerate(NAMES[1:])))
        async with asyncio.timeout(600):
            await self.finish(*NAMES)


def test_whoever_waits_is_queued_behind_a_stop_or_an_end_before_the_log_knows_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        cell = await SlowCell(tmp_path, monkeypatch).start()
        await cell.play()
        queued = [name for event in cell.all_events(e.PlanDecided) for name in _queued_behind(event, of)]
        assert queued == [("i1", "v0"), ("i2", "i1"), ("i3", "i2"), ("v0", "i3")], told(cell.log)

    of: dict[str, str] = {}
    run(main())


def test_decisions_made_ahead_are_made_again_from_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cell = await SlowCell(tmp_path, monkeypatch).start()
        await cell.play()
        report = replay(cell.log)
        assert report.is_clean, str(report.first)
        assert cell.violations() == []

    run(main())


@pytest.mark.parametrize("position", range(6, LAST, 3))
@pytest.mark.parametrize("kill", VICTIMS)
def test_a_death_with_requests_queued_ahead_loses_nothing(
    kill: Kill, position: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        cell = await SlowCell(tmp_path, monkeypatch).start()
        assert isinstance(cell.storage, WatchedStorage)
        cell.storage.after = at(position, lambda: kill(cell))
        await cell.play()
        assert {name: cell.status(name) for name in NAMES} == dict.fromkeys(NAMES, "completed")
        assert cell.violations() == [], told(cell.log)
        assert replay(cell.log).is_clean

    run(main())


def _queued_behind(decided: e.PlanDecided, of: dict[str, str]) -> list[tuple[str, str]]:
    """Who is queued behind whom; ``of`` gathers whose each segment is."""
    starts = [action for action in decided.actions if isinstance(action, Start)]
    of.update({start.segment_id: start.request_ids[0] for start in starts})
    pairs = [(start.request_ids[0], of.get(start.after, "")) for start in starts]
    return [(name, before) for name, before in pairs if before not in ("", name)]
