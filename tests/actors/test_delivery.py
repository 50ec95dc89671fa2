"""What one worker gives to another over a connection of their own: it comes whole, and is nowhere lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from actors import delivery
from actors.delivery import LEFT, Delivery, Errand, Inbox, Receive
from actors.framework.local_runtime import LocalRuntime
from actors.register import Register
from actors.supply import Supply
from genserve.diffusion.wires import HEAD, LOCALHOST, Fill, call
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.runner import Offer, Ready
from tests.actors.fake_runner import FakeRunner
from tests.actors.test_segments import a_member

NAME = "worker-1/x"
LIMIT_S = 10.0


def on_a_loop(test: Callable[[Inbox], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        inbox = Inbox()
        try:
            await test(inbox)
        finally:
            await inbox.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))


def a_giver(*request_ids: str) -> FakeRunner:
    runner = FakeRunner()
    runner.encode(tuple(a_member(request_id) for request_id in request_ids))
    return runner


async def an_errand(port: int, runner: FakeRunner, *request_ids: str, is_open: bool = False) -> Errand:
    wish = p.HandOver(tuple((r, 0) for r in request_ids), "s1", is_open=is_open, port=port, name=NAME)
    return Errand(wish, runner, await asyncio.to_thread(partial(call, port, NAME)))


def into(runner: FakeRunner, *request_ids: str) -> Receive:
    return lambda number, *come: runner.receive(a_member(request_ids[number]), *come)


async def give(errand: Errand, left: p.Left | None, coming: asyncio.Future[Delivery]) -> tuple[Delivery, Any]:
    """All that is due, taken in; what was delivered and the giver's answer."""
    answer = asyncio.create_task(asyncio.to_thread(errand.finish, left))
    delivery = await coming
    with contextlib.suppress(OSError, GenServeError):
        await asyncio.to_thread(delivery.take_in)
    return delivery, await answer


def test_what_is_given_comes_whole_and_is_given_up() -> None:
    async def test(inbox: Inbox) -> None:
        giver, taker = a_giver("r1", "r2", "r3"), FakeRunner()
        with inbox.expecting(NAME, into(taker, "r1", "r2", "r3", "r4")) as coming:
            errand = await an_errand(inbox.open(), giver, "r1", "r2", "r3", "r4")
            held = giver.offer("r3", 0)
            delivery, answer = await give(errand, p.Left(gone=("r2",)), coming)
        assert (delivery.left, delivery.numbers) == (p.Left(gone=("r2",)), (0, 2)), (
            "the second has left, the fourth is not held"
        )
        delivery.hold(2)
        assert [taker.holds(r, 0) for r in ("r1", "r3")] == [False, True]
        again = taker.offer("r3", 0)
        assert held is not None
        assert again is not None
        assert again() == held()
        assert answer is None
        assert [giver.holds(r, 0) for r in ("r1", "r2", "r3")] == [False, True, False]

    on_a_loop(test)


def test_an_open_segment_gets_only_those_who_stopped() -> None:
    async def test(inbox: Inbox) -> None:
        giver, left = a_giver("r1", "r2"), p.Left(stopped=("r1",))
        with inbox.expecting(NAME, into(FakeRunner(), "r1", "r2")) as coming:
            errand = await an_errand(inbox.open(), giver, "r1", "r2", is_open=True)
            assert await asyncio.to_thread(errand.send, left) == ("r1",)
            delivery, answer = await give(errand, left, coming)
        assert (delivery.left, delivery.numbers) == (left, (0,))
        assert answer is None
        assert giver.holds("r2", 0)

    on_a_loop(test)


