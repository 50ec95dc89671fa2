"""A request's stream grows by what reports add to it: the same, however often and in what pieces they come."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from genserve.domain import events as e
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from genserve.scheduling.life import Life, facts_of, grow, imagine, without_superseded
from tests.actors.cell import a_video


def began(segment_id: str, stage: Stage, step: int = 0, *, attempt: int = 0) -> p.Began:
    return p.Began("v1", attempt, segment_id, stage, ("worker-0",), 1, step)


def stepped(segment_id: str, step: int, busy_us: int, *, attempt: int = 0) -> p.Stepped:
    return p.Stepped("v1", attempt, segment_id, step, busy_us, 1, 1)


def ended(segment_id: str, stage: Stage, *, attempt: int = 0) -> p.Ended:
    return p.Ended("v1", attempt, segment_id, stage, 1)


STORY: tuple[p.AnyReport, ...] = (
    began("s1", Stage.ENCODE),
    ended("s1", Stage.ENCODE),
    began("s2", Stage.DENOISE),
    stepped("s2", 1, 10),
    stepped("s2", 2, 20),
    p.Stopped("v1", 0, "s2", 2, "worker-0"),
    began("s3", Stage.DENOISE, 2),
    stepped("s3", 3, 10),
    p.Failed("v1", 0, "s3", "out_of_memory", "too big", True),
    began("s4", Stage.DENOISE, 0, attempt=1),
    stepped("s4", 1, 10, attempt=1),
    stepped("s4", 6, 60, attempt=1),
    ended("s4", Stage.DENOISE, attempt=1),
    began("s5", Stage.DECODE, attempt=1),
    ended("s5", Stage.DECODE, attempt=1),
)
"""One life with a pause, a failure and a second attempt."""


class Stream:
    """A request's stream and the actor that feeds it; ``forget`` is what the actor's death does."""

    def __init__(self) -> None:
        self.events: list[e.AnyEvent] = [e.RequestSubmitted(a_video())]

    @property
    def life(self) -> Life:
        life = Life()
        for version, event in enumerate(self.events, 1):
            life = grow(life, e.Recorded(version, "request/v1", version, 0, event))
        return life

    def take_in(self, reports: Sequence[p.AnyReport]) -> None:
        for report in without_superseded(reports):
            self.events += facts_of(self.life, report)


def told_once() -> list[e.AnyEvent]:
    stream = Stream()
    for report in STORY:
        stream.take_in([report])
    return stream.events


def steps_of(events: Sequence[e.AnyEvent]) -> list[tuple[str, int, int]]:
    """Steps merged per segment: how finely progress is recorded is left to chance."""
    merged: list[tuple[str, int, int]] = []
    for event in events:
        if not isinstance(event, e.StepsFinished):
            continue
        if merged and merged[-1][0] == event.segment_id and merged[-1][2] == event.from_step:
            merged[-1] = (event.segment_id, merged[-1][1], event.to_step)
        else:
            merged.append((event.segment_id, event.from_step, event.to_step))
    return merged


def others_of(events: Sequence[e.AnyEvent]) -> list[e.AnyEvent]:
    return [event for event in events if not isinstance(event, e.StepsFinished)]


def test_a_story_told_once_is_recorded_in_full() -> None:
    assert [type(event).__name__ for event in told_once()] == [
        "RequestSubmitted",
        "StageStarted",
        "StageFinished",
        "StageStarted",
        "StepsFinished",
        "StepsFinished",
        "RequestPaused",
        "StageStarted",
        "StepsFinished",
        "AttemptFailed",
        "StageStarted",
        "StepsFinished",
        "StepsFinished",
        "StageFinished",
        "StageStarted",
        "StageFinished",
    ]


@st.composite
def deliveries(draw: st.DrawFn) -> list[tuple[p.AnyReport, ...]]:
    """The story in batches, each delivered again any number of times before the next is begun, as the outbox does."""
    pieces: list[tuple[p.AnyReport, ...]] = []
    done = 0
    while done < len(STORY):
        size = draw(st.integers(1, 5))
        batch = STORY[done : done + size]
        partly = draw(st.lists(st.integers(0, len(batch)), max_size=3))
        pieces += [batch[:cut] for cut in partly] + [batch]
        done += size
    return pieces


@given(deliveries())
def test_repeated_and_broken_off_deliveries_add_nothing(pieces: list[tuple[p.AnyReport, ...]]) -> None:
    stream = Stream()
    for piece in pieces:
        stream.take_in(piece)
    assert others_of(stream.events) == others_of(told_once())
    assert steps_of(stream.events) == steps_of(told_once())


@given(st.lists(st.sampled_from(STORY), max_size=20))
def test_nothing_that_comes_late_is_recorded(late: list[p.AnyReport]) -> None:
    stream = Stream()
    stream.events = told_once()
    stream.take_in(late)
    assert stream.events == told_once()


@given(st.lists(st.sampled_from(STORY), max_size=20))
def test_a_request_that_has_ended_hears_nothing_more(late: list[p.AnyReport]) -> None:
    stream = Stream()
    stream.events += [e.RequestCancelled()]
    stream.take_in(late)
    assert len(stream.events) == 2


def test_progress_that_an_actor_lost_is_made_up_for_by_the_next_report() -> None:
    stream = Stream()
    stream.take_in(STORY[:3])
    stream.take_in([stepped("s2", 2, 20)])
    assert stream.events[-1] == e.StepsFinished("s2", 0, 0, 2, 20)


def test_step_times_are_counted_once() -> None:
    events = told_once()
    first, second = [event for event in events if isinstance(event, e.StepsFinished) and event.segment_id == "s4"]
    assert (first.took_us, second.took_us) == (10, 50)


def test_a_bad_checkpoint_is_not_gone_on_from() -> None:
    life = imagine(Life(), [e.LatentsCheckpointed(0, 2, "file", 1, "sha"), e.AttemptFailed(0, "checkpoint_lost", "")])
    assert life.checkpoint is None


def test_another_failure_keeps_the_checkpoint() -> None:
    life = imagine(Life(), [e.LatentsCheckpointed(0, 2, "file", 1, "sha"), e.AttemptFailed(0, "out_of_memory", "")])
    assert life.checkpoint is not None
