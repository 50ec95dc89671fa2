"""Wires between the processes of a node: what is sent comes in order and whole, and nobody waits for the dead."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from genserve.diffusion import wires
from genserve.diffusion.wires import Exchange, Wire, call

LIMIT_S = 10.0


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    exchange = Exchange()
    yield exchange
    exchange.close()


@pytest.fixture
def ends(exchange: Exchange) -> tuple[Wire, Wire]:
    """The caller's end and the other one."""
    caller = call(exchange.port, "g/one")
    return caller, exchange.answer("g/one", LIMIT_S)


def test_words_and_buffers_come_in_order_and_whole(ends: tuple[Wire, Wire]) -> None:
    here, there = ends
    large = bytes(range(256)) * 20_000
    into = bytearray(len(large))

    def send() -> None:
        here.send(7, memoryview(b"header"))
        here.send_buffer(memoryview(large))
        here.send(8)

    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(send)
        assert there.receive(LIMIT_S) == (7, b"header")
        there.fill(memoryview(into))
        assert there.receive(LIMIT_S) == (8, b"")
        sending.result()
    assert into == large


def test_calls_are_answered_by_name_in_whatever_order_they_come(exchange: Exchange) -> None:
    callers = {name: call(exchange.port, name) for name in ("b", "a")}
    for name in ("a", "b"):
        callers[name].send(1, name.encode())
        assert exchange.answer(name, LIMIT_S).receive(LIMIT_S) == (1, name.encode())


def test_who_is_not_called_says_so_within_its_time(exchange: Exchange) -> None:
    with pytest.raises(TimeoutError, match="nobody has called as g/nobody"):
        exchange.answer("g/nobody", 0.05)


@pytest.mark.parametrize("closes", [0, 1])
def test_closing_either_end_wakes_whoever_waits_at_either(ends: tuple[Wire, Wire], closes: int) -> None:
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(end.receive) for end in ends]
        ends[closes].close()
        for end in waiting:
            with pytest.raises(OSError, match="closed"):
                end.result(LIMIT_S)


def test_a_word_that_does_not_come_is_waited_for_no_longer_than_asked(ends: tuple[Wire, Wire]) -> None:
    with pytest.raises(TimeoutError):
        ends[0].receive(0.05)


def test_who_leaves_everything_unread_holds_a_sender_up_for_its_patience_only(exchange: Exchange) -> None:
    caller = call(exchange.port, "hangs", send_s=0.1)
    hangs = exchange.answer("hangs", LIMIT_S)
    with pytest.raises(TimeoutError):
        caller.send(1, bytes(100_000_000))
    del hangs


def test_a_closed_exchange_lets_whoever_waits_go(exchange: Exchange) -> None:
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(exchange.answer, "g/late", LIMIT_S)
        exchange.close()
        with pytest.raises(ConnectionAbortedError):
            waiting.result(LIMIT_S)
    with pytest.raises(OSError, match="refused"):
        call(exchange.port, "g/later")


def test_a_stranger_that_says_no_name_does_not_keep_others_from_calling(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "CALL_S", 0.05)
    with socket.create_connection((wires.LOCALHOST, exchange.port)):
        caller = call(exchange.port, "g/known")
        caller.send(3)
        assert exchange.answer("g/known", LIMIT_S).receive(LIMIT_S) == (3, b"")


def test_calls_that_nobody_answers_do_not_grow_without_bound(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "MAX_UNANSWERED", 2)
    callers = [call(exchange.port, f"g/{number}") for number in range(3)]
    exchange.answer("g/2", LIMIT_S)
    with pytest.raises(TimeoutError):
        exchange.answer("g/0", 0.05)
    with pytest.raises(OSError, match=r"closed|reset"):
        callers[0].receive(LIMIT_S)


def test_an_exchange_that_is_closed_leaves_no_thread_behind() -> None:
    before = threading.enumerate()
    exchange = Exchange()
    (thread,) = set(threading.enumerate()) - set(before)
    exchange.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
