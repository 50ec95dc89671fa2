"""Segments on a fake device, without a worker: what is reported, and what a revision changes."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import msgspec
import pytest

from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.segments import Assignment, Fetched, Revision, run_segment
from tests.actors.cell import an_image
from tests.actors.fake_runner import FakeRunner


class Inline(Executor):
    """Runs at once what is submitted."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*args, **kwargs))
        return done


class Bench:
    """One fake device and the reports of what ran on it. ``at`` maps (verb, step) to what happens just before."""

    def __init__(self, at: dict[tuple[str, int], Callable[[], None]] | None = None) -> None:
        self.at = at or {}
        self.runner = FakeRunner(self._hook)
        self.revision = Revision()
        self.reports: list[p.AnyReport] = []

    def _hook(self, verb: str, members: tuple[p.Member, ...], step: int) -> None:
        self.at.get((verb, step), lambda: None)()

    def run(
        self,
        stage: Stage,
        *members: p.Member,
        from_step: int | None = 0,
        fetched: dict[str, Fetched] | None = None,
        **fields: Any,
    ) -> list[p.AnyReport]:
        """Run one segment; its reports."""
        to_step = members[0].spec.steps if stage is Stage.DENOISE else 0
        command = p.RunSegment(1, "s1", stage, "t2i", members, ("worker-0",), from_step, to_step, **fields)
        self.reports = []
        run_segment(self.runner, Assignment(command, self.revision, fetched or {}), self.reports.append, Inline())
        return self.reports

    def stop(self) -> None:
        self.revision.change(stop=True, drop=())

    def drop(self, *request_ids: str) -> None:
        self.revision.change(stop=False, drop=request_ids)


def a_member(request_id: str = "r1", *, attempt: int = 0, **changes: Any) -> p.Member:
    return p.Member(an_image(request_id, **changes), attempt, "request-0")


def brief(reports: list[p.AnyReport]) -> list[tuple[Any, ...]]:
    """Kind, request and step of each report."""
    return [(type(r).__name__, r.request_id, getattr(r, "step", None)) for r in reports]


