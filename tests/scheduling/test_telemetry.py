"""The translator's metrics, lines and manners."""

from __future__ import annotations

import json

import pytest

from genserve.domain import events as e
from genserve.domain.events import EVENT_TYPES
from genserve.domain.plan import Start, Yield
from genserve.domain.request import Stage
from genserve.scheduling.telemetry import Translator
from genserve.scheduling.telemetry.lines import _LINES
from observability.logging import get_logger
from observability.metrics import Metrics
from tests.builders import SECOND, VIDEO, History, a_request
from tests.capture import captured_log
from tests.scheduling.test_telemetry_spans import a_life

IMAGE = {"model": "t2i", "media": "image", "slo_class": "standard"}


class Broken:
    """A logger whose stream is gone."""

    def __init__(self) -> None:
        self.calls = 0

    def _fail(self, event: str, **fields: object) -> None:
        self.calls += 1
        raise BrokenPipeError("nobody reads this")

    debug = info = warning = error = _fail


def told(history: History) -> Metrics:
    metrics = Metrics()
    Translator(metrics=metrics, clock_us=lambda: history.now_us + SECOND).translate(history.log)
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"genserve_{name}", labels)


def test_a_life_is_counted_once_and_leaves_no_gauge_behind() -> None:
    metrics = told(a_life(a_request()))
    for name in ("requests_submitted_total", "requests_completed_total", "slo_met_total", "preemptions_total"):
        assert value(metrics, name, **IMAGE) == 1
    for name in ("requests_running", "requests_waiting", "requests_paused"):
        assert not value(metrics, name, **IMAGE)
    assert value(metrics, "request_queue_seconds_sum", **IMAGE) == 1
    assert value(metrics, "request_e2e_seconds_sum", **IMAGE) == 10
    assert value(metrics, "slo_missed_total", **IMAGE) is None


def test_a_request_waits_for_its_verdict_as_any_other_and_is_counted_once() -> None:
    history = History().of("r1", e.RequestSubmitted(a_request(), 2 * SECOND))
    assert value(told(history), "requests_waiting", **IMAGE) == 1
    metrics = told(history.of("r1", e.RequestAdmitted(0.75), at_us=SECOND))
    assert (value(metrics, "requests_waiting", **IMAGE), value(metrics, "requests_submitted_total", **IMAGE)) == (1, 1)


def test_a_refused_request_is_counted_as_failed_for_that_reason() -> None:
    history = History().of("r1", e.RequestSubmitted(a_request(), 2 * SECOND), e.RequestFailed("refused", "no room"))
    metrics = told(history)
    assert value(metrics, "requests_failed_total", **IMAGE, code="refused") == 1
    assert value(metrics, "requests_submitted_total", **IMAGE) == 1
    assert value(metrics, "requests_waiting", **IMAGE) == 0


def test_a_result_one_microsecond_late_is_a_miss() -> None:
    metrics = told(a_life(a_request(deadline_us=10 * SECOND - 1)))
    assert value(metrics, "slo_missed_total", **IMAGE) == 1


def test_steps_stages_and_busy_time_are_measured_times_per_degree() -> None:
    metrics = told(a_life(a_request()))
    run = {"model": "t2i", "media": "image", "sp_degree": "1"}
    assert value(metrics, "step_seconds_count", stage="denoise", **run) == 4
    assert value(metrics, "step_seconds_sum", stage="denoise", **run) == 4
    assert value(metrics, "stage_seconds_sum", stage="decode", **run) == 1
    assert value(metrics, "worker_busy_seconds_total", worker="w0", stage="denoise") == 4
    assert value(metrics, "worker_busy_seconds_total", worker="w0", stage="decode") == 1


def test_a_batch_keeps_its_worker_busy_once() -> None:
    history = History().workers(1).submit(a_request("r1"), a_request("r2"))
    history.decide(Start("s1", ("r1", "r2"), "t2i", Stage.DENOISE, ("w0",), "batch", 0, 4))
    for name in ("r1", "r2"):
        history.of(name, e.StageStarted("s1", Stage.DENOISE, 0, ("w0",), 2))
        history.of(name, e.StepsFinished("s1", 0, 0, 4, SECOND, 1, 2))
    metrics = told(history)
    assert value(metrics, "worker_busy_seconds_total", worker="w0", stage="denoise") == 1
    assert value(metrics, "batch_size_sum", model="t2i", stage="denoise", sp_degree="1") == 2
    assert value(metrics, "requests_running", **IMAGE) == 2


def test_going_on_at_another_degree_is_a_regroup() -> None:
    history = History().workers(2).submit(a_request("v1", shape=VIDEO))
    history.of("v1", e.StageStarted("s1", Stage.DENOISE, 0, ("w0",)))
    history.of("v1", e.RequestPaused("s1", 0, 2, "w0"))
    history.of("v1", e.StageStarted("s2", Stage.DENOISE, 0, ("w0", "w1"), 1, 2))
    metrics = told(history)
    assert value(metrics, "regroups_total", model="t2v", media="video", stage="denoise", sp_degree="2") == 1


