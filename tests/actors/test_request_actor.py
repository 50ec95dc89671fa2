"""The request actor turns reports into facts and files, each once, whatever is repeated, lost or late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors import request as request_module
from actors.framework.local_runtime import LocalRuntime
from actors.request import RequestActor, RequestActorSettings
from genserve.domain import events as e
from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from tests.actors.cell import an_image
from tests.actors.fake_journal import FakeJournal
from tests.actors.virtual_time import run

FRAMES = np.zeros((1, 8, 8, 3), dtype=np.uint8)
BEGAN = p.Began("r1", 0, "s1", Stage.DENOISE, ("worker-0",), 1, 0)
ENDED = p.Ended("r1", 0, "s2", Stage.DECODE, 5)
DECODED = p.Decoded("r1", 0, "s2", FRAMES)


def stepped(step: int, *, attempt: int = 0, segment_id: str = "s1") -> p.Stepped:
    return p.Stepped("r1", attempt, segment_id, step, step * 10, 1, 1)


def snapshot(step: int, *, attempt: int = 0) -> p.Snapshot:
    return p.Snapshot("r1", attempt, "s1", step, f"latents {step}".encode())


class Office:
    """A request actor, a journal, and the request r1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = LocalRuntime()

    async def open(self) -> Office:
        settings = RequestActorSettings(self.folder / "artifacts", self.folder / "checkpoints")
        await self.runtime.spawn("scheduler", FakeJournal)
        await self.runtime.spawn("request-0", RequestActor, settings)
        self.journal.submit(an_image("r1", steps=6))
        return self

    @property
    def journal(self) -> FakeJournal:
        found: FakeJournal = self.runtime.actor("scheduler")
        return found

    async def report(self, *reports: p.AnyReport, request_id: str = "r1") -> None:
        await self.runtime.find("request-0").ask("report", request_id, reports)

    async def ask(self, method: str, *arguments: object) -> Any:
        return await self.runtime.find("request-0").ask(method, *arguments)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def in_office(tmp_path: Path) -> Callable[[Callable[[Office], Coroutine[Any, Any, None]]], None]:
    async def main(test: Callable[[Office], Coroutine[Any, Any, None]]) -> None:
        await test(await Office(tmp_path).open())

    return lambda test: run(main(test))


InOffice = Callable[[Callable[[Office], Coroutine[Any, Any, None]]], None]


def test_a_report_is_in_the_log_when_it_is_acknowledged(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN)
        assert office.journal.story() == ["RequestSubmitted", "StageStarted"]

    in_office(test)


def test_progress_waits_for_more_and_is_recorded_as_one_fact(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN)
        for step in (1, 2, 3):
            await office.report(stepped(step))
        assert office.journal.story()[-1] == "StageStarted"
        await asyncio.sleep(1)
        assert office.journal.events()[-1] == e.StepsFinished("s1", 0, 0, 3, 30)

    in_office(test)


def test_progress_is_recorded_before_the_checkpoint_that_holds_it(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN, stepped(2), snapshot(2))
        assert office.journal.story()[-2:] == ["StepsFinished", "LatentsCheckpointed"]

    in_office(test)


def test_a_checkpoint_is_a_file_before_it_is_a_fact(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN, stepped(2), snapshot(2))
        fact = office.journal.events()[-1]
        assert isinstance(fact, e.LatentsCheckpointed)
        assert await asyncio.to_thread(Path(fact.uri).read_bytes) == b"latents 2"

    in_office(test)


def test_a_newer_checkpoint_replaces_the_older_file(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN, stepped(2), snapshot(2), stepped(4), snapshot(4))
        assert office.files() == ["attempt-0-step-4.safetensors"]

    in_office(test)


def test_a_checkpoint_that_comes_late_is_not_kept(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN, stepped(4), snapshot(4), snapshot(2))
        assert office.files() == ["attempt-0-step-4.safetensors"]

    in_office(test)


def test_a_checkpoint_behind_the_pause_it_belongs_to_is_kept(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN, stepped(2), p.Stopped("r1", 0, "s1", 2, "worker-0"))
        await office.report(snapshot(2))
        assert office.journal.story()[-2:] == ["RequestPaused", "LatentsCheckpointed"]

    in_office(test)


