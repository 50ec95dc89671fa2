"""Reports reach their request actor in order and at least once, and never hold each other up for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from actors.framework.local_runtime import LocalRuntime
from actors.framework.runtime import UnreachableError
from actors.outbox import Outbox
from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from tests.actors.listener import Listener
from tests.actors.virtual_time import run


def began(request_id: str, segment_id: str = "s1") -> p.Began:
    return p.Began(request_id, 0, segment_id, Stage.DENOISE, ("worker-0",), 1, 0)


def stepped(request_id: str, step: int, segment_id: str = "s1") -> p.Stepped:
    return p.Stepped(request_id, 0, segment_id, step, step * 10, 1, 1)


def ended(request_id: str, segment_id: str = "s1") -> p.Ended:
    return p.Ended(request_id, 0, segment_id, Stage.DENOISE, 100)


def with_outbox(test: Callable[[Outbox, Listener], Coroutine[Any, Any, None]]) -> None:
    """An outbox and somebody who listens as ``request-0``."""

    async def main() -> None:
        runtime = LocalRuntime()
        await runtime.spawn("request-0", Listener)
        await test(Outbox(runtime), runtime.actor("request-0"))

    run(main())


def test_reports_of_one_request_arrive_in_order() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        reports = [began("r1"), stepped("r1", 1), stepped("r1", 2), ended("r1")]
        for report in reports:
            outbox.post("request-0", report)
        await listener.hear(p.Ended)
        assert listener.reports == reports

    with_outbox(test)


def test_reports_that_wait_travel_together() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        listener.gate.clear()
        outbox.post("request-0", began("r1"))
        await asyncio.sleep(1)
        for step in (1, 2, 3):
            outbox.post("request-0", stepped("r1", step))
        listener.gate.set()
        await listener.hear(p.Stepped, 3)
        assert [len(delivery) for delivery in listener.deliveries] == [1, 3]

    with_outbox(test)


def test_steps_and_ends_do_not_wait_for_a_checkpoint_to_be_written() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        listener.gates[p.Snapshot] = gate = asyncio.Event()
        for report in (began("r1"), stepped("r1", 1), p.Snapshot("r1", 0, "s1", 1, b""), stepped("r1", 2), ended("r1")):
            outbox.post("request-0", report)
        await listener.hear(p.Ended)
        assert listener.of(p.Snapshot) == []
        gate.set()
        await listener.hear(p.Snapshot)

    with_outbox(test)


def test_a_checkpoint_is_not_told_before_its_step() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        listener.errors = [UnreachableError("restarting")]
        for report in (stepped("r1", 1), p.Snapshot("r1", 0, "s1", 1, b"")):
            outbox.post("request-0", report)
        await listener.hear(p.Snapshot)
        assert [type(report) for report in listener.reports] == [p.Stepped, p.Snapshot]

    with_outbox(test)


def test_a_result_travels_alone_and_nobody_waits_for_it() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        listener.gates[p.Decoded] = gate = asyncio.Event()
        for report in (ended("r1"), p.Decoded("r1", 0, "s1", None), began("r2", "s2")):
            outbox.post("request-0", report)
        await listener.hear(p.Began)
        assert [type(report) for report in listener.reports] == [p.Ended, p.Began]
        gate.set()
        await listener.hear(p.Decoded)

    with_outbox(test)


def test_a_delivery_is_repeated_until_somebody_takes_it() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        listener.errors = [UnreachableError("restarting"), UnreachableError("restarting")]
        outbox.post("request-0", ended("r1"))
        assert await listener.hear(p.Ended) == ended("r1")

    with_outbox(test)


def test_a_request_that_nobody_submitted_is_not_told_for_ever() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        listener.errors = [GenServeError("request_not_found", "r1 was never submitted")]
        outbox.post("request-0", ended("r1"))
        await asyncio.sleep(10)
        assert outbox.requests() == ()

    with_outbox(test)


def test_a_refused_request_does_not_hold_up_the_next_one() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        listener.errors = [GenServeError("request_not_found", "r1 was never submitted")]
        outbox.post("request-0", ended("r1"))
        outbox.post("request-0", began("r2", "s2"))
        assert (await listener.hear(p.Began)).request_id == "r2"

    with_outbox(test)


def test_a_beginning_waits_until_the_end_before_it_is_told() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        listener.errors = [UnreachableError("restarting")]
        outbox.post("request-0", ended("r1"))
        outbox.post("request-0", began("r2", "s2"))
        await listener.hear(p.Began)
        assert listener.reports == [ended("r1"), began("r2", "s2")]

    with_outbox(test)


def test_progress_is_told_again_until_its_segment_ends() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        outbox.post("request-0", stepped("r1", 3))
        await listener.hear(p.Stepped)
        outbox.post("request-0", ended("r1"))
        await listener.hear(p.Ended)
        assert listener.deliveries[-1] == (stepped("r1", 3), ended("r1"))

    with_outbox(test)


def test_progress_of_an_ended_segment_is_not_told_again() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        for report in (stepped("r1", 3), ended("r1")):
            outbox.post("request-0", report)
        await listener.hear(p.Ended)
        outbox.post("request-0", began("r1", "s2"))
        await listener.hear(p.Began)
        assert listener.deliveries[-1] == (began("r1", "s2"),)

    with_outbox(test)


def test_segments_with_unacknowledged_reports_are_known() -> None:
    async def test(outbox: Outbox, listener: Listener) -> None:
        listener.gate.clear()
        outbox.post("request-0", began("r1", "s7"))
        await asyncio.sleep(1)
        assert (outbox.segments(), outbox.requests()) == (("s7",), ("r1",))
        listener.gate.set()
        await listener.hear(p.Began)
        await asyncio.sleep(1)
        assert (outbox.segments(), outbox.requests()) == ((), ())

    with_outbox(test)
