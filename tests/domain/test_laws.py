"""Every law holds for simulated logs and can be broken by a log made by hand."""

from __future__ import annotations

from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.laws import check_laws
from genserve.domain.plan import Start
from genserve.domain.request import Stage
from tests.builders import History, a_cluster, a_request
from tests.domain.test_evolve import a_running_request, a_start, random_log


def broken(history: History) -> list[str]:
    return [v.law for v in check_laws(history.log)]


def test_simulated_logs_with_failures_and_cancels_break_no_law() -> None:
    assert all(check_laws(random_log(seed)) == [] for seed in range(5))


def test_a_request_submitted_twice_breaks_conservation() -> None:
    assert broken(a_cluster(1).submit(a_request(), a_request())) == ["conservation"]


def test_a_fact_about_a_request_nobody_submitted_breaks_conservation() -> None:
    assert broken(a_cluster(1).of("ghost", e.CancelRequested())) == ["conservation"]


def test_a_fact_after_the_end_breaks_conservation() -> None:
    history = a_cluster(1, requests=[a_request()]).of("r1", e.RequestCancelled(), e.RequestCompleted(0))
    assert broken(history) == ["conservation"]


def test_two_segments_on_one_gpu_break_exclusivity() -> None:
    history = a_cluster(1, requests=[a_request("a"), a_request("b")])
    history.decide(a_start("a", Stage.ENCODE), a_start("b", Stage.ENCODE))
    for name in ("a", "b"):
        history.of(name, e.StageStarted(f"s-{name}-encode", Stage.ENCODE, 0, ("w0",)))
    assert broken(history) == ["exclusivity"]


def test_a_segment_that_nobody_decided_breaks_causality() -> None:
    history = a_cluster(1, requests=[a_request()]).of("r1", e.StageStarted("s", Stage.ENCODE, 0, ("w0",)))
    assert broken(history) == ["causality"]


def test_a_segment_decided_twice_breaks_causality() -> None:
    history = a_cluster(1, requests=[a_request()]).decide(a_start()).decide(a_start())
    assert broken(history) == ["causality"]


def test_a_decision_about_the_future_breaks_causality() -> None:
    history = a_cluster(1)
    history.add("scheduler", e.PlanDecided(99, 0, "test", "", "", "", ()))
    assert broken(history) == ["causality"]


def test_a_step_left_out_breaks_contiguous_steps() -> None:
    history = a_running_request()
    history.of("r1", e.StepsFinished("s-r1-denoise", 0, 0, 1, 1), e.StepsFinished("s-r1-denoise", 0, 2, 3, 1))
    assert broken(history) == ["contiguous steps"]


def test_a_step_done_twice_in_one_attempt_breaks_contiguous_steps() -> None:
    history = a_running_request()
    history.of("r1", e.StepsFinished("s-r1-denoise", 0, 0, 2, 1), e.StepsFinished("s-r1-denoise", 0, 1, 3, 1))
    assert broken(history) == ["contiguous steps"]


def test_a_segment_that_begins_beyond_the_steps_done_breaks_contiguous_steps() -> None:
    start = Start("s", ("r1",), "t2i", Stage.DENOISE, ("w0",), "", 2, 4)
    history = a_cluster(1, requests=[a_request()]).decide(start)
    history.of("r1", e.StageStarted("s", Stage.DENOISE, 0, ("w0",), 1, 2))
    assert broken(history) == ["contiguous steps"]


def test_a_gap_in_positions_breaks_monotone_time() -> None:
    log = a_cluster(2, requests=[a_request()]).log
    assert [v.law for v in check_laws([*log[:2], *log[3:]])] == ["monotone time"]


def test_time_that_falls_breaks_monotone_time() -> None:
    log = a_cluster(1, requests=[a_request(arrival_us=5)]).log
    last = replace(log[-1], position=len(log) + 1, recorded_us=1, event=e.CancelRequested())
    assert [v.law for v in check_laws([*log, last])] == ["monotone time"]


def test_a_violation_names_the_law_the_position_and_both_sides() -> None:
    history = a_cluster(1).submit(a_request(), a_request())
    assert str(check_laws(history.log)[0]) == "conservation broken at position 4: r1 submitted twice"
