"""What one worker gives to another over a connection of their own: it comes whole, and is nowhere lost on the way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from actors import delivery
from actors.delivery import Errand, Inbox
from actors.framework.local_runtime import LocalRuntime
from actors.register import Register
from actors.supply import Supply
from genserve.diffusion.wires import LOCALHOST, call
from genserve.scheduling import protocol as p
from genserve.scheduling.runner import Offer
from tests.actors.fake_runner import FakeRunner
from tests.actors.test_segments import a_member

NAME = "worker-1/x"
LIMIT_S = 10.0


def on_a_loop(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, LIMIT_S))


def a_giver(*request_ids: str) -> FakeRunner:
    runner = FakeRunner()
    runner.encode(tuple(a_member(request_id) for request_id in request_ids))
    return runner


async def an_errand(port: int, runner: FakeRunner, *request_ids: str, is_open: bool = False) -> Errand:
    wish = p.HandOver(tuple((r, 0) for r in request_ids), "s1", is_open=is_open, port=port, name=NAME)
    return Errand(wish, runner, await asyncio.to_thread(partial(call, port, NAME)))


async def whole(content: Future[p.Content]) -> p.Content:
    return await asyncio.wrap_future(content)


def test_what_is_given_comes_whole_and_aligned_and_is_given_up() -> None:
    async def test() -> None:
        inbox, giver = Inbox(), a_giver("r1", "r2", "r3")
        with inbox.expecting(NAME) as coming:
            errand = await an_errand(await inbox.open(), giver, "r1", "r2", "r3", "r4")
            held = giver.offer("r3", 0)
            answer = await asyncio.to_thread(errand.finish, p.Left(gone=("r2",)))
            left, contents = await coming
        assert left == p.Left(gone=("r2",))
        assert sorted(contents) == [0, 2], "the second has left, the fourth is not held"
        third = await whole(contents[2])
        assert held is not None
        assert bytes(third) == b"".join(held())
        assert np.frombuffer(third, dtype=np.uint8).ctypes.data % 64 == 0
        assert answer is None
        assert [giver.holds(r, 0) for r in ("r1", "r2", "r3")] == [False, True, False]
        await inbox.close()

    on_a_loop(test())


def test_an_open_segment_gets_only_those_who_stopped() -> None:
    async def test() -> None:
        inbox, giver = Inbox(), a_giver("r1", "r2")
        with inbox.expecting(NAME) as coming:
            errand = await an_errand(await inbox.open(), giver, "r1", "r2", is_open=True)
            assert await asyncio.to_thread(errand.send, p.Left(stopped=("r1",))) == ("r1",)
            assert await asyncio.to_thread(errand.finish, p.Left(stopped=("r1",))) is None
            _, contents = await coming
        assert list(contents) == [0]
        assert giver.holds("r2", 0)
        await inbox.close()

    on_a_loop(test())


def test_of_a_segment_that_will_not_run_nothing_is_given() -> None:
    async def test() -> None:
        inbox, giver = Inbox(), a_giver("r1")
        with inbox.expecting(NAME) as coming:
            errand = await an_errand(await inbox.open(), giver, "r1")
            await asyncio.to_thread(errand.finish, None)
            assert await coming == (None, {})
        assert giver.holds("r1", 0)
        await inbox.close()

    on_a_loop(test())


def test_what_nobody_expects_any_more_stays_where_it_is() -> None:
    async def test() -> None:
        inbox, giver = Inbox(), a_giver("r1")
        with inbox.expecting(NAME):
            errand = await an_errand(await inbox.open(), giver, "r1")
        assert await asyncio.to_thread(errand.finish, p.Left()) == p.HandedOver(p.Left())
        assert giver.holds("r1", 0)
        await inbox.close()

    on_a_loop(test())


class Halfway(FakeRunner):
    """Fails when it has to say what it holds."""

    def offer(self, request_id: str, attempt: int) -> Offer | None:
        def fail() -> tuple[p.Content, ...]:
            raise ValueError("no room")

        return fail if self.holds(request_id, attempt) else None


def test_a_giver_that_breaks_off_keeps_what_it_has_and_lets_the_taker_know() -> None:
    async def test() -> None:
        inbox, giver = Inbox(), Halfway()
        giver.encode((a_member("r1"),))
        with inbox.expecting(NAME) as coming:
            errand = await an_errand(await inbox.open(), giver, "r1")
            assert await asyncio.to_thread(errand.send, p.Left()) == ()
            assert await asyncio.to_thread(errand.finish, p.Left()) == p.HandedOver(p.Left())
            _, contents = await coming
        with pytest.raises(ConnectionResetError):
            await whole(contents[0])
        assert giver.holds("r1", 0)
        await inbox.close()

    on_a_loop(test())


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

    async def test() -> None:
        giver = a_giver("r1")
        with socket.create_server((LOCALHOST, 0)) as gone:
            port = gone.getsockname()[1]
        wish = p.HandOver((("r1", 0),), node=node, port=port, name=NAME)
        with ThreadPoolExecutor(1) as files:
            answer = await Supply(LocalRuntime(), "worker-0", files, None).give(wish, giver, Register())
        assert answer is not None
        assert list(answer.contents) == ["r1"]
        assert not giver.holds("r1", 0)

    on_a_loop(test())


def test_more_calls_than_can_be_meant_are_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MAX_CALLS", 1)

    async def test() -> None:
        inbox = Inbox()
        port = await inbox.open()
        with socket.create_connection((LOCALHOST, port)), socket.create_connection((LOCALHOST, port)) as second:
            second.settimeout(LIMIT_S)
            assert await asyncio.to_thread(second.recv, 1) == b""
            await inbox.close()

    on_a_loop(test())


@pytest.mark.parametrize("said", [b"\x05\x00wrong", b"\xff\xff", b"\x0a\x00" + NAME.encode() + b"\xff" * 40])
def test_a_stranger_gets_no_further_than_a_name_and_disturbs_nobody(said: bytes) -> None:
    async def test() -> None:
        inbox, giver = Inbox(), a_giver("r1")
        port = await inbox.open()
        with inbox.expecting("worker-1/y"), inbox.expecting(NAME) as coming:
            with socket.create_connection((LOCALHOST, port)) as stranger:
                await asyncio.to_thread(stranger.sendall, said)
            assert not coming.done()
            errand = await an_errand(port, giver, "r1")
            assert await asyncio.to_thread(errand.finish, p.Left()) is None
        await inbox.close()

    on_a_loop(test())
