"""Ids from keys, times from the caller, and nothing on the wire unless asked."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from observability.tracing import (
    ENDPOINTS,
    Span,
    Tracing,
    continue_trace,
    new_trace,
    parse_traceparent,
    setup_tracing,
    span_in,
)
from tests.observability.receiver import otlp_receiver

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def a_span(**changes: Any) -> Span:
    return Span("work", new_trace("r1"), 1_000, 2_000, **changes)


def test_equal_keys_give_equal_ids_and_others_differ() -> None:
    assert new_trace("r1") == new_trace("r1")
    assert new_trace("r1").trace_id != new_trace("r2").trace_id
    assert span_in(new_trace("r1"), "a").span_id != span_in(new_trace("r1"), "b").span_id


def test_ids_stay_what_they_are_from_version_to_version() -> None:
    context = new_trace("img_1")
    assert f"{context.trace_id:032x} {context.span_id:016x}" == "43bdb2ae916c7accb27d20b25237f1e7 bbb10832c03a00e3"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
    ],
)
def test_a_malformed_traceparent_is_no_parent(header: str) -> None:
    own, caller = continue_trace(header, "r1")
    assert caller is None
    assert own == new_trace("r1")


def test_a_future_version_of_traceparent_is_read_as_far_as_it_is_known() -> None:
    caller = parse_traceparent(f"01-{TRACE}-{PARENT}-01-more")
    assert caller is not None
    assert f"{caller.trace_id:032x}" == TRACE


def test_start_and_end_are_the_callers_and_never_backwards() -> None:
    exporter = InMemorySpanExporter()
    tracing = setup_tracing(exporter=exporter)
    tracing.emit(a_span())
    tracing.emit(Span("late", new_trace("r2"), 5_000, 4_000))
    first, second = exporter.get_finished_spans()
    assert (first.start_time, first.end_time) == (1_000_000, 2_000_000)
    assert (second.start_time, second.end_time) == (5_000_000, 5_000_000)


def test_what_we_build_by_hand_is_what_the_otlp_encoder_takes() -> None:
    exporter = InMemorySpanExporter()
    links = [new_trace("decision")]
    span = a_span(attributes={"genserve.workers": ("w0", "w1")}, links=links, error="out_of_memory")
    setup_tracing(exporter=exporter).emit(span)
    encoded = encode_spans(exporter.get_finished_spans()).resource_spans[0]
    names = {a.key: a.value.string_value for a in encoded.resource.attributes}
    assert names["service.name"] == "genserve"
    sent = encoded.scope_spans[0].spans[0]
    assert sent.trace_id == new_trace("r1").trace_id.to_bytes(16)
    assert sent.links[0].span_id == links[0].span_id.to_bytes(8)
    assert [v.string_value for v in sent.attributes[0].value.array_value.values] == ["w0", "w1"]
    assert sent.status.message == "out_of_memory"


def test_by_default_no_exporter_exists_and_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("a connection was opened"))
    threads = threading.active_count()
    tracing = setup_tracing()
    tracing.emit(a_span())
    tracing.close()
    assert not tracing.is_enabled
    assert threading.active_count() == threads


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_the_standard_switches_turn_it_off(off: dict[str, str]) -> None:
    assert not setup_tracing(environ={ENDPOINTS[0]: "http://localhost:1", **off}).is_enabled


def test_with_an_endpoint_in_the_environment_spans_arrive_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver() as collector:
        monkeypatch.setenv(ENDPOINTS[0], collector.url)
        tracing = setup_tracing()
        assert tracing.is_enabled
        tracing.emit(a_span(parent=new_trace("caller"), links=[new_trace("decision")]))
        tracing.close()
    (span,) = collector.spans
    assert collector.paths == {"/v1/traces"}
    assert (span.trace_id, span.span_id) == (f"{new_trace('r1').trace_id:032x}", f"{new_trace('r1').span_id:016x}")
    assert span.parent_id == f"{new_trace('caller').span_id:016x}"
    assert span.links == (f"{new_trace('decision').span_id:016x}",)
    assert (span.start_us, span.end_us, span.service) == (1_000, 2_000, "genserve")


def test_tracing_without_processors_does_nothing() -> None:
    Tracing().emit(a_span())
