"""The law book forgets what is over, believes late news, and still notices every broken law."""

from __future__ import annotations

import pytest

from genserve.domain import events as e
from genserve.domain.laws import LawBook, check_laws
from genserve.domain.plan import Start
from genserve.domain.request import Stage
from tests.builders import History, a_request
from tests.scheduling.chaos import Chaos


def a_start(segment_id: str = "s1", request_id: str = "r1", *, worker: str = "w0") -> Start:
    return Start(segment_id, (request_id,), "t2i", Stage.DENOISE, (worker,), "because", 0, 4)


def begun(segment_id: str = "s1", *, attempt: int = 0, worker: str = "w0", from_step: int = 0) -> e.StageStarted:
    return e.StageStarted(segment_id, Stage.DENOISE, attempt, (worker,), 1, from_step)


def done(*steps: int, segment_id: str = "s1", attempt: int = 0) -> e.StepsFinished:
    return e.StepsFinished(segment_id, attempt, steps[0], steps[-1] + 1, 1)


def a_run() -> History:
    """r1 has done two of four steps in s1 on w0."""
    history = History().workers(2).submit(a_request("r1"), a_request("r2")).decide(a_start())
    return history.of("r1", begun(), done(0, 1))


def broken(history: History) -> list[str]:
    return [v.law for v in check_laws(history.log)]


@pytest.mark.parametrize("seed", range(20))
def test_an_unkind_log_with_late_news_breaks_no_law(seed: int) -> None:
    assert check_laws(Chaos(seed, workers=3).run(250)) == []


@pytest.mark.parametrize("end", [e.RequestCompleted(0), e.RequestCancelled(), e.RequestFailed("broken", "no")])
def test_of_an_ended_request_only_its_names_are_kept(end: e.AnyEvent) -> None:
    book = LawBook()
    for recorded in a_run().of("r1", end).of("r2", e.RequestCancelled()).log:
        book.watch(recorded)
    assert not book._live
    assert not book._segments
    assert not book._running
    assert (set(book._ended), book._past) == ({"r1", "r2"}, {"s1"})


def test_news_of_a_lost_segment_is_late_and_keeps_no_gpu_busy() -> None:
    history = a_run().add("worker/w0", e.WorkerLost("w0", 1, "killed")).add("worker/w0", e.WorkerJoined("w0", 2))
    history.of("r1", begun(), done(1), done(3))
    history.decide(a_start("s2", "r2")).of("r2", begun("s2"))
    assert broken(history) == []


def test_news_of_an_attempt_that_is_over_is_late() -> None:
    history = a_run().of("r1", e.AttemptFailed(0, "out_of_memory", "no")).decide(a_start("s2"))
    history.of("r1", begun("s2", attempt=1), done(7), done(0, segment_id="s2", attempt=1))
    assert broken(history) == []


def test_the_loss_of_a_worker_that_came_back_since_frees_nothing() -> None:
    history = History().workers(1).submit(a_request("r1"), a_request("r2"))
    history.add("worker/w0", e.WorkerJoined("w0", 2)).decide(a_start(), a_start("s2", "r2")).of("r1", begun())
    history.add("worker/w0", e.WorkerLost("w0", 1, "late")).of("r2", begun("s2"))
    assert broken(history) == ["exclusivity"]


def test_what_comes_before_a_refused_segment_keeps_its_gpu() -> None:
    history = a_run().decide(a_start("s2"), a_start("s3", "r2"))
    history.add("worker/w0", e.ActionRefused("s2", "w0", "stale", "no")).of("r2", begun("s3"))
    assert broken(history) == ["exclusivity"]


def test_a_batchs_gpu_is_busy_until_its_last_member_has_left() -> None:
    both = Start("s1", ("r1", "r2"), "t2i", Stage.DENOISE, ("w0",), "batch", 0, 4)
    history = History().workers(1).submit(*(a_request(f"r{i}") for i in (1, 2, 3))).decide(both, a_start("s2", "r3"))
    history.of("r1", begun(), e.RequestCancelled()).of("r2", begun()).of("r3", begun("s2"))
    assert broken(history) == ["exclusivity"]


def test_a_segments_name_is_not_used_again_after_all_its_requests_have_ended() -> None:
    history = a_run().of("r1", e.RequestCompleted(0)).decide(a_start("s1", "r2"))
    assert broken(history) == ["causality"]


def test_a_segment_does_not_take_in_a_request_that_it_was_not_decided_for() -> None:
    assert broken(a_run().of("r2", begun())) == ["causality"]


def test_a_request_that_has_ended_is_not_submitted_again_but_may_be_deleted() -> None:
    history = a_run().of("r1", e.RequestCompleted(0), e.RequestDeleted())
    assert broken(history) == []
    assert broken(history.submit(a_request("r1"))) == ["conservation"]


def test_a_fact_after_the_end_names_both_positions() -> None:
    history = a_run().of("r1", e.RequestCompleted(0), done(2))
    assert str(check_laws(history.log)[0]) == ("conservation broken at position 9: StepsFinished for r1, ended at 8")


def test_a_new_attempt_goes_back_but_never_ahead() -> None:
    history = a_run().of("r1", e.AttemptFailed(0, "out_of_memory", "no")).decide(a_start("s2"))
    assert broken(history.of("r1", begun("s2", attempt=1, from_step=3))) == ["contiguous steps"]
    assert broken(history.of("r1", done(3, segment_id="s2", attempt=1))) == ["contiguous steps"] * 2


def test_the_next_attempt_may_go_on_behind_steps_that_were_told_late() -> None:
    history = a_run().add("worker/w0", e.WorkerLost("w0", 1, "killed")).of("r1", done(2, 3))
    history.decide(a_start("s2", worker="w1")).of("r1", begun("s2", attempt=1, worker="w1", from_step=4))
    assert broken(history) == []


def test_late_steps_with_a_gap_before_them_prove_nothing() -> None:
    history = a_run().add("worker/w0", e.WorkerLost("w0", 1, "killed")).of("r1", done(3))
    history.decide(a_start("s2", worker="w1")).of("r1", begun("s2", attempt=1, worker="w1", from_step=4))
    assert broken(history) == ["contiguous steps"]
