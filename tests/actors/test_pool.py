"""The warm pool: a process is taken, not started; it is given back, grows when it must, and notices deaths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from actors.framework.local_runtime import LocalRuntime
from actors.framework.runtime import UnreachableError
from actors.pool import RequestPool
from actors.request import RequestActorSettings
from genserve.scheduling import protocol as p
from genserve.scheduling.files import write_durably
from tests.actors.cell import an_image
from tests.actors.fake_journal import FakeJournal
from tests.actors.virtual_time import run


class Hall:
    """A pool of two over a journal that knows four requests; ``idle`` are those that need no process now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = LocalRuntime()
        self.idle: set[str] = set()
        self.losses = 0

    async def open(self) -> Hall:
        await self.runtime.spawn("scheduler", FakeJournal)
        for name in ("r1", "r2", "r3", "r4"):
            self.runtime.actor("scheduler").submit(an_image(name))
        self.pool = await self.start()
        return self

    async def start(self) -> RequestPool:
        settings = RequestActorSettings(self.folder / "artifacts", self.folder / "checkpoints")
        pool = RequestPool(self.runtime, settings, size=2, is_idle=lambda r: r in self.idle, on_loss=self._note_loss)
        await pool.start()
        return pool

    def _note_loss(self) -> None:
        self.losses += 1

    async def serving(self, name: str) -> tuple[str, ...]:
        served: tuple[str, ...] = await self.runtime.find(name).ask("serving")
        return served


@pytest.fixture
def in_hall(tmp_path: Path) -> Callable[[Callable[[Hall], Coroutine[Any, Any, None]]], None]:
    async def main(test: Callable[[Hall], Coroutine[Any, Any, None]]) -> None:
        await test(await Hall(tmp_path).open())

    return lambda test: run(main(test))


InHall = Callable[[Callable[[Hall], Coroutine[Any, Any, None]]], None]


async def settle() -> None:
    """Let messages that are on their way arrive: a moment of virtual time."""
    await asyncio.sleep(1)


def test_a_request_keeps_its_process(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        assert hall.pool.assign("r1") == hall.pool.assign("r1") == "request-0"

    in_hall(test)


def test_a_process_learns_whom_it_serves(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        hall.pool.assign("r1")
        await settle()
        assert await hall.serving("request-0") == ("r1",)

    in_hall(test)


def test_two_busy_requests_have_two_processes(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        assert [hall.pool.assign(r) for r in ("r1", "r2")] == ["request-0", "request-1"]

    in_hall(test)


def test_the_process_of_an_ended_request_is_taken_again(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        hall.pool.assign("r1")
        hall.pool.assign("r2")
        hall.pool.release("r1")
        assert hall.pool.assign("r3") == "request-0"
        await settle()
        assert await hall.serving("request-0") == ("r3",)

    in_hall(test)


def test_a_paused_request_gives_its_process_away(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        hall.pool.assign("r1")
        hall.pool.assign("r2")
        hall.idle = {"r2"}
        assert hall.pool.assign("r3") == "request-1"
        await settle()
        assert await hall.serving("request-1") == ("r3",)

    in_hall(test)


def test_a_full_pool_grows(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        assert [hall.pool.assign(r) for r in ("r1", "r2", "r3")][-1] == "request-2"
        await settle()
        assert [await hall.serving(f"request-{i}") for i in range(3)] == [("r1",), ("r2",), ("r3",)]

    in_hall(test)


def test_a_new_leader_finds_out_who_serves_whom(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        hall.pool.assign("r1")
        hall.pool.assign("r2")
        await settle()
        again = await hall.start()
        assert again.assign("r2") == "request-1"

    in_hall(test)


def test_a_new_leader_finds_the_processes_that_the_pool_grew_by(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        for request_id in ("r1", "r2", "r3"):
            hall.pool.assign(request_id)
        await settle()
        again = await hall.start()
        assert again.names == ("request-0", "request-1", "request-2")
        assert again.assign("r3") == "request-2"

    in_hall(test)


def test_a_request_that_ends_without_a_process_leaves_no_checkpoint(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        for request_id in ("r1", "r2"):
            write_durably(hall.folder / "checkpoints" / request_id / "step-2", b"latents")
        hall.pool.release("r1")
        await settle()
        assert [path.name for path in (hall.folder / "checkpoints").iterdir()] == ["r2"]

    in_hall(test)


def test_what_a_new_leader_finds_idle_is_not_kept(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        hall.pool.assign("r1")
        hall.pool.assign("r2")
        await settle()
        hall.idle = {"r1"}
        again = await hall.start()
        assert again.assign("r3") == "request-0"

    in_hall(test)


def test_a_death_is_told_once_when_the_process_is_back(in_hall: InHall) -> None:
    async def test(hall: Hall) -> None:
        await settle()
        hall.runtime.crash("request-1")
        await settle()
        assert hall.losses == 1

    in_hall(test)


def test_whoever_stores_a_result_holds_it_until_it_dies(in_hall: InHall, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: object, report: p.Decoded) -> None:
        await asyncio.Event().wait()

    async def test(hall: Hall) -> None:
        monkeypatch.setattr("actors.request._Charge._store_result", never)
        telling = asyncio.ensure_future(
            hall.runtime.find("request-0").ask("report", "r1", (p.Decoded("r1", 0, "s1", None),))
        )
        await settle()
        assert await hall.pool.holding() == {"r1"}
        hall.runtime.crash("request-0")
        await settle()
        assert await hall.pool.holding() == set()
        with pytest.raises(UnreachableError):
            await telling

    in_hall(test)