def test_whoever_needs_one_gets_it_while_the_others_are_still_to_come() -> None:
    async def test(inbox: Inbox) -> None:
        giver, taker = a_giver("r1", "r2"), FakeRunner()
        with inbox.expecting(NAME, into(taker, "r1", "r2")) as coming:
            errand = await an_errand(inbox.open(), giver, "r1", "r2")
            await asyncio.to_thread(errand.send, p.Left())
            delivery = await coming
        await asyncio.to_thread(delivery.hold, 0)
        assert [taker.holds(r, 0) for r in ("r1", "r2")] == [True, False]
        assert giver.holds("r1", 0), "until everything has come"
        await asyncio.to_thread(delivery.take_in)
        assert await asyncio.to_thread(errand.finish, p.Left()) is None
        assert not giver.holds("r1", 0)

    on_a_loop(test)


def test_who_gives_has_room_again_as_soon_as_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "SETTLE_S", LIMIT_S)

    async def test(inbox: Inbox) -> None:
        giver = a_giver("r1")
        with inbox.expecting(NAME, into(FakeRunner(), "r1")) as coming:
            errand = await an_errand(inbox.open(), giver, "r1")
            sent = asyncio.create_task(asyncio.to_thread(errand.send, p.Left()))
            await asyncio.to_thread((await coming).take_in)
        assert await sent == ("r1",)
        assert not giver.holds("r1", 0)

    on_a_loop(test)


def test_a_taker_that_dies_takes_nothing_over() -> None:
    async def test(inbox: Inbox) -> None:
        giver = a_giver("r1")
        with inbox.expecting(NAME, into(FakeRunner(), "r1")):
            errand = await an_errand(inbox.open(), giver, "r1")
        await inbox.close()
        assert await asyncio.to_thread(errand.send, p.Left()) == ()
        assert giver.holds("r1", 0)

    on_a_loop(test)


def test_of_a_segment_that_will_not_run_nothing_is_given() -> None:
    async def test(inbox: Inbox) -> None:
        giver = a_giver("r1")
        with inbox.expecting(NAME, into(FakeRunner(), "r1")) as coming:
            errand = await an_errand(inbox.open(), giver, "r1")
            delivery, answer = await give(errand, None, coming)
        assert (delivery.left, delivery.numbers) == (None, ())
        assert answer is None
        assert giver.holds("r1", 0)

    on_a_loop(test)


def test_what_nobody_expects_any_more_stays_where_it_is() -> None:
    async def test(inbox: Inbox) -> None:
        giver = a_giver("r1")
        with inbox.expecting(NAME, into(FakeRunner(), "r1")):
            errand = await an_errand(inbox.open(), giver, "r1")
        assert await asyncio.to_thread(errand.finish, p.Left()) == p.HandedOver(p.Left())
        assert giver.holds("r1", 0)

    on_a_loop(test)


class Halfway(FakeRunner):
    """Fails when it has to say what it holds."""

    def offer(self, request_id: str, attempt: int) -> Offer | None:
        def fail() -> tuple[p.Content, ...]:
            raise ValueError("no room")

        return fail if self.holds(request_id, attempt) else None


def test_a_giver_that_breaks_off_keeps_what_it_has_and_lets_the_taker_know() -> None:
    async def test(inbox: Inbox) -> None:
        giver = Halfway()
        giver.encode((a_member("r1"),))
        with inbox.expecting(NAME, into(FakeRunner(), "r1")) as coming:
            errand = await an_errand(inbox.open(), giver, "r1")
            assert await asyncio.to_thread(errand.send, p.Left()) == ()
            delivery, answer = await give(errand, p.Left(), coming)
        assert answer == p.HandedOver(p.Left())
        with pytest.raises(OSError, match=r"closed|reset"):
            await asyncio.to_thread(delivery.hold, 0)
        assert giver.holds("r1", 0)

    on_a_loop(test)


def test_without_a_wire_it_is_in_the_answer() -> None:
    giver = a_giver("r1", "r2")
    wish = p.HandOver((("r1", 0), ("r2", 0)), "s1")
    held = giver.offer("r1", 0)
    assert held is not None
    expected = b"".join(held())
    answer = Errand(wish, giver, None).finish(p.Left(stopped=("r2",)))
    assert answer == p.HandedOver(p.Left(stopped=("r2",)), {"r1": expected})
    assert [giver.holds(r, 0) for r in ("r1", "r2")] == [False, True]


