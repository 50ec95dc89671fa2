"""Death at every position of the log: each acknowledged request still ends once, with the pixels it would have had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from genserve.audit.replay import replay
from genserve.domain import events as e
from genserve.domain.request import RequestSpec, Stage
from genserve.errors import Unavailable
from genserve.journal.contract import Group
from tests.actors.cell import LocalCell, WatchedStorage, a_video, an_image, told
from tests.actors.virtual_time import START_US, run
from tests.builders import SECOND

Kill = Callable[[LocalCell], None]
REQUESTS = ("v1", "v2", "i1", "i2")
SOON_US = START_US + 3 * SECOND
LAST = 66
"""Where the shortest undisturbed run ends, nearly."""
EVERY = 3
"""The default suite tries every third position, each victim others; the soak tries all."""


async def play(cell: LocalCell) -> None:
    """Two videos take both workers; two images with short deadlines interrupt them."""
    await submit(cell, a_video("v1"), a_video("v2", seed=7))
    await cell.wait_for("v1", e.StageStarted, stage=Stage.DENOISE)
    await submit(cell, an_image("i1", deadline_us=SOON_US), an_image("i2", seed=9, deadline_us=SOON_US))
    async with asyncio.timeout(600):
        await cell.finish(*REQUESTS)


async def submit(cell: LocalCell, *specs: RequestSpec) -> None:
    """As a client does: again, until somebody has acknowledged it."""
    while True:
        try:
            await cell.submit(*specs)
        except Unavailable:
            await asyncio.sleep(1)
        else:
            return


@cache
def undisturbed_pixels(folder: Path) -> dict[str, tuple[str, ...]]:
    async def main() -> dict[str, tuple[str, ...]]:
        cell = await LocalCell(folder).start()
        await play(cell)
        return cell.pixels(*REQUESTS)

    return run(main())


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    return undisturbed_pixels(tmp_path_factory.mktemp("undisturbed"))


def kill_worker(cell: LocalCell) -> None:
    cell.runtime.crash("worker-0")


def kill_request_actors(cell: LocalCell) -> None:
    for index in range(2):
        cell.runtime.crash(f"request-{index}")


def kill_scheduler(cell: LocalCell) -> None:
    cell.runtime.crash("scheduler")
    raise asyncio.CancelledError


def kill_everything(cell: LocalCell) -> None:
    kill_request_actors(cell)
    for worker_id in cell.workers:
        cell.runtime.crash(worker_id)
    kill_scheduler(cell)


VICTIMS = (kill_worker, kill_request_actors, kill_scheduler, kill_everything)


POINTS = [(kill, position) for kill in VICTIMS for position in range(6, LAST)]
CHOSEN = [(kill, position) for kill, position in POINTS if (position + VICTIMS.index(kill)) % EVERY == 0]


@pytest.mark.parametrize(("kill", "position"), CHOSEN)
def test_a_death_behind_any_position_loses_nothing(
    kill: Kill, position: int, tmp_path: Path, pixels: dict[str, tuple[str, ...]]
) -> None:
    check_death(kill, position, tmp_path, pixels)


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "position"), sorted(set(POINTS) - set(CHOSEN), key=POINTS.index))
def test_a_death_behind_any_other_position_loses_nothing(
    kill: Kill, position: int, tmp_path: Path, pixels: dict[str, tuple[str, ...]]
) -> None:
    check_death(kill, position, tmp_path, pixels)


def check_death(kill: Kill, position: int, folder: Path, pixels: dict[str, tuple[str, ...]]) -> None:
    async def main() -> None:
        cell = await LocalCell(folder).start()
        assert isinstance(cell.storage, WatchedStorage)
        cell.storage.after = at(position, lambda: kill(cell))
        await play(cell)
        assert {r: cell.status(r) for r in REQUESTS} == dict.fromkeys(REQUESTS, "completed")
        assert cell.violations() == [], told(cell.log)
        assert cell.pixels(*REQUESTS) == pixels
        report = replay(cell.log)
        assert report.is_clean, str(report.first)

    run(main())


@pytest.mark.parametrize("position", range(6, LAST, 4))
def test_a_death_ahead_of_any_position_loses_nothing(
    position: int, tmp_path: Path, pixels: dict[str, tuple[str, ...]]
) -> None:
    async def main() -> None:
        cell = await LocalCell(tmp_path).start()
        assert isinstance(cell.storage, WatchedStorage)
        cell.storage.before = at(position, lambda: kill_everything(cell))
        await play(cell)
        assert cell.violations() == [], told(cell.log)
        assert cell.pixels(*REQUESTS) == pixels

    run(main())


def at(position: int, happen: Callable[[], None]) -> Callable[[Group], None]:
    """Something that happens once, at the commit of that position."""
    is_due = True

    def watch(group: Group) -> None:
        nonlocal is_due
        if is_due and group.previous < position <= group.last:
            is_due = False
            happen()

    return watch
