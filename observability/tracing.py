"""Spans with ids and times given by the caller, over OTLP where the environment says so; not what the spans are about.

An id is a hash of a key, so that the same keys give the same trace however often it is exported. Nothing is sent
unless OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set; the SDK's other standard variables
(OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*, OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER=none) work too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["Attribute", "Span", "SpanContext", "Tracing", "continue_trace", "new_trace", "setup_tracing", "span_in"]

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Attribute = str | bool | int | float | Sequence[str]

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("genserve")
_propagator = TraceContextTextMapPropagator()


class Span(NamedTuple):
    """A finished span. Times are microseconds since the epoch; ``error`` is why it failed, "" if it did not."""

    name: str
    context: SpanContext
    start_us: int
    end_us: int
    parent: SpanContext | None = None
    attributes: Mapping[str, Attribute] = {}
    links: Sequence[SpanContext] = ()
    is_server: bool = False
    error: str = ""


class Tracing:
    """Hands finished spans to processors; with none it does nothing. Export happens on their own threads."""

    def __init__(self, processors: Sequence[SpanProcessor] = (), *, resource: Resource | None = None) -> None:
        self._processors = tuple(processors)
        self._resource = resource or Resource({SERVICE_NAME: "genserve"})

    @property
    def is_enabled(self) -> bool:
        """Whether anybody wants spans: building them for nobody costs time."""
        return bool(self._processors)

    def emit(self, span: Span) -> None:
        """Queue one span for export; spans of a trace that its caller did not sample go nowhere."""
        if not self._processors or not span.context.trace_flags.sampled:
            return
        readable = self._readable(span)
        for processor in self._processors:
            processor.on_end(readable)

    def close(self) -> None:
        """Export what is queued and stop."""
        for processor in self._processors:
            processor.shutdown()

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=self._resource,
            attributes=span.attributes,
            links=[Link(context) for context in span.links],
            kind=SpanKind.SERVER if span.is_server else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.start_us * 1000,
            end_time=max(span.start_us, span.end_us) * 1000,
            instrumentation_scope=_SCOPE,
        )


def setup_tracing(
    *,
    service_name: str = "genserve",
    exporter: SpanExporter | None = None,
    environ: Mapping[str, str] | None = None,
) -> Tracing:
    """Tracing as the environment asks for it; ``exporter`` (for tests and files) gets every span at once instead.

    An OTLP exporter reads the process's own environment for everything but the decision whether to exist.
    """
    resource = Resource.create({SERVICE_NAME: (environ or os.environ).get("OTEL_SERVICE_NAME", service_name)})
    if exporter is not None:
        return Tracing([SimpleSpanProcessor(exporter)], resource=resource)
    if not _wants_otlp(os.environ if environ is None else environ):
        return Tracing(resource=resource)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return Tracing([BatchSpanProcessor(OTLPSpanExporter())], resource=resource)


def _wants_otlp(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").lower() == "none":
        return False
    return any(environ.get(name) for name in ENDPOINTS)


def new_trace(key: str) -> SpanContext:
    """The first span of a trace of its own."""
    return SpanContext(_hash(f"trace/{key}", 16), _hash(f"span/{key}", 8), is_remote=False, trace_flags=_SAMPLED)


def continue_trace(traceparent: str, key: str) -> tuple[SpanContext, SpanContext | None]:
    """Our span in the caller's trace, and the caller's span; a trace of its own without a valid W3C ``traceparent``.

    The caller's sampling decision is kept.
    """
    caller = parse_traceparent(traceparent) if traceparent else None
    own = new_trace(key)
    if caller is None:
        return own, None
    return SpanContext(caller.trace_id, own.span_id, is_remote=False, trace_flags=caller.trace_flags), caller


def span_in(trace: SpanContext, key: str) -> SpanContext:
    """Another span of the same trace."""
    return SpanContext(trace.trace_id, _hash(f"span/{key}", 8), is_remote=False, trace_flags=trace.trace_flags)


def parse_traceparent(traceparent: str) -> SpanContext | None:
    """The caller's span, or None if the header is malformed (W3C Trace Context, version 00 and upwards)."""
    context = get_current_span(_propagator.extract({"traceparent": traceparent})).get_span_context()
    return context if context.is_valid else None


def _hash(key: str, size: int) -> int:
    """Never 0, which W3C reserves for "no id"."""
    return int.from_bytes(blake2b(key.encode(), digest_size=size).digest()) or 1