def fail_with(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_encode_reports_its_beginning_and_its_end() -> None:
    assert brief(Bench().run(Stage.ENCODE, a_member())) == [("Began", "r1", None), ("Ended", "r1", None)]


def test_denoise_reports_every_step() -> None:
    reports = Bench().run(Stage.DENOISE, a_member(steps=3))
    assert brief(reports) == [
        ("Began", "r1", None),
        ("Stepped", "r1", 1),
        ("Stepped", "r1", 2),
        ("Stepped", "r1", 3),
        ("Ended", "r1", None),
    ]


def test_every_member_of_a_batch_is_reported() -> None:
    reports = Bench().run(Stage.DENOISE, a_member("r1", steps=1), a_member("r2", steps=1))
    assert brief(reports) == [
        ("Began", "r1", None),
        ("Began", "r2", None),
        ("Stepped", "r1", 1),
        ("Stepped", "r2", 1),
        ("Ended", "r1", None),
        ("Ended", "r2", None),
    ]


def test_decode_gives_the_frames_and_frees_the_memory() -> None:
    bench = Bench()
    bench.run(Stage.DENOISE, a_member())
    ended, decoded = bench.run(Stage.DECODE, a_member())[-2:]
    assert isinstance(ended, p.Ended)
    assert isinstance(decoded, p.Decoded)
    assert decoded.frames.shape == (1, 8, 8, 3)
    assert not bench.runner.holds("r1", 0)


def test_a_stop_takes_effect_at_the_next_step_boundary() -> None:
    bench = Bench()
    bench.at["step", 1] = bench.stop
    reports = bench.run(Stage.DENOISE, a_member(steps=5))
    assert brief(reports)[-3:] == [("Stepped", "r1", 2), ("Snapshot", "r1", 2), ("Stopped", "r1", 2)]


def test_a_stopped_request_keeps_its_latents_on_the_device() -> None:
    bench = Bench()
    bench.at["step", 0] = bench.stop
    stopped = bench.run(Stage.DENOISE, a_member(steps=5))[-1]
    assert isinstance(stopped, p.Stopped)
    assert stopped.home == "worker-0"
    assert bench.runner.holds("r1", 0)


def test_a_stop_that_a_request_goes_on_from_writes_no_checkpoint() -> None:
    bench = Bench()
    bench.at["step", 1] = bench.stop
    bench.revision.goes_on = ("r1",)
    assert brief(bench.run(Stage.DENOISE, a_member(steps=5)))[-2:] == [("Stepped", "r1", 2), ("Stopped", "r1", 2)]
    bench.revision = Revision()
    assert brief(bench.run(Stage.DENOISE, a_member(steps=5), from_step=None, after="s0"))[0] == ("Began", "r1", None)
    assert bench.reports[0].from_step == 2  # type: ignore[union-attr]


def test_whoever_is_to_go_on_without_latents_fails_instead_of_beginning_anew() -> None:
    (failed,) = Bench().run(Stage.DENOISE, a_member(), from_step=None, after="s0")
    assert isinstance(failed, p.Failed)
    assert failed.code == "latents_lost"


def test_latents_on_their_way_are_waited_for() -> None:
    giver, taker = Bench(), Bench()
    giver.at["step", 1] = giver.stop
    giver.run(Stage.DENOISE, a_member(steps=5))
    offer = giver.runner.offer("r1", 0)
    assert offer is not None
    first, *others = offer()
    arrived = threading.Event()
    threading.Timer(0.1, arrived.set).start()

    def coming() -> None:
        assert arrived.wait(10)
        taker.runner.receive(a_member(steps=5), first, io.BytesIO(b"".join(others)).readinto)()

    began = taker.run(Stage.DENOISE, a_member(steps=5), from_step=None, after="s0", fetched={"r1": coming})[0]
    assert isinstance(began, p.Began)
    assert began.from_step == 2


def test_latents_that_set_out_and_never_come_are_lost() -> None:
    def coming() -> None:
        raise ConnectionResetError("the giver has gone")

    (failed,) = Bench().run(Stage.DENOISE, a_member(), from_step=None, after="s0", fetched={"r1": coming})
    assert isinstance(failed, p.Failed)
    assert failed.code == "latents_lost"


def test_who_takes_over_is_served_before_anything_is_told_or_copied() -> None:
    bench = Bench()
    bench.at["step", 1] = bench.stop
    heard: list[tuple[p.Left, list[tuple[Any, ...]]]] = []

    def take(left: p.Left) -> tuple[str, ...]:
        heard.append((left, brief(bench.reports)))
        return left.stopped

    bench.revision.takers = (take,)
    stopped = bench.run(Stage.DENOISE, a_member("r1", steps=5), a_member("r2", steps=5))[-1]
    assert heard == [
        (
            p.Left(("r1", "r2")),
            [("Began", "r1", None), ("Began", "r2", None), ("Stepped", "r1", 1), ("Stepped", "r2", 1)],
        )
    ]
    assert isinstance(stopped, p.Stopped)
    assert stopped.goes_on
    assert "Snapshot" in {kind for kind, _, _ in brief(bench.reports)}, "disk has it, should nobody be there to take it"


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.DENOISE])
def test_who_takes_over_at_the_end_hears_who_left_on_the_way(stage: Stage) -> None:
    bench = Bench({("encode", 0): lambda: bench.drop("r2"), ("step", 1): lambda: bench.drop("r2")})
    heard: list[p.Left] = []
    bench.revision.takers = (lambda left: heard.append(left) or (),)  # type: ignore[func-returns-value]
    bench.run(stage, a_member("r1"), a_member("r2"))
    assert heard == [p.Left(gone=("r2",))]


def test_a_stop_of_what_goes_on_is_told_with_the_step_that_it_went_on_from() -> None:
    bench = Bench()
    bench.at["step", 1] = bench.stop
    bench.run(Stage.DENOISE, a_member(steps=5))
    assert brief(bench.run(Stage.DENOISE, a_member(steps=5), from_step=None))[-1] == ("Stopped", "r1", 2)


def test_a_stop_during_the_last_step_changes_nothing() -> None:
    bench = Bench()
    bench.at["step", 2] = bench.stop
    assert isinstance(bench.run(Stage.DENOISE, a_member(steps=3))[-1], p.Ended)


def test_a_stop_before_the_beginning_runs_nothing() -> None:
    bench = Bench()
    bench.stop()
    assert brief(bench.run(Stage.DENOISE, a_member())) == [("Stopped", "r1", 0)]


def test_latents_that_were_moved_in_stay_when_the_segment_is_stopped_before_it_begins() -> None:
    source, target = Bench(), Bench()
    source.at["step", 1] = source.stop
    content = source.run(Stage.DENOISE, a_member(steps=5))[-2]
    assert isinstance(content, p.Snapshot)
    target.stop()
    stopped = target.run(Stage.DENOISE, a_member(steps=5), from_step=2, fetched={"r1": content.content})[-1]
    assert isinstance(stopped, p.Stopped)
    assert (stopped.step, stopped.home) == (2, "worker-0")


def test_a_cancelled_member_leaves_at_the_next_boundary_and_the_others_go_on() -> None:
    bench = Bench()
    bench.at["step", 0] = lambda: bench.drop("r2")
    reports = bench.run(Stage.DENOISE, a_member("r1", steps=2), a_member("r2", steps=2))
    assert brief(reports)[2:] == [
        ("Stepped", "r1", 1),
        ("Stepped", "r2", 1),
        ("Dropped", "r2", None),
        ("Stepped", "r1", 2),
        ("Ended", "r1", None),
    ]


