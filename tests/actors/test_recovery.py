"""One trouble at a time, told by name: leases, databases that go away, lost pixels, bad checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.leadership import LEASE_S
from actors.scheduler import NAME
from genserve.audit.replay import replay
from genserve.domain import events as e
from genserve.domain.request import Stage
from genserve.errors import Unavailable
from genserve.journal.contract import Group
from genserve.journal.errors import JournalUnavailable
from genserve.journal.memory import MemoryReader
from genserve.journal.open import open_storage
from genserve.journal.upgrade import upgrade
from genserve.scheduling.files import write_durably
from tests.actors.cell import LocalCell, WatchedStorage, a_video, an_image
from tests.actors.test_crashes import kill_scheduler, submit
from tests.actors.virtual_time import run
from tests.capture import captured_log

InCell = Callable[..., None]


async def settle(seconds: float = 1) -> None:
    """Let what is on its way arrive: virtual time."""
    await asyncio.sleep(seconds)


# ── who leads ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_scheduler_waits_until_the_first_ones_lease_is_over(in_cell: InCell, tmp_path: Path) -> None:
    async def test(first: LocalCell) -> None:
        second = LocalCell(tmp_path / "second", storage=first.storage)
        with captured_log() as said:
            starting = asyncio.create_task(second.start(holder="second"))
            await settle(10 * LEASE_S)
        assert not starting.done()
        waits = [line for line in said.getvalue().splitlines() if "waiting to lead" in line]
        assert len(waits) == 1
        assert "lease writer is held by holder" in waits[0]
        first.runtime.crash(NAME, restart=False)
        gone_s = first.loop.time()
        await starting
        assert 0 < first.loop.time() - gone_s <= LEASE_S + 1

    in_cell(test)


def test_a_leader_that_lost_its_lease_ends_and_its_successor_goes_on(in_cell: InCell, tmp_path: Path) -> None:
    async def test(first: LocalCell) -> None:
        await first.submit(an_image("i1", steps=1000))
        before = first.scheduler
        renew = before._journal.renew_lease
        before._journal.renew_lease = never_reached  # type: ignore[method-assign]
        second = await LocalCell(tmp_path / "second", storage=first.storage).start(holder="second")
        before._journal.renew_lease = renew  # type: ignore[method-assign]
        await settle(2 * LEASE_S)
        assert first.scheduler is not before
        await second.submit(an_image("i2"))
        await second.finish("i2")
        await second.gateway.cancel("i1", "done")
        await second.finish("i1")

    async def never_reached(**_: Any) -> None:
        raise JournalUnavailable("the database does not answer")

    in_cell(test)


def test_a_restarted_scheduler_reads_the_log_behind_its_newest_snapshot_only(
    in_cell: InCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1"), an_image("i1"))
        await cell.finish("v1", "i1")
        await settle()
        stored = max(position for _, position in cell.storage.snapshots)  # type: ignore[attr-defined]
        read: list[int] = []
        page_of = MemoryReader.read

        def note(reader: MemoryReader, after: int, limit: int = 1000) -> list[e.Recorded]:
            read.append(after)
            return page_of(reader, after, limit)

        monkeypatch.setattr(MemoryReader, "read", note)
        cell.runtime.crash(NAME)
        await cell.runtime.find(NAME).ask("start")
        assert 0 < stored == min(read, default=stored), "nothing is read where the snapshot is at the log's end"
        await cell.submit(an_image("i2"))
        await cell.finish("i2")

    in_cell(test)


def test_a_new_leader_removes_the_checkpoints_of_requests_that_have_ended(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1", steps=100))
        await cell.wait_for("v1", e.LatentsCheckpointed)
        write_durably(cell.settings.checkpoints / "ended-long-ago" / "step-2", b"latents")
        cell.runtime.crash(NAME)
        await cell.runtime.find(NAME).ask("start")
        assert [path.name for path in cell.settings.checkpoints.iterdir()] == ["v1"]
        await cell.finish("v1")

    in_cell(test)


def test_a_restarted_scheduler_takes_its_own_lease_back_at_once(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        died_s = cell.loop.time()
        cell.runtime.crash(NAME)
        await cell.runtime.find(NAME).ask("start")
        assert cell.loop.time() == died_s

    in_cell(test)


def test_a_new_leader_adopts_running_segments_and_nothing_is_run_twice(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video(steps=30))
        await cell.wait_for("v1", e.StepsFinished)
        cell.runtime.crash(NAME)
        await cell.finish("v1")
        steps = cell.events("v1", e.StepsFinished)
        assert sum(s.to_step - s.from_step for s in steps) == 30
        assert {event.attempt for event in cell.events("v1", e.StageStarted)} == {0}

    in_cell(test)


def test_a_stop_that_a_dying_leader_decided_is_told_by_the_next_one(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video(steps=1000))
        await cell.wait_for("v1", e.StepsFinished)
        assert isinstance(cell.storage, WatchedStorage)
        cell.storage.after = lambda group: die_behind_a_decision(cell, group)
        await submit(cell, an_image("i1"))
        await cell.finish("i1")
        await cell.gateway.cancel("v1", "done")
        await cell.finish("v1")
        assert [event.epoch for event in cell.all_events(e.LeaderElected)] == [1, 2]

    def die_behind_a_decision(cell: LocalCell, group: Group) -> None:
        if any(isinstance(recorded.event, e.PlanDecided) for recorded in group.batch):
            assert isinstance(cell.storage, WatchedStorage)
            cell.storage.after = lambda group: None
            kill_scheduler(cell)

    in_cell(test, workers=1)


# ── a database that is away ──────────────────────────────────────────────────────────────────────────────


def test_while_the_database_is_away_clients_are_sent_away_and_work_goes_on(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        assert isinstance(cell.storage, WatchedStorage)
        await cell.submit(a_video(steps=20))
        await cell.wait_for("v1", e.StepsFinished)
        cell.storage.is_away = True
        await settle()
        with pytest.raises(Unavailable):
            await cell.submit(an_image("i1"))
        assert not (await cell.gateway.health()).is_ready
        await settle(30)
        cell.storage.is_away = False
        await cell.finish("v1")
        assert {event.attempt for event in cell.events("v1", e.StageStarted)} == {0}

    in_cell(test)


def test_a_worker_that_dies_while_the_database_is_away_is_replaced_afterwards(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        assert isinstance(cell.storage, WatchedStorage)
        await cell.submit(a_video(steps=20))
        await cell.wait_for("v1", e.LatentsCheckpointed)
        cell.storage.is_away = True
        await settle()
        cell.runtime.crash("worker-0")
        await settle(10)
        cell.storage.is_away = False
        await cell.finish("v1")
        assert [type(r.event).__name__ for r in cell.log if r.stream == "worker/worker-0"] == [
            "WorkerJoined",
            "WorkerLost",
            "WorkerJoined",
        ]

    in_cell(test, workers=1)


def test_a_scheduler_can_start_while_the_database_is_away(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        assert isinstance(cell.storage, WatchedStorage)
        cell.storage.is_away = True
        cell.runtime.crash(NAME)
        starting = asyncio.create_task(cell.runtime.find(NAME).ask("start"))
        await settle(10)
        cell.storage.is_away = False
        await starting
        await cell.submit(an_image())
        await cell.finish("i1")

    in_cell(test)


# ── pixels and checkpoints ───────────────────────────────────────────────────────────────────────────────


def test_pixels_whose_holders_all_died_are_made_again(in_cell: InCell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cell: LocalCell) -> None:
        cell.hold_results(monkeypatch)
        await cell.submit(an_image())
        await cell.wait_for("i1", e.StageFinished, stage=Stage.DECODE)
        cell.runtime.crash("worker-0")
        await settle()
        cell.runtime.crash("request-0")
        cell.release_results()
        await cell.finish("i1")
        assert [event.code for event in cell.events("i1", e.AttemptFailed)] == ["result_lost"]
        assert cell.status("i1") == "completed"

    in_cell(test, workers=1, request_actors=1)


def test_pixels_that_a_worker_can_tell_again_are_not_made_again(
    in_cell: InCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cell: LocalCell) -> None:
        cell.hold_results(monkeypatch)
        await cell.submit(an_image())
        await cell.wait_for("i1", e.StageFinished, stage=Stage.DECODE)
        cell.runtime.crash("request-0")
        cell.release_results()
        await cell.finish("i1")
        assert cell.events("i1", e.AttemptFailed) == []

    in_cell(test, workers=1, request_actors=1)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"torn")])
def test_a_request_without_a_usable_checkpoint_begins_anew(in_cell: InCell, damage: Callable[[Path], Any]) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("plain", steps=8))
        await cell.finish("plain")
        await cell.submit(a_video("v1", steps=8))
        stored = await cell.wait_for("v1", e.LatentsCheckpointed)
        assert isinstance(stored.event, e.LatentsCheckpointed)
        damage(Path(stored.event.uri))
        cell.runtime.crash("worker-0")
        await cell.finish("v1")
        assert [event.code for event in cell.events("v1", e.AttemptFailed)] == ["checkpoint_lost"]
        assert cell.pixels("v1")["v1"] == cell.pixels("plain")["plain"]

    in_cell(test, workers=1)


def test_a_checkpoint_of_other_models_is_not_gone_on_from(in_cell: InCell) -> None:
    async def test(cell: LocalCell) -> None:
        await cell.submit(a_video("v1", steps=8))
        stored = await cell.wait_for("v1", e.LatentsCheckpointed)
        fact = stored.event
        assert isinstance(fact, e.LatentsCheckpointed)
        path = cell.settings.checkpoints / "other"
        sha256 = write_durably(path, b'{"step": 2, "value": 1, "sum": 0}')
        other = e.LatentsCheckpointed(fact.attempt, fact.step, str(path), 1, sha256)
        await cell.scheduler._record(stored.stream, other)
        cell.runtime.crash("worker-0")
        await cell.finish("v1")
        assert [event.code for event in cell.events("v1", e.AttemptFailed)] == ["checkpoint_corrupt"]
        assert cell.status("v1") == "completed"

    in_cell(test, workers=1)


# ── a real database ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("victim", ["scheduler", "worker-0", "request-0"])
def test_a_log_in_sqlite_survives_deaths_too(tmp_path: Path, victim: str) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path}/genserve.db"
        upgrade(url)
        cell = await LocalCell(tmp_path, open_storage=lambda: open_storage(url)).start()
        await cell.submit(a_video("v1"), an_image("i1"))
        await cell.wait_for("v1", e.LatentsCheckpointed)
        cell.runtime.crash(victim)
        await cell.finish("v1", "i1")
        assert {cell.status(r) for r in ("v1", "i1")} == {"completed"}
        assert cell.violations() == []
        assert replay(cell.log).is_clean
        await cell.runtime.find(NAME).ask("stop")
        cell.reader.close()

    run(main())
