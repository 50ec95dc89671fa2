"""Which of a request's segments on a worker are void, after a stop, an end, or a failure."""

from __future__ import annotations

import pytest

from actors.register import Register
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from tests.actors.cell import a_video

ENCODE, DENOISE, DECODE = Stage
STOPPED, ENDED = p.Stopped("v1", 0, "s1", 2, "w0"), p.Ended("v1", 0, "s1", DENOISE, 1)
FAILED, DROPPED = p.Failed("v1", 0, "s1", "stage_failed", "", True), p.Dropped("v1", 0, "s1")


def a_segment(
    name: str,
    stage: Stage = DENOISE,
    *,
    after: str = "",
    step: int | None = 0,
    of: tuple[str, ...] = ("v1",),
    continues: bool = True,
) -> p.RunSegment:
    members = tuple(p.Member(a_video(request_id), 0, "request-0") for request_id in of)
    return p.RunSegment(1, name, stage, "t2v", members, ("w0",), step, 6, after=after, continues=continues)


CHAIN = (a_segment("s1"), a_segment("decode", DECODE, after="s1"))
BEYOND = (a_segment("s2", after="s1", step=None), a_segment("last", DECODE, after="s2"))


def void(register: Register) -> set[str]:
    revisions = {name: register.revision(name) for name in register.live}
    return {name for name, revision in revisions.items() if revision is not None and "v1" in revision.skip}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (STOPPED, {"decode"}),
        (ENDED, {"s2", "last"}),
        (FAILED, {"decode", "s2", "last"}),
        (DROPPED, {"decode", "s2", "last"}),
        (p.Ended("v1", 0, "s0", ENCODE, 1), set()),
    ],
)
def test_a_stop_voids_what_an_end_leaves_and_an_end_what_a_stop_leaves(report: p.AnyReport, expected: set[str]) -> None:
    register = Register()
    for command in (*CHAIN, *BEYOND):
        register.enter(command)
    register.note(report)
    assert void(register) == expected


@pytest.mark.parametrize(("report", "expected"), [(STOPPED, set()), (ENDED, {"s2", "last"}), (FAILED, {"s2", "last"})])
async def test_what_comes_when_the_segment_before_it_is_over_runs_only_if_that_stopped(
    report: p.AnyReport, expected: set[str]
) -> None:
    register = Register()
    register.enter(CHAIN[0])
    register.note(report)
    register.end("s1")
    for command in BEYOND:
        register.enter(command)
    assert void(register) == expected


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (p.Left(stopped=("v1",)), set()),
        (p.Left(), {"s2", "last"}),
        (p.Left(gone=("v1",)), {"s2", "last"}),
        (None, {"s2", "last"}),
    ],
)
def test_what_waits_for_another_worker_runs_only_if_that_stopped(left: p.Left | None, expected: set[str]) -> None:
    register = Register()
    for command in BEYOND:
        register.enter(command)
    register.skip(BEYOND[0], left)
    assert void(register) == expected


def test_a_stop_of_an_older_attempt_voids_nothing_of_a_later_one() -> None:
    register = Register()
    later = p.Member(a_video("v1"), 1, "request-0")
    register.enter(CHAIN[0])
    register.enter(p.RunSegment(1, "anew", DENOISE, "t2v", (later,), ("w0",), 0, 6))
    register.note(STOPPED)
    assert void(register) == set()


@pytest.mark.parametrize("is_told_before", [True, False])
@pytest.mark.parametrize("between", [("v2",), ("v1", "v2")])
def test_a_request_that_goes_on_behind_others_is_not_void_for_what_it_left_before_them(
    between: tuple[str, ...], is_told_before: bool
) -> None:
    """Of a batch that stopped, the log may have heard of one member's stop and not yet of the other's."""
    register = Register()
    for command in (*CHAIN, a_segment("other", after="decode", of=between, continues=False)):
        register.enter(command)
    again = a_segment("again", after="other", step=2, continues=False)
    if is_told_before:
        register.enter(again)
    register.skip(CHAIN[1], None)
    register.skip(a_segment("other", of=between), None)
    if not is_told_before:
        register.enter(again)
    assert "again" not in void(register)
