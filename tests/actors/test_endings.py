"""While a decode runs the next request is already queued behind it, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from genserve.audit.replay import replay
from genserve.domain import events as e
from genserve.domain.costs import UNKNOWN_STEP_US
from genserve.domain.plan import Start
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from tests.actors.cell import LocalCell, WatchedStorage, an_image, told
from tests.actors.test_crashes import VICTIMS, Kill, at
from tests.actors.virtual_time import run

COMMIT_S = 0.004
DECODE_S = UNKNOWN_STEP_US / 1e6
NAMES = ("i0", "i1", "i2", "i3")
LAST = 60


class SlowCell(LocalCell):
    """One worker whose decodes take what the planner expects, and a log whose commits take a while."""

    def __init__(self, folder: Path, **changes: object) -> None:
        super().__init__(folder, workers=1, planner="save", hook=self._work, **changes)  # type: ignore[arg-type]
        assert isinstance(self.storage, WatchedStorage)
        self.storage.before = lambda group: self.loop.jump(COMMIT_S)

    def _work(self, verb: str, members: tuple[p.Member, ...], step: int) -> None:
        if verb == "decode":
            self.loop.sleep_in_thread(DECODE_S)

    async def play(self) -> None:
        await self.submit(*(an_image(name, seed=i) for i, name in enumerate(NAMES)))
        async with asyncio.timeout(600):
            await self.finish(*NAMES)


def test_the_next_request_is_decided_before_the_log_knows_that_the_worker_is_free(tmp_path: Path) -> None:
    async def main() -> None:
        cell = await SlowCell(tmp_path).start()
        await cell.play()
        story = [r.event for r in cell.log if isinstance(r.event, e.PlanDecided | e.StageFinished)]
        decoded = [i for i, event in enumerate(story) if getattr(event, "stage", None) is Stage.DECODE]
        decided = [i for i, event in enumerate(story) if any(isinstance(a, Start) for a in _actions(event))]
        assert [a < b for a, b in zip(decided[1:], decoded, strict=False)] == [True] * 3, told(cell.log)

    run(main())


def test_the_one_decided_ahead_says_what_it_is_behind_of(tmp_path: Path) -> None:
    async def main() -> None:
        cell = await SlowCell(tmp_path).start()
        await cell.play()
        starts = [a for plan in cell.all_events(e.PlanDecided) for a in plan.actions if isinstance(a, Start)]
        decodes = {a.segment_id: a.request_ids for a in starts if a.stage is Stage.DECODE}
        behind = [decodes.get(a.after) for a in starts if a.stage is Stage.ENCODE]
        assert behind == [None, ("i0",), ("i1",), ("i2",)]

    run(main())


def test_decisions_made_ahead_are_made_again_from_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        cell = await SlowCell(tmp_path).start()
        await cell.play()
        report = replay(cell.log)
        assert report.is_clean, str(report.first)
        assert cell.violations() == []

    run(main())


@pytest.mark.parametrize("position", range(6, LAST, 2))
@pytest.mark.parametrize("kill", VICTIMS)
def test_a_death_with_requests_queued_ahead_loses_nothing(kill: Kill, position: int, tmp_path: Path) -> None:
    async def main() -> None:
        cell = await SlowCell(tmp_path).start()
        assert isinstance(cell.storage, WatchedStorage)
        cell.storage.after = at(position, lambda: kill(cell))
        await cell.play()
        assert {name: cell.status(name) for name in NAMES} == dict.fromkeys(NAMES, "completed")
        assert cell.violations() == [], told(cell.log)
        assert replay(cell.log).is_clean

    run(main())


def _actions(event: e.AnyEvent) -> tuple[object, ...]:
    return event.actions if isinstance(event, e.PlanDecided) else ()
