"""The fleet tells the log who joins and who is lost, and workers what to do, through deaths, sickness and silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from actors.fleet import GREETING_S, Fleet
from actors.framework.local_runtime import LocalRuntime
from actors.framework.runtime import Ref, Runtime
from actors.link import PULSE_S, WorkerSlot
from genserve.domain import events as e
from genserve.domain.request import Stage as Stages
from genserve.scheduling import protocol as p
from tests.actors.virtual_time import run

SILENCE_S = 30.0
REVISE = p.Revise(1, "s1", stop=True)


class Puppet:
    """A worker that says what a test wants; ``strings`` outlive it."""

    def __init__(self, runtime: Runtime, name: str, strings: Strings) -> None:
        self.name = name
        self.strings = strings
        strings.lives += 1
        self.incarnation = strings.lives

    async def hello(self, epoch: int, lost: int) -> p.Hello:
        self.strings.greetings.append((epoch, lost))
        await self.strings.is_awake.wait()
        if self.strings.sickness:
            raise self.strings.sickness.pop()
        if lost == self.incarnation:
            self.strings.lives += 1
            self.incarnation = self.strings.lives
        return p.Hello(self.name, self.incarnation, "node-0", "cpu", 0, (), ())

    async def obey(self, commands: tuple[Any, ...]) -> tuple[p.Answer, ...]:
        await self.strings.is_free.wait()
        self.strings.commands += commands
        return tuple(self.strings.answer for _ in commands)

    async def attend(self, incarnation: int) -> None:
        if incarnation == self.incarnation:
            await asyncio.Event().wait()

    async def pulse(self) -> None:
        await self.strings.is_awake.wait()

    async def changes(self, recorded: int) -> tuple[tuple[int, p.StageChange], ...]:
        await asyncio.Event().wait()
        return ()

    async def forget(self, request_id: str) -> None:
        self.strings.forgotten.append(request_id)

    async def reporting(self) -> tuple[str, ...]:
        return (f"of {self.name}",)

    async def host_world(self) -> int:
        return 0

    async def join_world(self, world: object) -> None:
        """Alone in every world."""

    async def lose_peer(self, worker_id: str) -> None:
        """Nobody to miss."""


class Strings:
    def __init__(self) -> None:
        self.lives = 0
        self.greetings: list[tuple[int, int]] = []
        self.commands: list[Any] = []
        self.forgotten: list[str] = []
        self.answer = p.Answer()
        self.sickness: list[Exception] = []
        self.is_awake = asyncio.Event()
        self.is_awake.set()
        self.is_free = asyncio.Event()
        self.is_free.set()


class Stage:
    """A fleet of two puppets and what it tells the log."""

    def __init__(self) -> None:
        self.runtime = LocalRuntime()
        self.strings = {name: Strings() for name in ("worker-0", "worker-1")}
        self.facts: list[e.AnyEvent] = []
        self.losses = 0
        self.fleet = Fleet(
            tuple(WorkerSlot(name, self._starter(name)) for name in self.strings),
            record=self._record,
            silence_s=SILENCE_S,
            on_loss=self._note_loss,
        )

    def _starter(self, name: str) -> Callable[[], Coroutine[Any, Any, Ref]]:
        return lambda: self.runtime.spawn(name, Puppet, name, self.strings[name])

    async def _record(self, stream: str, event: e.AnyEvent) -> None:
        self.facts.append(event)

    def _note_loss(self) -> None:
        self.losses += 1

    def told(self, worker_id: str = "worker-0") -> list[tuple[str, int]]:
        """Comings and goings: (fact, incarnation)."""
        facts = [f for f in self.facts if isinstance(f, e.WorkerJoined | e.WorkerLost) and f.worker_id == worker_id]
        return [(type(fact).__name__, fact.incarnation) for fact in facts]


def on_stage(test: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        stage = Stage()
        await test(stage)
        stage.fleet.stop()

    run(main())


def test_workers_join_with_their_incarnation() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        assert stage.told() == [("WorkerJoined", 1)]
        assert stage.fleet.alive == ("worker-0", "worker-1")

    on_stage(test)


def test_a_worker_that_the_log_knows_is_adopted_silently() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {"worker-0": 1})
        assert stage.told("worker-0") == []

    on_stage(test)


def test_a_worker_that_restarted_unseen_joins_anew() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {"worker-0": -5})
        assert stage.told("worker-0") == [("WorkerJoined", 1)]

    on_stage(test)


def test_a_worker_of_an_earlier_cluster_is_lost() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {"worker-9": 4})
        assert stage.told("worker-9") == [("WorkerLost", 4)]

    on_stage(test)


def test_a_death_is_told_and_so_is_the_return() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        stage.runtime.crash("worker-0")
        await asyncio.sleep(1)
        assert stage.told() == [("WorkerJoined", 1), ("WorkerLost", 1), ("WorkerJoined", 2)]
        assert stage.losses == 1

    on_stage(test)


def test_a_worker_that_does_not_answer_does_not_keep_the_leader_from_leading() -> None:
    async def test(stage: Stage) -> None:
        stage.strings["worker-0"].is_awake.clear()
        began_s = asyncio.get_running_loop().time()
        await stage.fleet.start(1, {"worker-0": 1})
        assert asyncio.get_running_loop().time() - began_s == GREETING_S
        assert stage.told() == [("WorkerLost", 1)]
        assert stage.fleet.alive == ("worker-1",)

    on_stage(test)


def test_a_worker_that_was_given_up_starts_over_when_it_wakes() -> None:
    async def test(stage: Stage) -> None:
        stage.strings["worker-0"].is_awake.clear()
        await stage.fleet.start(1, {"worker-0": 1})
        stage.strings["worker-0"].is_awake.set()
        await asyncio.sleep(1)
        assert stage.told() == [("WorkerLost", 1), ("WorkerJoined", 2)]

    on_stage(test)


def test_a_worker_that_falls_silent_is_lost_in_bounded_time_and_starts_over_when_it_wakes() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        await asyncio.sleep(60)
        stage.strings["worker-0"].is_awake.clear()
        await asyncio.sleep(SILENCE_S + PULSE_S + 1)
        assert stage.told() == [("WorkerJoined", 1), ("WorkerLost", 1)]
        assert stage.losses == 1
        stage.strings["worker-0"].is_awake.set()
        await asyncio.sleep(1)
        assert stage.told()[2:] == [("WorkerJoined", 2)]
        assert stage.told("worker-1") == [("WorkerJoined", 1)]

    on_stage(test)


def test_a_worker_that_is_slow_to_answer_is_kept() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        stage.strings["worker-0"].is_awake.clear()
        await asyncio.sleep(SILENCE_S - 1)
        stage.strings["worker-0"].is_awake.set()
        await asyncio.sleep(2 * SILENCE_S)
        assert stage.told() == [("WorkerJoined", 1)]

    on_stage(test)


def test_a_worker_that_cannot_load_its_models_is_greeted_again() -> None:
    async def test(stage: Stage) -> None:
        stage.strings["worker-0"].sickness = [MemoryError("no room"), OSError("no file")]
        await stage.fleet.start(1, {})
        assert stage.fleet.alive == ("worker-0", "worker-1")

    on_stage(test)


def test_commands_arrive_in_order() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        commands = [p.Revise(1, f"s{i}") for i in range(5)]
        for command in commands:
            stage.fleet.tell("worker-0", command)
        await asyncio.sleep(1)
        assert stage.strings["worker-0"].commands == commands

    on_stage(test)


def test_a_refused_segment_is_a_fact_and_a_refused_revision_is_not() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        stage.strings["worker-0"].answer = p.Answer("stale_epoch", "too late")
        stage.fleet.tell("worker-0", REVISE)
        segment = p.RunSegment(1, "s7", Stages.ENCODE, "m", (), ("worker-0",), 0, 0)
        stage.fleet.tell("worker-0", segment)
        await asyncio.sleep(1)
        assert stage.facts[-1] == e.ActionRefused("s7", "worker-0", "stale_epoch", "too late")
        assert sum(isinstance(fact, e.ActionRefused) for fact in stage.facts) == 1

    on_stage(test)


def test_a_command_for_a_dead_worker_is_not_given_to_its_successor() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        stage.strings["worker-0"].is_free.clear()
        stage.fleet.tell("worker-0", REVISE)
        await asyncio.sleep(1)
        stage.runtime.crash("worker-0")
        stage.strings["worker-0"].is_free.set()
        await asyncio.sleep(1)
        assert stage.strings["worker-0"].commands == []

    on_stage(test)


def test_a_successor_that_has_not_been_greeted_refuses_nothing_for_good() -> None:
    """The news of the death is late."""

    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        strings = stage.strings["worker-0"]
        strings.answer = p.Answer(p.NOT_READY, "not greeted yet")
        stage.fleet.tell("worker-0", p.RunSegment(1, "s7", Stages.ENCODE, "m", (), ("worker-0",), 0, 0))
        await asyncio.sleep(0.05)
        strings.answer = p.Answer()
        await asyncio.sleep(1)
        assert stage.told() == [("WorkerJoined", 1), ("WorkerLost", 1), ("WorkerJoined", 2)]
        assert not any(isinstance(fact, e.ActionRefused) for fact in stage.facts)

    on_stage(test)


def test_a_worker_that_dies_before_it_is_attended_to_is_lost() -> None:
    """Its successor answers everything, and has heard of nothing."""

    async def test(stage: Stage) -> None:
        record = stage.fleet._record

        async def record_and_die(stream: str, event: e.AnyEvent) -> None:
            await record(stream, event)
            if event == e.WorkerJoined("worker-0", 1, "node-0", "cpu", 0, (), ()):
                stage.runtime.crash("worker-0")

        stage.fleet._record = record_and_die
        await stage.fleet.start(1, {})
        await asyncio.sleep(1)
        assert stage.told() == [("WorkerJoined", 1), ("WorkerLost", 1), ("WorkerJoined", 2)]

    on_stage(test)


def test_a_worker_can_be_told_something_in_answer_to_its_joining() -> None:
    async def test(stage: Stage) -> None:
        record = stage.fleet._record

        async def record_and_tell(stream: str, event: e.AnyEvent) -> None:
            await record(stream, event)
            if isinstance(event, e.WorkerJoined) and event.worker_id == "worker-0":
                stage.fleet.tell("worker-0", REVISE)

        stage.fleet._record = record_and_tell
        await stage.fleet.start(1, {})
        await asyncio.sleep(1)
        assert stage.strings["worker-0"].commands == [REVISE]

    on_stage(test)


def test_an_ended_request_is_forgotten_at_its_home_or_everywhere() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        stage.fleet.forget("r1", home="worker-1")
        stage.fleet.forget("r2")
        stage.fleet.forget("r3", home="worker-9")
        await asyncio.sleep(1)
        assert [s.forgotten for s in stage.strings.values()] == [["r2"], ["r1", "r2"]]

    on_stage(test)


def test_requests_with_reports_on_their_way_are_known() -> None:
    async def test(stage: Stage) -> None:
        await stage.fleet.start(1, {})
        assert await stage.fleet.reporting() == {"of worker-0", "of worker-1"}

    on_stage(test)
