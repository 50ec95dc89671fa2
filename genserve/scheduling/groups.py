"""Segments that several workers run together: the leader drives, the others do what it says, at the same boundary.

The leader runs the segment exactly as it would alone; this module puts a word to the others before each of its moves.
Followers get the batch when they join, take the same steps, and drop it when they leave: the state's home is the
leader. Everything here is synchronous and runs on the step thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol

import msgspec

from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.runner import Runner
from genserve.scheduling.segments import Assignment, Post, run_segment
from observability.logging import get_logger

JOIN, STEP, SHED, LEAVE = 1, 2, 3, 4
"""The leader's words: here is the batch; one step; without these requests; that was all."""

SILENCE_S = 600.0
"""How long a leader that has begun may say nothing; before that it may be busy with an earlier segment."""


class Channel(Protocol):
    """The members' way to talk; raises GenServeError ``group_lost`` as soon as one of them is gone."""

    def say(self, code: int, payload: bytes = b"") -> None:
        """The leader's word to all others."""

    def hear(self, leader: str, *, limit_s: float | None = None) -> tuple[int, bytes]:
        """The leader's next word; it may be so long in coming, None: for ever."""

    def share(self, leader: str, buffer: Any) -> None:
        """The leader's buffer of tensors to all others, into buffers of theirs."""

    def arrive(self, leader: str) -> None:
        """Let the leader know that this member is ready for a batch; as the leader, that there will be one. Nobody
        waits.
        """

    def meet(self) -> None:
        """The leader waits until all others have arrived: a step would not wait for who loads weights."""

    def lose(self) -> None:
        """Give the group up for good; may be called from any thread, and lets waiting members go."""


class GroupRunner(Runner, Protocol):
    """A Runner that can share steps with others of its kind. A world is formed beside running work."""

    def host_world(self) -> int:
        """The port of a new store, at which the members of one generation meet."""

    def join_world(self, me: str, world: p.World) -> None:
        """Form this worker's groups of that generation; raises GenServeError ``group_not_formed``."""

    def lose_peer(self, worker_id: str) -> None:
        """Give up every group with that worker."""

    def find_group(self, generation: int, members: tuple[str, ...]) -> Channel:
        """Raises GenServeError ``group_lost`` or ``group_not_formed``."""

    def spread(self, batch: Any, group: Channel) -> None:
        """The batch's next steps are taken by the group; raises GenServeError ``unsupported_degree``."""

    def pack(self, batch: Any) -> Parcel:
        """The batch for those who join."""

    def expect(self, members: tuple[p.Member, ...], header: bytes) -> tuple[Any, tuple[Any, ...]]:
        """The batch of that header, of which nothing is held; to be stepped once the buffers have been filled."""


class Parcel(Protocol):
    """A batch on its way: a header, and buffers of tensors that follow it."""

    @property
    def header(self) -> bytes: ...

    @property
    def buffers(self) -> tuple[Any, ...]: ...


class JoinWord(msgspec.Struct, frozen=True):
    """Who is in the batch, in the order of its rows, and the header of the parcel whose buffers come next.

    A follower that hung may be segments behind: what it is in is not the leader's ``segment_id`` then.
    """

    segment_id: str
    request_ids: tuple[str, ...]
    header: bytes


