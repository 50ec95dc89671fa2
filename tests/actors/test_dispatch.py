"""Committed decisions become commands with everything a worker needs; after a change of leader they are sent again."""

from __future__ import annotations

from typing import Any

from actors.dispatch import Dispatch
from genserve.domain import events as e
from genserve.domain.plan import Cancel, Start, Yield
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from tests.builders import History, a_cluster, a_request


class Wire:
    """A fleet and a pool that only remember."""

    generation = 0

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def tell(self, worker_id: str, command: Any) -> None:
        self.sent.append((worker_id, command))

    def assign(self, request_id: str) -> str:
        return f"actor of {request_id}"


def a_dispatch(history: History) -> tuple[Dispatch, Wire]:
    wire = Wire()
    fleet: Any = wire
    return Dispatch(fleet, fleet, lambda: history.state, checkpoint_every=7), wire


def start(segment_id: str, request_id: str, stage: Stage, *, worker: str = "w0", after: str = "") -> Start:
    to_step = 4 if stage is Stage.DENOISE else 0
    return Start(segment_id, (request_id,), "t2i", stage, (worker,), "because", 0, to_step, after)


def a_history() -> History:
    """r1 is told to encode and then to denoise on w0; r2 to encode on w1."""
    history = a_cluster(2, requests=(a_request("r1"), a_request("r2")))
    return history.decide(
        start("s1", "r1", Stage.ENCODE),
        start("s2", "r1", Stage.DENOISE, after="s1"),
        start("s3", "r2", Stage.ENCODE, worker="w1"),
    )


def brief(wire: Wire) -> list[tuple[Any, ...]]:
    return [(worker, type(c).__name__, c.segment_id) for worker, c in wire.sent]


def test_a_start_goes_to_its_worker_with_all_that_the_log_knows() -> None:
    history = a_history()
    dispatch, wire = a_dispatch(history)
    dispatch.dispatch(history.log[-1])
    worker, command = wire.sent[1]
    assert worker == "w0"
    assert command == p.RunSegment(
        epoch=0,
        segment_id="s2",
        stage=Stage.DENOISE,
        model="t2i",
        members=(p.Member(a_request("r1"), 0, "actor of r1"),),
        group=("w0",),
        from_step=0,
        to_step=4,
        after="s1",
        checkpoint_every=7,
    )


def test_only_decisions_are_dispatched() -> None:
    history = a_history().of("r1", e.StageStarted("s1", Stage.ENCODE, 0, ("w0",)))
    dispatch, wire = a_dispatch(history)
    dispatch.dispatch(history.log[-1])
    assert wire.sent == []


def test_a_yield_stops_the_segment_at_its_leader() -> None:
    history = a_history().decide(Yield("s2", "gives way"))
    dispatch, wire = a_dispatch(history)
    dispatch.dispatch(history.log[-1])
    assert wire.sent == [("w0", p.Revise(0, "s2", stop=True))]


def test_a_cancel_takes_the_request_out_of_all_its_segments() -> None:
    history = a_history().of("r1", e.CancelRequested()).decide(Cancel("r1", "cancel requested"))
    dispatch, wire = a_dispatch(history)
    dispatch.dispatch(history.log[-1])
    assert [c for _, c in wire.sent] == [p.Revise(0, "s1", drop=("r1",)), p.Revise(0, "s2", drop=("r1",))]


def test_a_segment_that_is_gone_before_it_was_sent_is_not_sent() -> None:
    history = a_history()
    decided = history.log[-1]
    history.of("r1", e.RequestCancelled())
    dispatch, wire = a_dispatch(history)
    dispatch.dispatch(decided)
    assert brief(wire) == [("w1", "RunSegment", "s3")]


def test_a_new_leader_sends_again_what_is_under_way_in_queue_order() -> None:
    dispatch, wire = a_dispatch(a_history())
    dispatch.resend()
    assert brief(wire) == [("w0", "RunSegment", "s1"), ("w0", "RunSegment", "s2"), ("w1", "RunSegment", "s3")]


def test_a_new_leader_repeats_stops_and_cancels_behind_the_segments() -> None:
    history = a_history().decide(Yield("s2", "gives way"))
    history.of("r2", e.CancelRequested()).decide(Cancel("r2", "cancel requested"))
    dispatch, wire = a_dispatch(history)
    dispatch.resend()
    assert wire.sent[3:] == [("w0", p.Revise(0, "s2", stop=True)), ("w1", p.Revise(0, "s3", drop=("r2",)))]


def test_a_new_leader_has_nothing_to_send_to_a_worker_that_was_lost() -> None:
    history = a_history().add("worker/w0", e.WorkerLost("w0", 1, "killed"))
    dispatch, wire = a_dispatch(history)
    dispatch.resend()
    assert brief(wire) == [("w1", "RunSegment", "s3")]
