"""A worker's part in one group segment on its step thread: whatever happens to a follower, it comes back from it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from actors.framework.local_runtime import LocalRuntime
from actors.framework.runtime import Runtime
from actors.outbox import Outbox
from actors.teams import Teams
from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.groups import JOIN, JoinWord, Membership
from genserve.scheduling.segments import Assignment, Revision
from tests.actors.cell import an_image
from tests.actors.fake_runner import FakeRunner
from tests.actors.test_segments import Inline
from tests.actors.virtual_time import run

LEADER, FOLLOWER = "worker-0", "worker-1"
COMMAND = p.RunSegment(
    1, "s2", Stage.DENOISE, "t2i", (p.Member(an_image("r1"), 0, "request-0"),), (LEADER, FOLLOWER), 0, 4
)


class Channel:
    """Has one word to be heard, and remembers whether it was lost."""

    def __init__(self, word: JoinWord) -> None:
        self._word = word
        self.is_lost = False

    def arrive(self, leader: str) -> None:
        pass

    def hear(self, leader: str, *, limit_s: float | None = None) -> tuple[int, bytes]:
        return JOIN, msgspec.msgpack.encode(self._word)

    def lose(self) -> None:
        self.is_lost = True


class GroupRunner(FakeRunner):
    """Finds that channel, or no group where there is none."""

    def __init__(self, channel: Channel | None = None) -> None:
        super().__init__()
        self._channel = channel
        self.searches = 0
        self.unpacked = 0

    def join_world(self, me: str, world: p.World) -> None:
        pass

    def find_group(self, generation: int, members: tuple[str, ...]) -> Any:
        self.searches += 1
        if self._channel is None:
            raise GenServeError("group_not_formed", "not everybody came in time")
        return self._channel

    def expect(self, members: tuple[p.Member, ...], header: bytes) -> Any:
        self.unpacked += 1
        raise KeyError("what nobody thought of")


def take_part(membership: Membership, runner: GroupRunner) -> list[p.AnyReport]:
    reports: list[p.AnyReport] = []
    membership.run(runner, Assignment(COMMAND, Revision(), {}), reports.append, Inline())  # type: ignore[arg-type]
    return reports


@pytest.mark.parametrize("word", [JoinWord("s2", ("r1",), b""), JoinWord("s2", ("stranger",), b"")])
def test_a_follower_that_breaks_gives_its_group_up_and_returns(word: JoinWord) -> None:
    channel = Channel(word)
    assert take_part(Membership(FOLLOWER, COMMAND), GroupRunner(channel)) == []
    assert channel.is_lost


def test_a_follower_takes_no_batch_of_another_segment_for_its_own() -> None:
    channel = Channel(JoinWord("s3", ("r1",), b""))
    runner = GroupRunner(channel)
    take_part(Membership(FOLLOWER, COMMAND), runner)
    assert channel.is_lost
    assert runner.unpacked == 0


def test_a_follower_of_a_segment_that_was_given_up_does_not_look_for_its_group() -> None:
    membership, runner = Membership(FOLLOWER, COMMAND), GroupRunner()
    membership.give_up()
    take_part(membership, runner)
    assert runner.searches == 0


class Follower:
    """Another member, that hears what is given up."""

    def __init__(self, runtime: Runtime) -> None:
        self.given_up: list[str] = []

    async def give_up(self, segment_id: str) -> None:
        self.given_up.append(segment_id)

    async def settled(self, segment_id: str) -> None:
        pass


def test_a_leader_whose_group_did_not_come_about_lets_the_others_pass_the_segment_over() -> None:
    async def main() -> None:
        runtime = LocalRuntime()
        await runtime.spawn(FOLLOWER, Follower)
        teams = Teams(runtime, LEADER, Outbox(runtime))
        teams.runner = GroupRunner()
        await teams.join(p.World(0, 1, (LEADER, FOLLOWER)))
        reports: list[p.AnyReport] = []
        part = await teams.enter(COMMAND)
        part(teams.runner, Assignment(COMMAND, Revision(), {}), reports.append, Inline())
        assert [type(report) for report in reports] == [p.Failed]
        teams.leave(COMMAND)
        await asyncio.sleep(1)
        assert runtime.actor(FOLLOWER).given_up == ["s2"]

    run(main())
