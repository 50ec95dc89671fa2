"""A worker's line: in order, except that whoever waits for another worker lets others pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from actors.line import Line
from actors.relay import Ledger, Milestones
from genserve.domain.plan import Load, Unload
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from tests.actors.shop import EPOCH, Shop, a_member, a_segment, in_shop
from tests.actors.test_dispatch import a_dispatch, a_history, start
from tests.actors.virtual_time import run
from tests.builders import a_cluster, a_request

BOTH = ("worker-0", "worker-1")


def until(event: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        await event.wait()

    return wait


def taken(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(test())


async def names(line: Line, count: int) -> list[str]:
    chores = [await line.take() for _ in range(count)]
    return [chore.segment_id if isinstance(chore, p.RunSegment) else f"{chore.model}" for chore in chores]


def test_whoever_waits_for_another_worker_lets_others_pass_but_not_its_own_later_stages() -> None:
    async def test() -> None:
        line, encoded = Line(), asyncio.Event()
        line.put(a_segment("denoise"), until=until(encoded))
        line.put(a_segment("decode", stage=Stage.DECODE, after="denoise"))
        line.put(a_segment("other"))
        assert await names(line, 1) == ["other"]
        encoded.set()
        assert await names(line, 2) == ["denoise", "decode"]

    taken(test)


def test_segments_of_groups_do_not_pass_each_other() -> None:
    async def test() -> None:
        line, encoded = Line(), asyncio.Event()
        line.put(a_segment("first", group=BOTH), until=until(encoded))
        line.put(a_segment("second", group=BOTH))
        line.put(p.HoldStage(EPOCH, "load", Stage.DENOISE))
        assert await names(line, 1) == ["load"]
        encoded.set()
        assert await names(line, 2) == ["first", "second"]

    taken(test)


def test_what_waits_can_be_taken_out_with_what_comes_after_it() -> None:
    async def test() -> None:
        line = Line()
        line.put(a_segment("waits"), until=until(asyncio.Event()))
        line.put(a_segment("behind", after="waits"))
        line.put(a_segment("stays"))
        assert line.wanted() == {("t2i", Stage.DENOISE)}
        assert line.clear(only_waiting=True) == ["waits", "behind"]
        assert line.clear() == ["stays"]

    taken(test)


def test_a_milestone_is_told_before_and_after_it_is_reached() -> None:
    async def test() -> None:
        milestones = Milestones()
        early = asyncio.create_task(milestones.wait("s1"))
        await asyncio.sleep(0)
        milestones.reach("s1", p.Left(gone=("r1",)))
        assert await early == await milestones.wait("s1") == milestones.find("s1") == p.Left(gone=("r1",))
        never = asyncio.create_task(milestones.wait("s2"))
        await asyncio.sleep(0)
        milestones.give_up()
        assert await never is None

    taken(test)


def test_a_change_is_told_again_until_it_is_recorded() -> None:
    async def test() -> None:
        ledger, change = Ledger(), p.StageChange("t2i", Stage.DENOISE, True)
        number = ledger.add(change)
        assert await ledger.since(0) == await ledger.since(0) == ((number, change),)
        waiting = asyncio.create_task(ledger.recorded(number))
        asking = asyncio.create_task(ledger.since(number))
        await waiting
        second = ledger.add(change)
        assert await asking == ((second, change),)

    taken(test)


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────


async def apart(shop: Shop) -> list[p.RunSegment]:
    """Encode on worker-0, denoise on worker-1, decode on worker-0 again."""
    lives = {name: (await shop.hello(name)).incarnation for name in BOTH}
    encode = a_segment("s1", stage=Stage.ENCODE)
    denoise = a_segment("s2", group=("worker-1",), after="s1", after_on="worker-0", after_incarnation=lives["worker-0"])
    decode = a_segment("s3", stage=Stage.DECODE, after="s2", after_on="worker-1", after_incarnation=lives["worker-1"])
    return [encode, denoise, decode]


def test_stages_on_two_workers_run_in_order_whichever_worker_is_told_first() -> None:
    async def test(shop: Shop) -> None:
        encode, denoise, decode = await apart(shop)
        await shop.tell(denoise, "worker-1")
        await shop.tell(decode)
        await shop.tell(encode)
        await shop.listener.hear(p.Ended, 3)
        ended = [(r.segment_id, r.stage) for r in shop.listener.of(p.Ended)]
        assert ended == [("s1", Stage.ENCODE), ("s2", Stage.DENOISE), ("s3", Stage.DECODE)]
        alone = await Shop().open()
        for command in (replace(c, group=("worker-0",), after_on="") for c in (encode, denoise, decode)):
            await alone.finish(command)
        frames = [(await there.listener.hear(p.Decoded)).frames for there in (shop, alone)]
        assert (frames[0] == frames[1]).all()

    in_shop(test)


def test_a_request_that_leaves_on_one_worker_is_left_out_on_the_next() -> None:
    async def test(shop: Shop) -> None:
        encode, denoise, _ = await apart(shop)
        await shop.tell(denoise, "worker-1")
        await shop.tell(a_segment("s0", a_member("r0")))
        await shop.tell(encode)
        await shop.tell(p.Revise(EPOCH, "s1", drop=("r1",)))
        await shop.listener.hear(p.Dropped)
        await shop.finish(a_segment("s9", a_member("r9"), group=("worker-1",)), "worker-1")
        assert {began.segment_id for began in shop.listener.of(p.Began)} == {"s0", "s9"}

    in_shop(test)


def test_what_waits_for_a_worker_of_another_life_does_not_run_and_holds_nobody_up() -> None:
    async def test(shop: Shop) -> None:
        _, denoise, _ = await apart(shop)
        await shop.tell(replace(denoise, after_incarnation=denoise.after_incarnation - 1), "worker-1")
        await shop.finish(a_segment("s9", a_member("r9"), group=("worker-1",)), "worker-1")
        assert {began.segment_id for began in shop.listener.of(p.Began)} == {"s9"}

    in_shop(test)


def test_a_stage_is_dropped_and_loaded_on_command_and_the_scheduler_hears_of_both() -> None:
    async def test(shop: Shop) -> None:
        await shop.tell(p.HoldStage(EPOCH, "t2i", Stage.DENOISE, keep=False))
        changes = await shop.runtime.find("worker-0").ask("changes", 0)
        assert [(c.model, c.stage, c.is_loaded) for _, c in changes] == [("t2i", Stage.DENOISE, False)]
        last = asyncio.create_task(shop.finish(a_segment()))
        ((number, change),) = await shop.runtime.find("worker-0").ask("changes", changes[-1][0])
        assert (change.stage, change.is_loaded, change.memory_bytes) == (Stage.DENOISE, True, 10)
        assert not shop.listener.of(p.Began), "the load is recorded before the segment begins"
        asking = asyncio.create_task(shop.runtime.find("worker-0").ask("changes", number))
        assert isinstance(await last, p.Ended)
        asking.cancel()

    in_shop(test)


# ── dispatch ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stage_on_another_worker_is_told_whom_to_wait_for() -> None:
    history = a_cluster(2, requests=(a_request("r1"),)).decide(
        start("s1", "r1", Stage.ENCODE), start("s2", "r1", Stage.DENOISE, worker="w1", after="s1")
    )
    dispatch, wire = a_dispatch(history)
    dispatch.dispatch(history.log[-1])
    told = {command.segment_id: (command.after_on, command.after_incarnation) for _, command in wire.sent}
    assert told == {"s1": ("", 0), "s2": ("w0", history.state.workers["w0"].incarnation)}


def test_loads_and_unloads_of_a_plan_go_to_their_worker() -> None:
    history = a_history().decide(
        Load("w1", "t2i", Stage.DENOISE, "because"), Unload("w0", "t2i", Stage.DECODE, "because")
    )
    dispatch, wire = a_dispatch(history)
    dispatch.dispatch(history.log[-1])
    epoch = history.state.epoch
    assert wire.sent == [
        ("w1", p.HoldStage(epoch, "t2i", Stage.DENOISE, keep=True)),
        ("w0", p.HoldStage(epoch, "t2i", Stage.DECODE, keep=False)),
    ]
