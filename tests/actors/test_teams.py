"""A worker's part in groups, as the log sees it: who waits for whom before a beginning is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors.framework.local_runtime import LocalRuntime
from actors.framework.runtime import Runtime
from actors.outbox import Outbox
from actors.teams import Teams
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from tests.actors.cell import an_image
from tests.actors.listener import Listener
from tests.actors.virtual_time import run

ME, OTHER = "worker-0", "worker-1"
SOON_S = 1.0


class GroupRunner:
    """Forms and loses groups at once."""

    def join_world(self, me: str, world: p.World) -> None:
        pass

    def lose_peer(self, worker_id: str) -> None:
        pass


class Newcomer:
    """A worker that was never told the segment: it has come back in another one's name."""

    def __init__(self, runtime: Runtime) -> None:
        self._never = asyncio.Event()

    async def settled(self, segment_id: str) -> None:
        await self._never.wait()


def shared(*, leader: str, generation: int = 7) -> p.RunSegment:
    group = (leader, *({ME, OTHER} - {leader}))
    members = (p.Member(an_image("r1"), 0, "request-0"),)
    return p.RunSegment(1, "s1", Stage.DENOISE, "t2i", members, group, 0, 4, generation=generation)


def with_teams(test: Callable[[Teams, Outbox, Listener], Coroutine[Any, Any, None]]) -> None:
    """This worker's teams in generation 7 with another worker, and somebody who hears its reports."""

    async def main() -> None:
        runtime = LocalRuntime()
        await runtime.spawn("request-0", Listener)
        await runtime.spawn(OTHER, Newcomer)
        outbox = Outbox(runtime)
        teams = Teams(runtime, ME, outbox)
        teams.runner = GroupRunner()
        await teams.join(p.World(7, 1, (ME, OTHER)))
        await test(teams, outbox, runtime.actor("request-0"))

    run(main())


async def is_told_soon(outbox: Outbox, listener: Listener) -> bool:
    """Whether the beginning of another request's segment reaches its actor without waiting for anybody."""
    outbox.post("request-0", p.Began("r2", 0, "s2", Stage.ENCODE, (ME,), 1, 0))
    await asyncio.sleep(SOON_S)
    return bool(listener.deliveries)


@pytest.mark.parametrize("leader", [ME, OTHER])
def test_what_begins_behind_a_shared_segment_is_told_as_soon_as_the_other_member_is_lost(leader: str) -> None:
    async def test(teams: Teams, outbox: Outbox, listener: Listener) -> None:
        await teams.enter(shared(leader=leader))
        teams.leave(shared(leader=leader))
        assert not await is_told_soon(outbox, listener), "the other member has not told its part"
        await teams.lose(OTHER)
        await asyncio.sleep(SOON_S)
        assert listener.deliveries

    with_teams(test)


@pytest.mark.parametrize("leader", [ME, OTHER])
def test_nobody_waits_for_a_member_that_was_lost_before_the_segment_failed(leader: str) -> None:
    async def test(teams: Teams, outbox: Outbox, listener: Listener) -> None:
        await teams.lose(OTHER)
        await teams.enter(shared(leader=leader))
        teams.leave(shared(leader=leader))
        assert await is_told_soon(outbox, listener)

    with_teams(test)


def test_a_member_that_comes_back_in_a_new_generation_is_waited_for_again() -> None:
    async def test(teams: Teams, outbox: Outbox, listener: Listener) -> None:
        await teams.lose(OTHER)
        await teams.join(p.World(8, 1, (ME, OTHER)))
        await teams.enter(shared(leader=ME, generation=8))
        assert not await is_told_soon(outbox, listener)

    with_teams(test)
