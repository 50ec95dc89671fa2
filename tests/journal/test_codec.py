"""Events as bytes and back, today's and yesterday's."""

from __future__ import annotations

import pickle

import pytest

from genserve.domain.events import EVENT_TYPES, CancelRequested, PlannerChanged, RequestPaused, StepsFinished
from genserve.errors import CallerError, InvariantBroken, Unavailable
from genserve.journal import codec
from genserve.journal.errors import (
    Fenced,
    IdempotencyConflict,
    InvalidAppend,
    JournalStopped,
    JournalUnavailable,
    LeaseHeld,
    UnknownEvent,
    VersionConflict,
)


def test_an_event_always_gives_the_same_compact_bytes() -> None:
    first = PlannerChanged("edf", "d", {"b": 1, "a": True})
    second = PlannerChanged("edf", "d", {"a": True, "b": 1})
    assert codec.encode(first) == codec.encode(second) == '{"name":"edf","digest":"d","parameters":{"a":true,"b":1}}'


def test_defaults_are_left_out_and_come_back() -> None:
    event = StepsFinished("s", 0, 1, 2, 50)
    assert codec.encode(event) == '{"segment_id":"s","attempt":0,"from_step":1,"to_step":2,"took_us":50}'
    assert codec.decode("StepsFinished", 1, codec.encode(event)) == event


@pytest.mark.parametrize(("name", "version"), [("NoSuchThing", 1), ("StepsFinished", 2)])
def test_events_from_the_future_are_refused_by_name_and_version(name: str, version: int) -> None:
    with pytest.raises(UnknownEvent, match=f"'{name}' of schema version {version}"):
        codec.decode(name, version, "{}")


def test_an_old_event_is_upcast_one_version_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class RequestPausedNow(RequestPaused, frozen=True):
        schema_version = 3

    monkeypatch.setitem(EVENT_TYPES, "RequestPaused", RequestPausedNow)
    monkeypatch.setitem(codec.UPCASTS, ("RequestPaused", 1), lambda old: {**old, "home": old["worker"]})
    monkeypatch.setitem(codec.UPCASTS, ("RequestPaused", 2), lambda old: {**old, "home": old["home"].lower()})
    payload = '{"segment_id":"s","attempt":0,"step":3,"worker":"W0"}'
    assert codec.decode("RequestPaused", 1, payload) == RequestPausedNow("s", 0, 3, "w0")
    monkeypatch.delitem(codec.UPCASTS, ("RequestPaused", 2))
    with pytest.raises(UnknownEvent):
        codec.decode("RequestPaused", 1, payload)


def test_text_that_is_no_unicode_is_the_callers_fault() -> None:
    with pytest.raises(InvalidAppend, match="cannot be encoded"):
        codec.encode(CancelRequested("\ud800"))


ERRORS = [
    (VersionConflict("request/r1", 3, 4), CallerError, 409),
    (InvalidAppend("payload_too_large", "no"), CallerError, 400),
    (IdempotencyConflict("k"), CallerError, 409),
    (JournalUnavailable("gone"), Unavailable, 503),
    (LeaseHeld("writer", "a", 2.5), Unavailable, 503),
    (Fenced("writer", 1, 2), Unavailable, 503),
    (UnknownEvent("X", 9), InvariantBroken, 500),
    (JournalStopped("why"), InvariantBroken, 503),
]


@pytest.mark.parametrize(("error", "family", "status"), ERRORS)
def test_errors_survive_pickling_and_belong_to_a_family(error: CallerError, family: type, status: int) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, family)
    assert (copy.code, str(copy), copy.http_status) == (error.code, str(error), status)
    assert copy.param == error.param
    assert vars(copy) == vars(error)