def test_a_cancelled_member_is_forgotten() -> None:
    bench = Bench()
    bench.run(Stage.ENCODE, a_member())
    bench.at["step", 0] = lambda: bench.drop("r1")
    bench.run(Stage.DENOISE, a_member(steps=5))
    assert not bench.runner.holds("r1", 0)


def test_a_segment_whose_last_member_is_cancelled_ends_there() -> None:
    bench = Bench()
    bench.at["step", 0] = lambda: bench.drop("r1")
    assert brief(bench.run(Stage.DENOISE, a_member(steps=5)))[-2:] == [("Stepped", "r1", 1), ("Dropped", "r1", None)]


def test_a_cancel_during_decode_keeps_the_result_back() -> None:
    bench = Bench()
    bench.run(Stage.DENOISE, a_member())
    bench.at["decode", 0] = lambda: bench.drop("r1")
    assert brief(bench.run(Stage.DECODE, a_member())) == [("Began", "r1", None), ("Dropped", "r1", None)]


def test_a_request_that_left_its_chain_is_passed_over_in_later_segments() -> None:
    bench = Bench()
    bench.revision.skip = ("r1",)
    assert bench.run(Stage.DENOISE, a_member()) == []


def test_checkpoints_are_due_every_k_steps_but_not_after_the_last() -> None:
    reports = Bench().run(Stage.DENOISE, a_member(steps=6), checkpoint_every=2)
    assert [r.step for r in reports if isinstance(r, p.Snapshot)] == [2, 4]


def test_a_partial_image_is_shown_at_its_step() -> None:
    reports = Bench().run(Stage.DENOISE, a_member(steps=4, partial_images=1))
    assert brief(reports)[3:5] == [("Preview", "r1", None), ("Stepped", "r1", 3)]


def test_an_error_with_a_code_fails_every_member_with_it() -> None:
    bench = Bench({("step", 1): fail_with(GenServeError("out_of_memory", "too big"))})
    reports = bench.run(Stage.DENOISE, a_member("r1"), a_member("r2"))
    assert [(r.request_id, r.code) for r in reports if isinstance(r, p.Failed)] == [
        ("r1", "out_of_memory"),
        ("r2", "out_of_memory"),
    ]


def test_an_unforeseen_error_becomes_a_failure_that_names_it() -> None:
    bench = Bench({("step", 0): fail_with(ZeroDivisionError("by zero"))})
    failed = bench.run(Stage.DENOISE, a_member())[-1]
    assert isinstance(failed, p.Failed)
    assert (failed.code, failed.message) == ("stage_failed", "ZeroDivisionError: by zero")


def test_a_failed_request_is_forgotten() -> None:
    bench = Bench({("step", 1): fail_with(MemoryError())})
    bench.run(Stage.ENCODE, a_member())
    bench.run(Stage.DENOISE, a_member())
    assert not bench.runner.holds("r1", 0)


def test_the_text_of_an_error_is_cut_to_what_the_log_takes() -> None:
    bench = Bench({("step", 0): fail_with(ValueError("x" * 100_000))})
    failed = bench.run(Stage.DENOISE, a_member())[-1]
    assert isinstance(failed, p.Failed)
    assert len(failed.message) == 500


def test_latents_at_another_step_than_expected_are_refused() -> None:
    failed = Bench().run(Stage.DENOISE, a_member(), from_step=2)[-1]
    assert isinstance(failed, p.Failed)
    assert failed.code == "wrong_step"


@pytest.mark.parametrize(("content", "code"), [(None, "checkpoint_lost"), (b"{not json", "checkpoint_corrupt")])
def test_a_member_whose_checkpoint_is_no_good_fails_alone(content: bytes | None, code: str) -> None:
    reports = Bench().run(Stage.DENOISE, a_member("r1"), a_member("r2"), fetched={"r1": content})
    assert [(r.request_id, r.code) for r in reports if isinstance(r, p.Failed)] == [("r1", code)]
    assert isinstance(reports[-1], p.Ended)
    assert reports[-1].request_id == "r2"


def test_paused_and_resumed_steps_give_the_pixels_of_an_uninterrupted_run() -> None:
    plain, paused = Bench(), Bench()
    plain.run(Stage.DENOISE, a_member(steps=5))
    paused.at["step", 2] = paused.stop
    paused.run(Stage.DENOISE, a_member(steps=5))
    paused.revision = Revision()
    paused.run(Stage.DENOISE, a_member(steps=5), from_step=3)
    ends = [bench.run(Stage.DECODE, a_member(steps=5))[-1] for bench in (plain, paused)]
    assert all(isinstance(end, p.Decoded) for end in ends)
    assert msgspec.structs.asdict(ends[0])["frames"].tobytes() == msgspec.structs.asdict(ends[1])["frames"].tobytes()