@pytest.mark.parametrize("node", ["another machine", LocalRuntime.node])
def test_who_cannot_be_called_gets_it_in_the_answer(node: str) -> None:
    """For want of a way there: the wish comes from another machine, or nobody listens at its port."""

    async def test(inbox: Inbox) -> None:
        giver = a_giver("r1")
        with socket.create_server((LOCALHOST, 0)) as gone:
            port = gone.getsockname()[1]
        wish = p.HandOver((("r1", 0),), node=node, port=port, name=NAME)
        with ThreadPoolExecutor(1) as files:
            answer = await Supply(LocalRuntime(), "worker-0", files, None).give(wish, giver, Register())
        assert answer is not None
        assert list(answer.contents) == ["r1"]
        assert not giver.holds("r1", 0)

    on_a_loop(test)


def test_what_cannot_be_taken_in_stays_where_it_is() -> None:
    async def test(inbox: Inbox) -> None:
        giver = a_giver("r1", "r2")

        def refuse(number: int, first: p.Content, rest: Fill) -> Ready:
            raise GenServeError("checkpoint_mismatch", "of another model")

        with inbox.expecting(NAME, refuse) as coming:
            errand = await an_errand(inbox.open(), giver, "r1", "r2")
            answer = asyncio.create_task(asyncio.to_thread(errand.finish, p.Left()))
            delivery = await coming
            with pytest.raises(GenServeError, match="of another model"):
                await asyncio.to_thread(delivery.hold, 0)
        with pytest.raises(OSError, match=r"closed|reset"):
            await asyncio.to_thread(delivery.hold, 1)
        assert await answer == p.HandedOver(p.Left())
        assert giver.holds("r1", 0)

    on_a_loop(test)


def test_more_calls_than_can_be_meant_are_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MAX_CALLS", 1)

    async def test(inbox: Inbox) -> None:
        port = inbox.open()
        with socket.create_connection((LOCALHOST, port)), socket.create_connection((LOCALHOST, port)) as second:
            second.settimeout(LIMIT_S)
            assert await asyncio.to_thread(second.recv, 1) == b""

    on_a_loop(test)


@pytest.mark.parametrize("said", [b"\x05\x00wrong", b"\xff\xff", b"\x0a\x00" + NAME.encode() + b"\xff" * 40])
def test_a_stranger_gets_no_further_than_a_name_and_disturbs_nobody(said: bytes) -> None:
    async def test(inbox: Inbox) -> None:
        port = inbox.open()
        taker = into(FakeRunner(), "r1")
        with inbox.expecting("worker-1/y", taker), inbox.expecting(NAME, taker) as coming:
            with socket.create_connection((LOCALHOST, port)) as stranger:
                await asyncio.to_thread(stranger.sendall, said)
            assert not coming.done()
            errand = await an_errand(port, a_giver("r1"), "r1")
            _, answer = await give(errand, p.Left(), coming)
        assert answer is None

    on_a_loop(test)


@pytest.mark.parametrize("said", [HEAD.pack(LEFT, -1), HEAD.pack(LEFT, 1 << 40), HEAD.pack(LEFT, 2) + b"\xff\xff"])
def test_words_that_make_no_sense_are_the_end_of_a_delivery(said: bytes) -> None:
    async def test(inbox: Inbox) -> None:
        with inbox.expecting(NAME, into(FakeRunner(), "r1")) as coming:
            wire = await asyncio.to_thread(call, inbox.open(), NAME)
            await asyncio.to_thread(wire.send_buffer, memoryview(said))
            with pytest.raises(OSError, match=r"closed|reset"):
                await asyncio.to_thread(wire.receive, LIMIT_S)
            assert not coming.done()

    on_a_loop(test)