def test_decisions_checkpoints_refusals_and_the_log_itself_are_measured() -> None:
    history = History().workers(1).submit(a_request())
    plan = e.PlanDecided(2, 0, "edf", "", "", "", (Yield("s0", "late"), Yield("s1", "late")), took_us=2_000)
    history.add("scheduler", plan)
    history.of("r1", e.LatentsCheckpointed(0, 2, "file", 1 << 20, "hash", 5_000))
    history.add("worker/w0", e.ActionRefused("s1", "w0", "stale_epoch", "no"))
    metrics = told(history)
    assert value(metrics, "plan_seconds_sum", planner="edf") == 0.002
    assert value(metrics, "plan_actions_total", planner="edf", action="yield") == 2
    assert value(metrics, "checkpoint_bytes_sum", model="t2i", media="image") == 1 << 20
    assert value(metrics, "checkpoint_seconds_sum", model="t2i", media="image") == 0.005
    assert value(metrics, "action_refusals_total", code="stale_epoch") == 1
    assert value(metrics, "journal_position") == 5
    assert value(metrics, "journal_lag_seconds") == 1
    assert value(metrics, "workers") == 1


def test_a_commit_is_measured_by_what_the_journals_total_grew() -> None:
    metrics, log = Metrics(), a_life(a_request()).log
    translator = Translator(metrics=metrics)
    translator.warm(log[:2])
    translator.translate(log[2:6], commit_us=3_000)
    translator.translate(log[6:7], commit_us=4_000)
    translator.translate(log[7:], commit_us=4_000)
    assert value(metrics, "journal_append_seconds_count") == 2, "a batch that the journal did not time is left out"
    assert value(metrics, "journal_append_seconds_sum") == 0.004
    assert value(metrics, "journal_append_events_sum") == 5


def test_slo_classes_beyond_the_bound_share_a_label() -> None:
    specs = [a_request(f"r{i}", slo_class=f"class-{i}") for i in range(40)]
    page = told(History().submit(*specs)).render().decode()
    assert page.count("genserve_requests_submitted_total{") == 17
    assert 'genserve_requests_submitted_total{media="image",model="t2i",slo_class="other"} 24.0' in page


def test_history_before_the_start_moves_gauges_but_counts_and_says_nothing() -> None:
    metrics = Metrics()
    with captured_log() as out:
        translator = Translator(metrics=metrics, log=get_logger("test"))
        translator.warm(History().submit(a_request("r1"), a_request("r2")).log)
    assert value(metrics, "requests_waiting", **IMAGE) == 2
    assert value(metrics, "requests_submitted_total", **IMAGE) is None
    assert out.getvalue() == ""


def test_memory_is_bounded_by_live_requests() -> None:
    translator = Translator()
    translator.translate(a_life(a_request()).log)
    assert translator.live == 0


def test_every_event_has_a_line_with_position_and_request_and_no_prompt() -> None:
    history = a_life(a_request(prompt="a secret garden", negative_prompt="a public lawn"))
    with captured_log() as out:
        Translator(log=get_logger("genserve.log")).translate(history.log)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["position"] for line in lines] == list(range(1, 14))
    assert [line["event"] for line in lines if line.get("request_id") == "r1"] == [
        "request submitted",
        "stage started",
        "steps finished",
        "request paused",
        "stage started",
        "steps finished",
        "stage finished",
        "stage started",
        "stage finished",
        "request completed",
    ]
    decision = next(line for line in lines if line["event"] == "plan decided")
    assert decision["starts"] == ["s1 denoise r1 on w0"]
    assert lines[-1]["latency_us"] == 10 * SECOND
    assert "garden" not in out.getvalue()
    assert "lawn" not in out.getvalue()


def test_a_refusal_is_news_and_no_error() -> None:
    history = History().of("r1", e.RequestSubmitted(a_request(), 2 * SECOND), e.RequestFailed("refused", "no room"))
    with captured_log() as out:
        Translator(log=get_logger("genserve.log")).translate(history.log)
    last = json.loads(out.getvalue().splitlines()[-1])
    assert (last["level"], last["event"], last["code"]) == ("info", "request refused", "refused")


@pytest.mark.parametrize("name", sorted(EVENT_TYPES))
def test_no_kind_of_event_is_without_a_line(name: str) -> None:
    assert EVENT_TYPES[name] in _LINES


def test_a_broken_sink_is_counted_and_said_once_and_the_others_go_on() -> None:
    metrics, log = Metrics(), Broken()
    history = a_life(a_request())
    Translator(metrics=metrics, log=log).translate(history.log)
    assert value(metrics, "telemetry_errors_total", sink="lines") == len(history.log)
    assert log.calls == len(history.log) + 1, "one line about the trouble itself"
    assert value(metrics, "requests_completed_total", **IMAGE) == 1
