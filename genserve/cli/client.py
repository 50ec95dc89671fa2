"""The server as commands see it: JSON in and out, failures as genserve.errors; not what commands print.

Imported by commands when they run, since httpx takes a while.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from genserve.errors import CallerError, GenServeError, RefusedByPolicy, Unavailable

FINAL_EVENTS = ("RequestCompleted", "RequestCancelled", "RequestFailed")
FINAL_STATUSES = ("completed", "cancelled", "failed")
RECONNECTS = 10
SILENCE_S = 60.0
"""Longer than a few of the server's heartbeats."""
CREATING = httpx.Timeout(30.0, read=660.0)
"""A create may wait for admission's verdict, for as long as a server can be told to take for it."""


class ServerEvent(NamedTuple):
    """One event of a request: its position in the log, its type and its fields."""

    position: int
    name: str
    data: dict[str, Any]


class Client:
    """A connection to one server; use it as a context manager."""

    def __init__(self, url: str, api_key: str = "", *, transport: httpx.BaseTransport | None = None) -> None:
        headers = {b"authorization": f"Bearer {api_key}".encode()} if api_key else {}
        if not _is_http(url):
            raise CallerError("invalid_url", f"{url!r} is no server address; write it like http://127.0.0.1:8000")
        self._http = httpx.Client(base_url=url, headers=headers, timeout=30.0, transport=transport)
        self.url = url

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int) -> dict[str, Any]:
        return self._json("GET", path, params=params)

    def post(self, path: str, body: dict[str, Any], *, key: str) -> dict[str, Any]:
        """A create; with its idempotency key it is safe to repeat after a lost connection."""
        return self._json("POST", path, json=body, headers={"idempotency-key": key}, timeout=CREATING)

    def delete(self, path: str) -> dict[str, Any]:
        return self._json("DELETE", path)

    def health(self) -> dict[str, Any]:
        """The health report, good or bad."""
        with self._reaching():
            reply = self._http.get("/health")
        if reply.status_code not in (200, 503):
            raise to_error(reply)
        return _object(reply)

    def download(self, path: str) -> bytes:
        with self._reaching():
            reply = self._http.get(path)
        if reply.status_code != 200:
            raise to_error(reply)
        return reply.content

    def submit_image(self, body: dict[str, Any], *, key: str) -> str:
        """The id of a new image request, as soon as it is recorded: its stream is opened and left."""
        fields = {**body, "stream": True}
        how: dict[str, Any] = {"json": fields, "headers": {"idempotency-key": key}, "timeout": CREATING}
        with self._reaching(), self._http.stream("POST", "/v1/images/generations", **how) as r:
            if r.status_code != 200:
                r.read()
                raise to_error(r)
            return r.headers["genserve-request-ids"].partition(",")[0]

    def follow(self, request_id: str, *, after: int = 0) -> Iterator[ServerEvent]:
        """The request's events until its end; a lost connection is resumed where it broke."""
        failures = 0
        while True:
            try:
                for event in self._events(request_id, after=after):
                    after, failures = event.position, 0
                    yield event
                    if event.name in FINAL_EVENTS:
                        return
                return
            except Unavailable:
                failures += 1
                if failures > RECONNECTS:
                    raise
                time.sleep(min(0.1 * 2**failures, 2.0))

    def wait(self, request_id: str) -> dict[str, Any]:
        """The request once it has ended, polled as often as the server says."""
        while True:
            with self._reaching():
                reply = self._http.get(request_path(request_id))
            if reply.status_code != 200:
                raise to_error(reply)
            found = _object(reply)
            if found["status"] in FINAL_STATUSES:
                return found
            time.sleep(int(_digits(reply.headers.get("openai-poll-after-ms", "1000"))) / 1000)

    def _events(self, request_id: str, *, after: int) -> Iterator[ServerEvent]:
        path = f"{request_path(request_id)}/events"
        timeout = httpx.Timeout(30.0, read=SILENCE_S)
        headers = {"last-event-id": str(after)}
        with self._reaching(), self._http.stream("GET", path, headers=headers, timeout=timeout) as reply:
            if reply.status_code == 204:
                return
            if reply.status_code != 200:
                reply.read()
                raise to_error(reply)
            yield from parse_events(reply.iter_lines())

    def _json(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        with self._reaching():
            reply = self._http.request(method, path, **how)
        if reply.status_code != 200:
            raise to_error(reply)
        return _object(reply)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            message = f"cannot reach {self.url} ({reason}); is 'genserve serve' running there? --url names another"
            raise Unavailable("server_unreachable", message) from error


def request_path(request_id: str) -> str:
    """Where a request is found, whatever somebody typed for its id."""
    return f"/v1/requests/{quote(request_id, safe='')}"


def parse_events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Server-sent events; one of type ``error`` is raised."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            data = json.loads(fields["data"])
            if fields.get("event") == "error":
                raise Unavailable(str(data["error"]["code"]), str(data["error"]["message"]))
            yield ServerEvent(int(fields.get("id", 0)), fields.get("event", ""), data)
        fields = {}


def to_error(reply: httpx.Response) -> GenServeError:
    """The server's envelope as the exception that it once was."""
    status = reply.status_code
    try:
        envelope = reply.json()["error"]
        code, message = str(envelope["code"]), str(envelope["message"])
    except (ValueError, KeyError, TypeError):
        code, message = "unexpected_reply", f"{reply.url} answered {status}; is it a GenServe server?"
    if status in (429, 503):
        return RefusedByPolicy(code, message, None, float(_digits(reply.headers.get("retry-after", "1"))))
    if status < 500:
        return CallerError(code, message)
    return GenServeError(code, message)


def _is_http(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


def _digits(text: str) -> str:
    return text if text.isdigit() else "1"


def _object(reply: httpx.Response) -> dict[str, Any]:
    try:
        value = reply.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise GenServeError("unexpected_reply", f"{reply.url} answered no JSON; is it a GenServe server?")
    return value
