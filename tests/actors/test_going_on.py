"""Requests go on from stops that the log has not heard of yet, whoever dies meanwhile, and not one pixel changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from actors.worker import Worker
from genserve.audit.replay import replay
from genserve.domain import events as e
from genserve.domain.plan import Start
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from tests.actors.cell import STEP_S, LocalCell, WatchedStorage, a_video, told
from tests.actors.test_crashes import VICTIMS, Kill, at, submit
from tests.actors.virtual_time import run
from tests.wander import Wander, wander

__all__ = ["wander"]

NAMES = ("v1", "v2")
WORKERS = 3
LAST = 100
EVERY = 8
OTHERS = [position for position in range(6, LAST, EVERY // 2) if (position - 6) % EVERY]


async def play(cell: LocalCell) -> None:
    """Two videos on three workers."""
    await submit(cell, a_video("v1", steps=9), a_video("v2", steps=9, seed=7))
    async with asyncio.timeout(600):
        await cell.finish(*NAMES)


@pytest.fixture
def build(wander: Wander, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], LocalCell]:
    """A cell whose videos wander."""

    def build() -> LocalCell:
        cell = LocalCell(tmp_path, workers=WORKERS, planner=wander.name)
        cell.measure_virtual_time(monkeypatch)
        return cell

    return build


def pixels_of(folder: Path, planner: str) -> dict[str, tuple[str, ...]]:
    async def main() -> dict[str, tuple[str, ...]]:
        cell = await LocalCell(folder, workers=WORKERS, planner=planner).start()
        await play(cell)
        return cell.pixels(*NAMES)

    return run(main())


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    return pixels_of(tmp_path_factory.mktemp("undisturbed"), "fifo")


def open_starts(cell: LocalCell) -> list[str]:
    """The denoising segments that were to go on from a stop."""
    starts = (a for event in cell.all_events(e.PlanDecided) for a in event.actions if isinstance(a, Start))
    return [start.segment_id for start in starts if start.stage is Stage.DENOISE and start.from_step is None]


def test_a_request_goes_on_at_once_where_it_stops_here_or_on_another_worker(
    build: Callable[[], LocalCell], pixels: dict[str, tuple[str, ...]]
) -> None:
    async def main() -> None:
        cell = await build().start()
        await play(cell)
        decided, began = open_starts(cell), cell.events("v1", e.StageStarted)
        went_on = [event for event in began if event.segment_id in decided]
        assert len(went_on) >= 3, told(cell.log)
        assert len({event.workers for event in went_on}) > 1
        assert cell.violations() == []
        assert cell.pixels(*NAMES) == pixels
        assert replay(cell.log).is_clean

    run(main())


@pytest.mark.parametrize("delay_s", [0.15, 0.5])
@pytest.mark.parametrize("steps", range(5, 13))
def test_what_was_to_go_on_from_a_stop_that_does_not_come_is_void_to_its_end(
    steps: int, delay_s: float, build: Callable[[], LocalCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    revise = Worker.revise

    async def revise_late(worker: Worker, command: p.Revise) -> p.Answer:
        await asyncio.sleep(delay_s)
        return await revise(worker, command)

    monkeypatch.setattr(Worker, "revise", revise_late)

    async def main() -> None:
        cell = await build().start()
        cell.hook = lambda verb, members, step: cell.loop.sleep_in_thread(STEP_S) if verb == "decode" else None
        await submit(cell, a_video("v1", steps=steps), a_video("v2", steps=steps + 1, seed=7))
        async with asyncio.timeout(600):
            await cell.finish(*NAMES)
        decodes = [event for event in cell.all_events(e.StageStarted) if event.stage is Stage.DECODE]
        assert len(decodes) == len(NAMES), told(cell.log)

    run(main())


def kill_another_worker(cell: LocalCell) -> None:
    cell.runtime.crash("worker-1")


CANCELS: list[asyncio.Task[None]] = []
"""Kept until they are done."""
KILLS = (*VICTIMS, kill_another_worker)


@pytest.mark.parametrize(
    "position", [*range(6, LAST, EVERY), *(pytest.param(position, marks=pytest.mark.slow) for position in OTHERS)]
)
@pytest.mark.parametrize("kill", KILLS)
def test_a_death_between_a_stop_and_what_goes_on_from_it_loses_nothing(
    kill: Kill, position: int, build: Callable[[], LocalCell], pixels: dict[str, tuple[str, ...]]
) -> None:
    async def main() -> None:
        cell = await build().start()
        assert isinstance(cell.storage, WatchedStorage)
        cell.storage.after = at(
            position + VICTIMS.index(kill) % 4 if kill in VICTIMS else position, partial(kill, cell)
        )
        await play(cell)
        assert {name: cell.status(name) for name in NAMES} == dict.fromkeys(NAMES, "completed")
        assert cell.violations() == [], told(cell.log)
        assert cell.pixels(*NAMES) == pixels
        assert replay(cell.log).is_clean

    run(main())


def cancel(cell: LocalCell) -> None:
    CANCELS.append(cell.loop.create_task(cell.gateway.cancel("v1", "no longer wanted")))


@pytest.mark.parametrize("position", range(8, 76, 3))
def test_a_cancel_between_a_stop_and_what_goes_on_from_it_takes_effect(
    position: int, build: Callable[[], LocalCell], pixels: dict[str, tuple[str, ...]]
) -> None:
    async def main() -> None:
        cell = await build().start()
        assert isinstance(cell.storage, WatchedStorage)
        cell.storage.after = at(position, lambda: cell.loop.call_soon_threadsafe(cancel, cell))
        await play(cell)
        assert (cell.status("v1"), cell.status("v2")) == ("cancelled", "completed")
        assert cell.violations() == [], told(cell.log)
        assert not cell.scheduler._loop.state.requests
        assert not any(w.queue for w in cell.scheduler._loop.state.workers.values())

    run(main())
