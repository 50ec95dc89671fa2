"""A log becomes a timeline: slices, arrows, queue depth and deadlines, for viewers and as a picture."""

from __future__ import annotations

import json

from genserve.audit.idleness import idleness_of
from genserve.audit.timeline import Timeline, timeline_of
from genserve.audit.timeline_picture import to_html
from genserve.audit.timeline_trace import to_trace
from genserve.domain import events as e
from genserve.domain.ids import SCHEDULER_STREAM, request_stream, worker_stream
from genserve.domain.plan import Start
from genserve.domain.request import Stage
from tests.builders import SECOND, a_request

PAIR = ("worker-0", "worker-1")


class Log:
    """Events a tenth of a second apart."""

    def __init__(self) -> None:
        self.recorded: list[e.Recorded] = []

    def add(self, stream: str, *events: e.AnyEvent) -> None:
        for event in events:
            position = len(self.recorded) + 1
            self.recorded.append(e.Recorded(position, stream, position, position * SECOND // 10, event))


def a_log() -> Log:
    """A video on two GPUs, paused, then decoded on one, late; an image that waits all the time."""
    log = Log()
    log.add(request_stream("v1"), e.RequestSubmitted(a_request("v1", deadline_us=SECOND // 2)))
    log.add(request_stream("i1"), e.RequestSubmitted(a_request("i1", deadline_us=90 * SECOND)))
    start = Start("s1", ("v1",), "t2v", Stage.DENOISE, PAIR, "first", 0, 10)
    log.add(SCHEDULER_STREAM, e.PlanDecided(2, 0, "save", "", "", "", (start,)))
    log.add(
        request_stream("v1"),
        e.StageStarted("s1", Stage.DENOISE, 0, PAIR),
        e.StepsFinished("s1", 0, 0, 4, 1000, 2),
        e.RequestPaused("s1", 0, 4, "worker-0"),
        e.StageStarted("s2", Stage.DECODE, 0, ("worker-0",)),
        e.StageFinished("s2", Stage.DECODE, 0, 100),
        e.RequestCompleted(0),
    )
    return log


def drawn() -> Timeline:
    return timeline_of(a_log().recorded)


def test_a_segment_of_two_gpus_is_a_slice_on_each_until_its_requests_leave() -> None:
    assert [(s.worker_id, s.segment_id, s.from_us, s.to_us, s.steps, s.end) for s in drawn().slices] == [
        ("worker-0", "s1", 400_000, 600_000, 4, "paused"),
        ("worker-1", "s1", 400_000, 600_000, 4, "paused"),
        ("worker-0", "s2", 700_000, 800_000, 0, "finished"),
    ]


def test_a_slice_is_drawn_by_its_workers_clock_and_never_beyond_the_log() -> None:
    log, alone = Log(), ("worker-0",)
    log.add(
        request_stream("v1"),
        e.StageStarted("s1", Stage.DENOISE, 0, alone, at_us=60_000),
        e.StageFinished("s1", Stage.DENOISE, 0, 100, at_us=150_000),
        e.StageStarted("s2", Stage.DECODE, 0, alone, at_us=160_000),
        e.StageFinished("s2", Stage.DECODE, 0, 100, at_us=900_000),
    )
    timeline = timeline_of(log.recorded)
    assert [(s.from_us, s.to_us) for s in timeline.slices] == [(60_000, 150_000), (160_000, 400_000)]
    assert (timeline.from_us, timeline.to_us) == (60_000, 400_000)


def test_a_gpu_that_idles_although_somebody_waits_has_a_bubble() -> None:
    first, second = idleness_of(drawn())
    assert (first.worker_id, first.busy_us, first.bubbles) == ("worker-0", 300_000, (100_000,))
    assert (second.worker_id, second.busy_us, second.bubbles) == ("worker-1", 200_000, ())


def test_a_bubble_ends_when_nobody_waits_any_more() -> None:
    log = Log()
    log.recorded = a_log().recorded[:6]
    log.add(request_stream("i1"), e.RequestCancelled())
    log.add(request_stream("v1"), e.AttemptFailed(0, "oops", "x"), e.RequestCancelled())
    log.add(
        request_stream("i2"),
        e.StageStarted("s2", Stage.DECODE, 0, ("worker-0",)),
        e.StageFinished("s2", Stage.DECODE, 0, 1),
    )
    assert idleness_of(timeline_of(log.recorded))[0].bubbles == (300_000,)


def test_the_queue_depth_counts_who_waits() -> None:
    assert drawn().depths == ((100_000, 1), (200_000, 2), (400_000, 1), (600_000, 2), (700_000, 1))


def test_a_request_that_ended_after_its_deadline_is_late() -> None:
    assert [(life.request_id, life.end, life.is_late) for life in drawn().lives] == [
        ("v1", "completed", True),
        ("i1", "", False),
    ]


def test_a_lost_worker_ends_the_slices_of_its_whole_group() -> None:
    log = Log()
    log.recorded = a_log().recorded[:5]
    log.add(worker_stream("worker-1"), e.WorkerLost("worker-1", 1, "gone"))
    assert {(s.worker_id, s.end) for s in timeline_of(log.recorded).slices} == {
        ("worker-0", "worker lost"),
        ("worker-1", "worker lost"),
    }


def test_the_trace_has_a_track_per_gpu_an_arrow_per_start_and_a_counter() -> None:
    events = json.loads(to_trace(drawn()))["traceEvents"]
    names = {ev["args"]["name"] for ev in events if ev["name"] == "thread_name"}
    assert names == {"decisions", "worker-0", "worker-1"}
    arrows = [(ev["ph"], ev["id"], ev["tid"]) for ev in events if ev["ph"] in "sf"]
    assert arrows == [("s", "s1", 0), ("f", "s1", 1)]
    assert [ev["args"]["requests"] for ev in events if ev["ph"] == "C"] == [1, 2, 1, 2, 1]
    assert [ev["name"] for ev in events if ev["ph"] == "X" and ev["cat"] == "denoise"] == ["v1", "v1"]


def test_nothing_is_drawn_before_the_beginning() -> None:
    log = Log()
    log.add(SCHEDULER_STREAM, e.WakeReached())
    log.add(request_stream("v1"), *(recorded.event for recorded in a_log().recorded if "v1" in recorded.stream))
    for history in (log.recorded, log.recorded[2:]):
        events = json.loads(to_trace(timeline_of(history)))["traceEvents"]
        assert min(ev["ts"] for ev in events if ev["ph"] != "M") == 0


def test_the_picture_stands_alone_marks_deadlines_and_escapes_names() -> None:
    log = a_log()
    log.add(request_stream("<b>"), e.RequestSubmitted(a_request("<b>", deadline_us=SECOND)))
    page = to_html(timeline_of(log.recorded))
    assert "http" not in page
    assert "<b>" not in page
    assert page.count('class="deadline"') == 2
    assert 'class="late"' in page
    assert "v1 denoise, 4 steps, degree 2, s1: paused" in page


def test_an_empty_log_can_be_drawn() -> None:
    assert "0 requests" in to_html(timeline_of([]))
    assert json.loads(to_trace(timeline_of([])))["traceEvents"]


def test_who_was_cancelled_or_still_runs_was_neither_on_time_nor_late() -> None:
    log = a_log()
    log.add(request_stream("c1"), e.RequestSubmitted(a_request("c1")), e.RequestCancelled())
    page = to_html(timeline_of(log.recorded))
    assert "3 requests on 2 GPUs in 1.0 s; 0 of 1 on time, 1 cancelled, 1 under way." in page
