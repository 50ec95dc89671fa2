"""A tiny OTLP/HTTP collector on a local port that keeps what arrives, decoded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


class Received(NamedTuple):
    """One span as a collector sees it; ids in hexadecimal, times in microseconds, "" for no parent."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_us: int
    end_us: int
    attributes: dict[str, Any]
    links: tuple[str, ...]
    """Span ids."""
    service: str


class Receiver:
    """Keeps every span that was sent to ``url``, in order of arrival."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.paths: set[str] = set()
        self.spans: list[Received] = []

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {a.key: _value(a.value) for a in resource.resource.attributes}["service.name"]
            self.spans += [_received(span, service) for scope in resource.scope_spans for span in scope.spans]

    def of(self, request_id: str) -> list[Received]:
        """A request's spans, its root last."""
        return [s for s in self.spans if s.attributes.get("genserve.request.id") == request_id]


@contextmanager
def otlp_receiver(port: int = 0) -> Iterator[Receiver]:
    """A collector that listens while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.take(self.path, decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()


def _received(span: Any, service: str) -> Received:
    return Received(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano // 1000,
        span.end_time_unix_nano // 1000,
        {a.key: _value(a.value) for a in span.attributes},
        tuple(link.span_id.hex() for link in span.links),
        service,
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(v) for v in value.array_value.values)
    return getattr(value, str(kind))
