"""Whatever happens, telemetry does not raise and agrees with the state that planners see."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from genserve.domain.cluster import ClusterState
from genserve.domain.events import Recorded
from genserve.domain.evolve import evolve
from genserve.domain.request import Status
from genserve.scheduling.telemetry import Translator
from observability.metrics import Metrics
from observability.tracing import setup_tracing
from tests.scheduling.chaos import Chaos


class Lines:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, object]]] = []

    def _say(self, event: str, **fields: object) -> None:
        self.said.append((event, fields))

    debug = info = warning = error = _say


def gauge(metrics: Metrics, name: str) -> float:
    return sum(s.value for family in metrics.registry.collect() for s in family.samples if s.name == name)


Wait = tuple[str, str, int, int]
WAITS = {Status.WAITING: "queued", Status.PAUSED: "paused"}


def waits(history: list[Recorded]) -> list[Wait]:
    """Every stretch that a request spent waiting, by the statuses of the state after each event."""
    state, open_since, found = ClusterState(), dict[str, tuple[str, int]](), list[Wait]()
    for recorded in history:
        state = evolve(state, recorded)
        for request_id in {*open_since, *state.requests}:
            request = state.requests.get(request_id)
            now = WAITS.get(request.status, "") if request else ""
            was, since_us = open_since.pop(request_id, ("", recorded.recorded_us))
            if was and was != now:
                found.append((request_id, was, since_us, recorded.recorded_us))
            if now:
                open_since[request_id] = (now, since_us if was == now else recorded.recorded_us)
    return sorted(found)


def gauges(metrics: Metrics) -> list[float]:
    found = (metrics.waiting, metrics.paused, metrics.running)
    return [sum(sample.value for family in one.collect() for sample in family.samples) for one in found]


def spans_of(history: list[Recorded]) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    Translator(tracing=setup_tracing(exporter=exporter)).translate(history)
    return [s for s in exporter.get_finished_spans() if s.name != "decide"]


def owner(span: ReadableSpan) -> str:
    return str((span.attributes or {})["genserve.request.id"])


def period(span: ReadableSpan) -> tuple[int, int]:
    return (span.start_time or 0) // 1000, (span.end_time or 0) // 1000


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1 << 32), planner=st.sampled_from(["fifo", "srtf", "edf"]))
def test_after_every_event_gauges_count_the_statuses_of_the_state(seed: int, planner: str) -> None:
    state, metrics = ClusterState(), Metrics()
    translator = Translator(metrics=metrics)
    for recorded in Chaos(seed, planner=planner).run(100):
        state = evolve(state, recorded)
        translator.translate([recorded])
        found = [r.status for r in state.requests.values()]
        running = found.count(Status.RUNNING) + found.count(Status.FINISHING)
        assert gauges(metrics) == [found.count(Status.WAITING), found.count(Status.PAUSED), running], recorded
        assert translator.live == len(found)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1 << 32), planner=st.sampled_from(["fifo", "srtf", "edf"]))
def test_a_request_is_queued_and_paused_in_its_trace_exactly_when_it_is_in_the_state(seed: int, planner: str) -> None:
    history = Chaos(seed, planner=planner).run(150)
    spans = spans_of(history)
    assert sorted((owner(s), s.name, *period(s)) for s in spans if s.name in ("queued", "paused")) == waits(history)
    for request_id in {owner(s) for s in spans}:
        parts = sorted(period(s) for s in spans if owner(s) == request_id and s.parent)
        assert all(end <= start for (_, end), (start, _) in pairwise(parts)), "a request does one thing at a time"


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_any_legal_log_is_told_without_an_error_and_gauges_end_at_the_truth(seed: int) -> None:
    chaos, metrics, exporter = Chaos(seed), Metrics(), InMemorySpanExporter()
    lines = Lines()
    history = chaos.run(200)
    Translator(log=lines, metrics=metrics, tracing=setup_tracing(exporter=exporter)).translate(history)
    assert gauge(metrics, "genserve_telemetry_errors_total") == 0
    assert len(lines.said) == len(history)
    live = [r.status for r in chaos.loop.state.requests.values()]
    assert gauge(metrics, "genserve_requests_waiting") == live.count(Status.WAITING)
    assert gauge(metrics, "genserve_requests_paused") == live.count(Status.PAUSED)
    assert gauge(metrics, "genserve_requests_running") == live.count(Status.RUNNING) + live.count(Status.FINISHING)
    ids = [span.context.span_id for span in exporter.get_finished_spans()]
    assert len(set(ids)) == len(ids), "two spans share an id"
    assert all(span.start_time <= span.end_time for span in exporter.get_finished_spans())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1 << 32), cut=st.integers(0, 300))
def test_a_restart_anywhere_goes_on_with_the_same_gauges_and_the_same_spans(seed: int, cut: int) -> None:
    history = Chaos(seed).run(150)
    whole, tail = InMemorySpanExporter(), InMemorySpanExporter()
    Translator(tracing=setup_tracing(exporter=whole)).translate(history)
    metrics = Metrics()
    restarted = Translator(metrics=metrics, tracing=setup_tracing(exporter=tail))
    restarted.warm(history[:cut])
    assert not tail.get_finished_spans()
    restarted.translate(history[cut:])
    told = [s.to_json() for s in tail.get_finished_spans()]
    everything = [s.to_json() for s in whole.get_finished_spans()]
    assert told == everything[len(everything) - len(told) :]