class _Leader:
    """The leader's runner, with a word to the others ahead of every move. Otherwise the runner it wraps."""

    def __init__(self, runner: GroupRunner, channel: Channel, command: p.RunSegment) -> None:
        self._runner = runner
        self._channel = channel
        self._me = command.leader
        self._segment_id = command.segment_id
        self._has_arrived = False
        self._has_left = False
        self.has_failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_runner"], name)

    def begin(self, members: tuple[p.Member, ...]) -> Any:
        self._arrive()
        batch = self._runner.begin(members)
        self._runner.spread(batch, self._channel)
        parcel = self._runner.pack(batch)
        self._try(self._channel.meet)
        word = JoinWord(self._segment_id, tuple(member.request_id for member in members), parcel.header)
        self._say(JOIN, msgspec.msgpack.encode(word), parcel.buffers)
        return batch

    def step(self, batch: Any) -> None:
        """A step that fails here fails everywhere: the others may be in the middle of an exchange."""
        self._say(STEP)
        try:
            self._runner.step(batch)
        except Exception:
            self._channel.lose()
            self._has_left = self.has_failed = True
            raise

    def without(self, batch: Any, request_ids: tuple[str, ...]) -> Any:
        self._say(SHED, msgspec.msgpack.encode(request_ids))
        return self._runner.without(batch, request_ids)

    def end(self, batch: Any) -> None:
        self.leave()
        self._runner.end(batch)

    def leave(self) -> None:
        """Let the others go, once; a group that is lost has nobody to be let go."""
        if not self._has_left:
            with contextlib.suppress(GenServeError):
                self._arrive()
                self._say(LEAVE)
        self._has_left = True

    def _arrive(self) -> None:
        """Once, as the others do: they have arrived, or will."""
        if not self._has_arrived:
            self._has_arrived = True
            self._try(self._channel.arrive, self._me)

    def _say(self, code: int, payload: bytes = b"", buffers: tuple[Any, ...] = ()) -> None:
        self._try(self._channel.say, code, payload)
        for buffer in buffers:
            self._try(self._channel.share, self._me, buffer)

    def _try(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except GenServeError:
            self._has_left = self.has_failed = True
            raise


class Membership:
    """A worker's part in one group segment; ``give_up`` comes from the event loop when another member refuses."""

    def __init__(self, me: str, command: p.RunSegment) -> None:
        self._me = me
        self._command = command
        self._channel: Channel | None = None
        self._is_given_up = False
        self.has_failed = False
        self._lock = threading.Lock()

    @property
    def leads(self) -> bool:
        return self._command.leader == self._me

    def give_up(self) -> None:
        """Nobody will come, or not everybody: whoever waits in this segment is let go."""
        with self._lock:
            self._is_given_up = True
            if self._channel is not None:
                self._channel.lose()

    def run(self, runner: GroupRunner, assignment: Assignment, post: Post, files: Executor) -> None:
        """This worker's part, to the end; the leader reports as it would alone, followers report nothing.

        Nothing is raised: what a follower meets, its leader hears of as a lost group.
        """
        if self.leads:
            self._lead(runner, assignment, post, files)
        elif not self._is_given_up:
            try:
                self._follow(runner, self._open(runner), assignment)
            except Exception as error:
                _note_failure(self._command, error)

    def _lead(self, runner: GroupRunner, assignment: Assignment, post: Post, files: Executor) -> None:
        try:
            leader: Any = _Leader(runner, self._open(runner), self._command)
        except GenServeError as error:
            leader = _Absent(runner, error)
        run_segment(leader, assignment, post, files)
        leader.leave()
        self.has_failed = leader.has_failed

    def _open(self, runner: GroupRunner) -> Channel:
        channel = runner.find_group(self._command.generation, self._command.group)
        with self._lock:
            self._channel = channel
            if self._is_given_up:
                channel.lose()
        return channel

    def _follow(self, runner: GroupRunner, channel: Channel, assignment: Assignment) -> None:
        moves = _Follower(runner, channel, self._command)
        try:
            runner.keep_for(assignment.wanted)
            runner.hold(self._command.model, self._command.stage)
            channel.arrive(self._command.leader)
            word = channel.hear(self._command.leader)
            while moves.obey(*word):
                word = channel.hear(self._command.leader, limit_s=SILENCE_S)
        except Exception:
            channel.lose()
            raise


def _note_failure(command: p.RunSegment, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"
    get_logger("genserve.worker").warning("left a shared segment", segment_id=command.segment_id, reason=reason)


class _Follower:
    def __init__(self, runner: GroupRunner, channel: Channel, command: p.RunSegment) -> None:
        self._runner = runner
        self._channel = channel
        self._leader = command.leader
        self._segment_id = command.segment_id
        self._members = {member.request_id: member for member in command.members}
        self._batch: Any = None

    def obey(self, code: int, payload: bytes) -> bool:
        """One word; whether there will be more."""
        if code == JOIN:
            self._batch = self._joined(msgspec.msgpack.decode(payload, type=JoinWord))
            self._runner.spread(self._batch, self._channel)
        elif code == STEP:
            self._runner.step(self._batch)
        elif code == SHED:
            gone = msgspec.msgpack.decode(payload, type=tuple[str, ...])
            self._batch = self._runner.without(self._batch, gone)
        return code != LEAVE

    def _joined(self, word: JoinWord) -> Any:
        if word.segment_id != self._segment_id:
            raise GenServeError("group_lost", f"the leader is in {word.segment_id}, this member in {self._segment_id}")
        members = tuple(self._members[request_id] for request_id in word.request_ids)
        batch, buffers = self._runner.expect(members, word.header)
        for buffer in buffers:
            self._channel.share(self._leader, buffer)
        return batch


class _Absent:
    """A runner whose group did not come about: it can do everything but begin."""

    has_failed = True

    def __init__(self, runner: Runner, error: GenServeError) -> None:
        self._runner = runner
        self._error = error
        self.leave: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_runner"], name)

    def begin(self, members: tuple[p.Member, ...]) -> Any:
        raise self._error
