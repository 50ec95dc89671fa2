"""Who follows one request is woken by that request, and never misses it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.news import KEPT, Listener, News, Teller
from genserve.domain import events as e


def a_batch(first: int, streams: list[str]) -> list[e.Recorded]:
    return [e.Recorded(first + i, s, 1, 0, e.CancelRequested()) for i, s in enumerate(streams)]


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4), max_size=12), st.lists(st.booleans()))
def test_whatever_grew_is_heard_by_whoever_asks_again_from_where_it_stood(
    batches: list[list[str]], asks: list[bool]
) -> None:
    teller, listener, told = Teller(), Listener(), 0
    for index, streams in enumerate(batches):
        since, grown = listener.position, set(streams)
        teller.note(a_batch(told + 1, streams))
        told += len(streams)
        if index >= len(asks) or asks[index]:
            listener.hear(teller.since(listener.position))
            assert listener.position == told
            assert all(listener.has_grown(s, since) for s in grown)


def test_others_facts_wake_nobody() -> None:
    teller, listener = Teller(), Listener()
    teller.note(a_batch(1, ["request/mine"]))
    listener.hear(teller.since(0))
    teller.note(a_batch(2, ["request/other", "scheduler"]))
    listener.hear(teller.since(1))
    assert listener.has_grown("request/other", 1)
    assert not listener.has_grown("request/mine", 1)


def test_whoever_was_away_for_too_long_looks_for_itself() -> None:
    teller = Teller()
    teller.note(a_batch(50, ["request/other"]))
    assert teller.since(40) == News(50, None)
    assert teller.since(49) == News(50, frozenset({"request/other"}))


def test_a_listener_that_forgets_streams_takes_them_for_grown() -> None:
    listener = Listener()
    for position in range(1, KEPT + 3):
        listener.hear(News(position, frozenset({f"request/{position}"})))
    assert listener.has_grown("request/1", 1)
    assert not listener.has_grown("request/1", 5)
    assert listener.has_grown(f"request/{KEPT + 2}", 5)