def test_frames_become_a_stored_result_and_an_end(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(ENDED, DECODED)
        assert office.journal.story()[1:] == ["StageFinished", "ArtifactStored", "RequestCompleted"]
        assert office.files() == ["image.png"]

    in_office(test)


def test_only_a_request_whose_result_is_being_stored_is_held(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN, ENDED)
        before = await office.ask("holding")
        storing = asyncio.ensure_future(office.report(DECODED))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        while_storing = await office.ask("holding")
        await storing
        assert (before, while_storing, await office.ask("holding")) == ((), ("r1",), ())

    in_office(test)


def test_an_actor_that_died_while_storing_is_followed_by_one_that_completes(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        office.journal.add("r1", e.StageFinished("s2", Stage.DECODE, 0, 5))
        await office.report(DECODED)
        assert office.journal.story()[2:] == ["ArtifactStored", "RequestCompleted"]

    in_office(test)


def test_a_result_told_twice_is_recorded_once(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(DECODED)
        office.runtime.crash("request-0")
        await office.report(DECODED)
        assert office.journal.story().count("RequestCompleted") == 1

    in_office(test)


def test_an_append_whose_answer_is_lost_is_not_repeated(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        office.journal.lost_answers = 1
        await office.report(BEGAN)
        assert office.journal.story() == ["RequestSubmitted", "StageStarted"]

    in_office(test)


def test_what_others_wrote_meanwhile_is_taken_in_first(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN)
        office.journal.add("r1", e.CancelRequested())
        await office.report(DECODED)
        assert office.journal.story()[-1] == "RequestCancelled"

    in_office(test)


def test_two_actors_with_one_request_record_no_step_twice(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        settings = RequestActorSettings(office.folder / "artifacts", office.folder / "checkpoints")
        other = await office.runtime.spawn("request-1", RequestActor, settings)
        await office.report(BEGAN, stepped(2))
        await other.ask("report", "r1", (BEGAN, stepped(3)))
        await asyncio.sleep(2)
        steps = [event for event in office.journal.events() if isinstance(event, e.StepsFinished)]
        assert sum(s.to_step - s.from_step for s in steps) == 3

    in_office(test)


def test_reports_of_an_attempt_that_is_over_add_nothing(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        office.journal.attempts["r1"] = 1
        await office.report(BEGAN, stepped(1), snapshot(1), ENDED, DECODED)
        assert office.journal.story() == ["RequestSubmitted"]

    in_office(test)


def test_progress_of_an_attempt_that_is_over_does_not_hold_up_the_next_one(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN, stepped(1))
        office.journal.attempts["r1"] = 1
        await office.report(p.Began("r1", 1, "s5", Stage.DENOISE, ("worker-1",), 1, 0))
        assert office.journal.events()[-1] == e.StageStarted("s5", Stage.DENOISE, 1, ("worker-1",))

    in_office(test)


def test_stale_and_fresh_reports_in_one_delivery_are_told_apart(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        office.journal.attempts["r1"] = 1
        await office.report(BEGAN, p.Began("r1", 1, "s5", Stage.DENOISE, ("worker-1",), 1, 0))
        assert office.journal.story() == ["RequestSubmitted", "StageStarted"]

    in_office(test)


def test_a_request_that_was_never_submitted_is_refused_and_not_kept(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        with pytest.raises(GenServeError, match="request_not_found"):
            await office.report(BEGAN, request_id="r9")
        assert await office.ask("serving") == ()

    in_office(test)


def test_frames_that_cannot_be_stored_fail_the_attempt(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(p.Decoded("r1", 0, "s2", "not frames"))
        failed = office.journal.events()[-1]
        assert isinstance(failed, e.AttemptFailed)
        assert (failed.code, failed.retryable) == ("result_not_stored", True)

    in_office(test)


def test_a_checkpoint_that_cannot_be_written_costs_nothing_else(
    in_office: InOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> str:
        raise OSError("the disk is full")

    async def test(office: Office) -> None:
        monkeypatch.setattr(request_module, "write_durably", refuse)
        await office.report(BEGAN, stepped(2), snapshot(2), p.Stopped("r1", 0, "s1", 2, "worker-0"))
        assert office.journal.story()[1:] == ["StageStarted", "StepsFinished", "RequestPaused"]

    in_office(test)


def test_a_partial_image_is_stored_once(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        preview = p.Preview("r1", 0, "s1", 0, FRAMES)
        await office.report(BEGAN, preview)
        office.runtime.crash("request-0")
        await office.report(preview)
        stored = [event for event in office.journal.events() if isinstance(event, e.ArtifactStored)]
        assert [artifact.artifact.kind for artifact in stored] == ["partial"]

    in_office(test)


def test_releasing_a_request_records_its_progress(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN, stepped(3))
        await office.ask("release", "r1")
        assert office.journal.story()[-1] == "StepsFinished"
        assert await office.ask("serving") == ()

    in_office(test)


def test_an_ended_request_leaves_no_checkpoint_and_no_memory_behind(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        await office.report(BEGAN, stepped(2), snapshot(2), ENDED, DECODED)
        assert office.files() == ["image.png"]
        assert await office.ask("serving") == ()

    in_office(test)


def test_an_actor_takes_one_request_over_and_lets_go_of_the_one_before(in_office: InOffice) -> None:
    async def test(office: Office) -> None:
        office.journal.submit(an_image("r2"))
        await office.report(BEGAN, stepped(3))
        await office.ask("activate", "r2")
        assert await office.ask("serving") == ("r2",)
        assert office.journal.story("r1")[-1] == "StepsFinished"

    in_office(test)
