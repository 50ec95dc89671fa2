"""One request's life as spans, by hand: names, ids, times, parents, links and conventions."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from genserve.domain import events as e
from genserve.domain.plan import Start
from genserve.domain.request import RequestSpec, Stage
from genserve.scheduling.telemetry import Translator
from observability.tracing import setup_tracing
from tests.builders import SECOND, History, a_request

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def start(segment_id: str, stage: Stage, *, steps: tuple[int, int] = (0, 0)) -> Start:
    return Start(segment_id, ("r1",), "t2i", stage, ("w0",), "because", *steps)


def a_life(spec: RequestSpec) -> History:
    """Queued for 1 s, two steps in 2 s, paused for 3 s, two steps and a decode in 4 s."""
    history = History().workers(1).submit(spec)
    history.decide(start("s1", Stage.DENOISE, steps=(0, 4)), at_us=1 * SECOND)
    history.of("r1", e.StageStarted("s1", Stage.DENOISE, 0, ("w0",)))
    history.of("r1", e.StepsFinished("s1", 0, 0, 2, 2 * SECOND), at_us=3 * SECOND)
    history.of("r1", e.RequestPaused("s1", 0, 2, "w0"))
    history.decide(start("s2", Stage.DENOISE, steps=(2, 4)), start("s3", Stage.DECODE), at_us=6 * SECOND)
    history.of("r1", e.StageStarted("s2", Stage.DENOISE, 0, ("w0",), 1, 2))
    history.of("r1", e.StepsFinished("s2", 0, 2, 4, 2 * SECOND), at_us=8 * SECOND)
    history.of("r1", e.StageFinished("s2", Stage.DENOISE, 0, 2 * SECOND))
    history.of("r1", e.StageStarted("s3", Stage.DECODE, 0, ("w0",)), at_us=9 * SECOND)
    history.of("r1", e.StageFinished("s3", Stage.DECODE, 0, SECOND), at_us=10 * SECOND)
    return history.of("r1", e.RequestCompleted(0), at_us=10 * SECOND)


def spans_of(history: History) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    Translator(tracing=setup_tracing(exporter=exporter)).translate(history.log)
    return list(exporter.get_finished_spans())


def named(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [s for s in spans if s.name == name]


def seconds(span: ReadableSpan) -> tuple[float, float]:
    return span.start_time / 1e9, span.end_time / 1e9


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes)


def test_a_request_leaves_a_span_for_every_wait_and_run_and_its_root_last() -> None:
    spans = [s for s in spans_of(a_life(a_request())) if s.name != "decide"]
    assert [(s.name, *seconds(s)) for s in spans] == [
        ("queued", 0, 1),
        ("run denoise", 1, 3),
        ("paused", 3, 6),
        ("run denoise", 6, 8),
        ("run decode", 9, 10),
        ("generate_content t2i", 0, 10),
    ]
    root = spans[-1]
    assert {s.parent.span_id for s in spans[:-1]} == {root.context.span_id}
    assert {s.context.trace_id for s in spans} == {root.context.trace_id}
    assert root.parent is None


def test_the_root_span_speaks_the_conventions_for_generative_models_and_ours() -> None:
    root = spans_of(a_life(a_request(seed=7, prompt="a secret garden")))[-1]
    assert root.kind is SpanKind.SERVER
    told = attributes(root)
    assert told["gen_ai.operation.name"] == "generate_content"
    assert told["gen_ai.output.type"] == "image"
    assert told["gen_ai.request.model"] == "t2i"
    assert told["gen_ai.request.seed"] == 7
    assert told["genserve.request.id"] == "r1"
    assert told["genserve.size"] == "64x64"
    assert told["genserve.steps"] == 4
    assert told["genserve.pauses"] == 1
    assert told["genserve.deadline_us"] == 10 * SECOND
    assert told["genserve.met"] is True
    assert told["genserve.log.position"] == 13
    assert "garden" not in str(told)


def test_a_run_span_says_which_steps_ran_where_and_how_it_ended() -> None:
    first, second = named(spans_of(a_life(a_request())), "run denoise")
    told = attributes(first)
    assert (told["genserve.step.from"], told["genserve.step.to"], told["genserve.outcome"]) == (0, 2, "paused")
    assert (told["genserve.workers"], told["genserve.sp_degree"]) == (("w0",), 1)
    assert told["genserve.reason"] == "because"
    told = attributes(second)
    assert (told["genserve.step.from"], told["genserve.step.to"], told["genserve.outcome"]) == (2, 4, "finished")


def test_decisions_and_the_runs_they_made_link_to_each_other_across_traces() -> None:
    spans = spans_of(a_life(a_request()))
    first, second = named(spans, "decide")
    (run,) = (s for s in named(spans, "run denoise") if attributes(s)["genserve.segment.id"] == "s1")
    assert [link.context.span_id for link in run.links] == [first.context.span_id]
    assert [link.context.span_id for link in first.links] == [run.context.span_id]
    assert [link.context.trace_id for link in first.links] == [run.context.trace_id]
    assert len(second.links) == 2
    assert len({s.context.trace_id for s in (first, second, run)}) == 3


def test_exporting_the_log_again_gives_the_same_spans_to_the_last_bit() -> None:
    history = a_life(a_request())
    assert [s.to_json() for s in spans_of(history)] == [s.to_json() for s in spans_of(history)]


def test_the_callers_trace_is_continued() -> None:
    root = spans_of(a_life(a_request(traceparent=f"00-{TRACE}-{PARENT}-01")))[-1]
    assert f"{root.context.trace_id:032x}" == TRACE
    assert f"{root.parent.span_id:016x}" == PARENT
    assert root.parent.is_remote


def test_a_broken_traceparent_starts_a_trace_of_its_own() -> None:
    plain = spans_of(a_life(a_request()))[-1]
    root = spans_of(a_life(a_request(traceparent=f"00-{'0' * 32}-{PARENT}-01")))[-1]
    assert root.context == plain.context
    assert root.parent is None


def test_a_trace_that_its_caller_does_not_sample_is_not_exported() -> None:
    spans = spans_of(a_life(a_request(traceparent=f"00-{TRACE}-{PARENT}-00")))
    assert {s.name for s in spans} == {"decide"}


def test_a_failure_names_its_type_on_the_root_and_on_the_run_that_broke() -> None:
    history = History().workers(1).submit(a_request()).decide(start("s1", Stage.ENCODE))
    history.of("r1", e.StageStarted("s1", Stage.ENCODE, 0, ("w0",)))
    history.of("r1", e.AttemptFailed(0, "out_of_memory", "no", retryable=False))
    spans = spans_of(history.of("r1", e.RequestFailed("out_of_memory", "given up")))
    for name in ("run encode", "generate_content t2i"):
        (span,) = named(spans, name)
        assert attributes(span)["error.type"] == "out_of_memory"
        assert span.status.status_code is StatusCode.ERROR


def test_a_lost_worker_ends_the_run_and_the_request_queues_again() -> None:
    history = History().workers(1).submit(a_request()).decide(start("s1", Stage.ENCODE), at_us=SECOND)
    history.of("r1", e.StageStarted("s1", Stage.ENCODE, 0, ("w0",)))
    history.add("worker/w0", e.WorkerLost("w0", 1, "killed"), at_us=2 * SECOND)
    spans = spans_of(history.of("r1", e.RequestCancelled(), at_us=3 * SECOND))
    assert attributes(named(spans, "run encode")[0])["error.type"] == "worker_lost"
    assert [seconds(s) for s in named(spans, "queued")] == [(0, 1), (2, 3)]
    root = spans[-1]
    assert attributes(root)["genserve.outcome"] == "cancelled"
    assert attributes(root)["genserve.attempts"] == 2
    assert root.status.status_code is StatusCode.UNSET


def test_a_refused_request_leaves_its_wait_and_its_root_in_the_callers_trace() -> None:
    spec = a_request(traceparent=f"00-{TRACE}-{PARENT}-01")
    history = History().of("r1", e.RequestSubmitted(spec, 2 * SECOND))
    wait, root = spans_of(history.of("r1", e.RequestFailed("refused", "no room"), at_us=2 * SECOND))
    assert (wait.name, seconds(wait), root.name, seconds(root)) == ("queued", (0, 2), "generate_content t2i", (0, 2))
    assert (f"{root.context.trace_id:032x}", attributes(root)["error.type"]) == (TRACE, "refused")


def test_an_admitted_request_has_queued_since_its_submission() -> None:
    history = History().workers(1).of("r1", e.RequestSubmitted(a_request(), 2 * SECOND))
    history.of("r1", e.RequestAdmitted(0.75), at_us=SECOND)
    history.decide(start("s1", Stage.DENOISE, steps=(0, 4)), at_us=2 * SECOND)
    history.of("r1", e.StageStarted("s1", Stage.DENOISE, 0, ("w0",)), at_us=3 * SECOND)
    (queued,) = named(spans_of(history), "queued")
    assert seconds(queued) == (0, 3)


def test_telemetry_thawed_while_a_verdict_is_open_goes_on_with_the_request() -> None:
    history = History().of("r1", e.RequestSubmitted(a_request(), 2 * SECOND))
    first = Translator()
    first.translate(history.log)
    exporter = InMemorySpanExporter()
    second = Translator(tracing=setup_tracing(exporter=exporter))
    second.thaw(history.state, first.freeze())
    history.of("r1", e.RequestFailed("refused", "no room"), at_us=2 * SECOND)
    second.translate(history.log[1:])
    assert [s.name for s in exporter.get_finished_spans()] == ["queued", "generate_content t2i"]
