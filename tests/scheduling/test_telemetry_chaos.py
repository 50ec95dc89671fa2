"""Whatever happens, telemetry does not raise and agrees with the state that planners see."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from genserve.domain.cluster import ClusterState, Request
from genserve.domain.evolve import evolve
from genserve.domain.request import Status
from genserve.scheduling.telemetry import Translator
from genserve.scheduling.telemetry.trail import Trail
from genserve.scheduling.telemetry.trails import Trails
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


def books(one: Trail | Request) -> tuple[object, ...]:
    return one.status, one.attempt, one.home, one.degree, one.pauses, one.regroups


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1 << 32), planner=st.sampled_from(["fifo", "srtf", "edf"]))
def test_trails_keep_the_same_books_as_evolve(seed: int, planner: str) -> None:
    state, trails = ClusterState(), Trails()
    for recorded in Chaos(seed, planner=planner).run(150):
        state = evolve(state, recorded)
        trails.watch(recorded)
        seen = {t.spec.request_id: (*books(t), set(t.segments)) for t in trails.live.values()}
        truth = {r.request_id: (*books(r), set(r.segments)) for r in state.requests.values()}
        assert seen == truth, recorded


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
