"""Processes that can form groups, and the groups: contiguous, aligned blocks made at start, others at first use.

A world has a generation: its members are told a roster and the address of a store that one of them hosts. Groups of
one generation know nothing of another's, and each is formed by its own members only (see process_groups), so that a new
generation is formed beside running work.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from genserve.diffusion.process_groups import dist, forget, form
from genserve.diffusion.wires import LOCALHOST, Exchange, Wire, call
from genserve.errors import GenServeError

FORMING_S = 20.0
STEP_TIMEOUT_S = 20.0
"""How long one member waits for another inside a step; one that hangs costs its group that long."""
MEETING_S = 0.002
MEETING_LIMIT_S = 600.0
"""How long members of a group wait for one that loads weights."""
ARRIVED = 0
"""A member's only word to its leader; leaders use other codes."""


def host_store(timeout_s: float = FORMING_S) -> Any:
    """A store for one generation, on a port of its own (``store.port``); it lives as long as the object does."""
    return dist.TCPStore(
        LOCALHOST, 0, None, is_master=True, timeout=datetime.timedelta(seconds=timeout_s), wait_for_workers=False
    )


def aligned_groups(roster: Sequence[str]) -> list[tuple[str, ...]]:
    """All contiguous, aligned power-of-two blocks, narrow ones first: 2N - 1 of them where N is a power of two."""
    blocks = []
    width = 1
    while width <= len(roster):
        blocks += [tuple(roster[i : i + width]) for i in range(0, len(roster) - width + 1, width)]
        width *= 2
    return blocks


FormPart = Callable[[str, tuple[int, ...]], Any]


class _Nothing:
    """What is left of a group that was given up."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the group was given up")


class Group:
    """Two or more processes that take steps together. ``tensors`` carries activations, wires the leader's word.

    Waiting for a word has no limit of its own and ends when the group is lost; a collective of a step ends with the
    group's timeout, or at once when a member's process dies.
    """

    def __init__(
        self, name: str, members: tuple[str, ...], me: str, *, tensors: Any, wires: dict[str, Wire], form_part: FormPart
    ) -> None:
        self.name = name
        self.members = members
        self.rank = members.index(me)
        self.tensors = tensors
        self._wires = wires
        self._form_part = form_part
        self._parts: dict[tuple[int, ...], Any] = {}
        self._meetings = 0
        self._arrivals: Counter[str] = Counter()
        self._lost = threading.Event()

    @property
    def degree(self) -> int:
        return len(self.members)

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    def lose(self) -> None:
        """Give the group up for good, which closes its connections and thereby lets the others go too.

        It is aborted, not destroyed: that would wait for the member that is gone.
        """
        self._lost.set()
        for wire in self._wires.values():
            wire.close()
        for group in (self.tensors, *self._parts.values()):
            forget(group)
            with contextlib.suppress(RuntimeError):
                group.abort()
        self.tensors = _Nothing()
        self._parts.clear()

    def part(self, ranks: tuple[int, ...]) -> Any:
        """The process group for tensors among those ranks, this one included; formed by them at first use."""
        if ranks not in self._parts:
            self._parts[ranks] = self._form_part(f"{self.name}/part/{'+'.join(map(str, ranks))}", ranks)
        return self._parts[ranks]

    def say(self, code: int, payload: bytes = b"") -> None:
        """The leader's word to all others; raises GenServeError ``group_lost``."""
        with self._unbroken():
            for wire in self._wires.values():
                wire.send(code, payload)

    def hear(self, leader: str, *, limit_s: float | None = None) -> tuple[int, bytes]:
        """The leader's next word; raises GenServeError ``group_lost``, also where none comes within ``limit_s``."""
        with self._unbroken():
            while (word := self._wires[leader].receive(limit_s))[0] == ARRIVED:
                self._arrivals[leader] += 1
            return word

    def share(self, leader: str, buffer: torch.Tensor) -> None:
        """Send the leader's buffer, or fill it with the leader's, in place; raises GenServeError ``group_lost``."""
        with self._unbroken():
            if buffer.device.type != "cpu":
                self.tensors.broadcast(buffer, self.members.index(leader)).wait()
            elif leader in self._wires:
                self._wires[leader].fill(buffer.numpy().data)
            else:
                for wire in self._wires.values():
                    wire.send_buffer(buffer.numpy().data)

    def arrive(self, leader: str) -> None:
        """Let the leader know that this member is here; the leader itself says that it will ``meet`` them.

        Nobody waits; raises GenServeError ``group_lost``.
        """
        with self._unbroken():
            if leader in self._wires:
                self._wires[leader].send(ARRIVED)
            else:
                self._meetings += 1

    def meet(self) -> None:
        """Wait until every other member has arrived as often as this one led: it may still be loading weights, for
        which a step would not wait.

        Raises GenServeError ``group_lost``, also where one does not come within ``MEETING_LIMIT_S``.
        """
        with self._unbroken():
            for member, wire in self._wires.items():
                while self._arrivals[member] < self._meetings:
                    wire.receive(MEETING_LIMIT_S)
                    self._arrivals[member] += 1

    @contextlib.contextmanager
    def _unbroken(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError) as error:
            raise self.broken(error) from error

    def broken(self, error: Exception) -> GenServeError:
        """Mark the group lost and say so with our code."""
        self.lose()
        return GenServeError("group_lost", f"group {self.name} of {', '.join(self.members)}: {error}")


class World:
    """One process's view of one generation: its roster, in rank order, and the groups that this process is in.

    Raises GenServeError ``group_not_formed`` when the others don't come within ``timeout_s``. A step whose members
    don't hear of each other for ``step_timeout_s`` gives its group up.
    """

    def __init__(
        self,
        me: str,
        roster: Sequence[str],
        *,
        store_port: int,
        generation: int = 0,
        device: str = "cpu",
        timeout_s: float = FORMING_S,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        self.me = me
        self.roster = tuple(roster)
        self.generation = generation
        self._device = torch.device(device)
        self._timeout = datetime.timedelta(seconds=timeout_s)
        self._step_timeout = datetime.timedelta(seconds=step_timeout_s)
        self._store = dist.TCPStore(
            LOCALHOST, store_port, None, is_master=False, timeout=self._timeout, wait_for_workers=False
        )
        self._exchange = Exchange()
        self._groups: dict[tuple[str, ...], Group] = {}
        self._gone: set[str] = set()
        self._formed: Counter[tuple[str, ...]] = Counter()
        self._locks: defaultdict[tuple[str, ...], threading.Lock] = defaultdict(threading.Lock)

    def form(self) -> None:
        """Create every aligned group of two or more that this process is in, in the order that all others use."""
        for members in aligned_groups(self.roster):
            if self.me in members and len(members) > 1:
                self.group(members)

    def group(self, members: Iterable[str]) -> Group:
        """The group of those members, in any order.

        One that is not aligned, or was given up while all its members live, is formed now, by its members.
        Raises GenServeError ``group_lost`` where a member is gone, ``group_not_formed`` where one does not come.
        """
        ordered = tuple(name for name in self.roster if name in {*members})
        missing = sorted({*members} - {*ordered} | self._gone & {*members})
        if missing:
            raise GenServeError("group_lost", f"{', '.join(missing)} is not in generation {self.generation}")
        with self._locks[ordered]:
            group = self._groups.get(ordered)
            if group is None or group.is_lost:
                group = self._groups[ordered] = self._form(ordered)
        return group

    def lose(self, member: str) -> None:
        """A process is gone: its groups are given up, whoever waits in one is let go."""
        self._gone.add(member)
        for members, group in [*self._groups.items()]:
            if member in members:
                group.lose()

    def close(self) -> None:
        """Give all groups up; no more are formed."""
        self._exchange.close()
        for group in self._groups.values():
            group.lose()

    def _form(self, members: tuple[str, ...]) -> Group:
        name = f"{self.generation}/{'+'.join(members)}#{self._formed[members]}"
        rank, size = members.index(self.me), len(members)
        try:
            ports = self._meet(name, members)
            tensors = self._tensors(f"{name}/tensors", rank, size)
            wires = self._connect(name, ports)
        except (RuntimeError, OSError) as error:
            raise GenServeError("group_not_formed", f"group {name}: {error}") from error
        self._formed[members] += 1
        return Group(
            name,
            members,
            self.me,
            tensors=tensors,
            wires=wires,
            form_part=lambda part, ranks: self._tensors(part, ranks.index(rank), len(ranks)),
        )

    def _tensors(self, name: str, rank: int, size: int) -> Any:
        return form(self._store, name, rank, size, device=self._device, timeout=self._step_timeout)

    def _connect(self, name: str, ports: dict[str, int]) -> dict[str, Wire]:
        """A wire to every other member: the later one in the roster calls."""
        mine = list(ports).index(self.me)
        wires = {}
        for rank, (other, port) in enumerate(ports.items()):
            if rank < mine:
                wires[other] = call(port, f"{name}/{self.me}")
            elif rank > mine:
                wires[other] = self._exchange.answer(f"{name}/{other}", self._timeout.total_seconds())
        return wires

    def _meet(self, name: str, members: tuple[str, ...]) -> dict[str, int]:
        """Wait until every member wants this group: connecting to one that never comes cannot be called off.

        Their exchanges' ports, in the order of the members.
        """
        keys = [f"{name}/{member}" for member in members]
        mine = f"{name}/{self.me}"
        self._store.set(mine, str(self._exchange.port))
        until = time.monotonic() + self._timeout.total_seconds()
        while not self._store.check(keys):
            gone = sorted(self._gone & {*members})
            if gone or time.monotonic() > until:
                self._store.delete_key(mine)
                raise RuntimeError(f"{', '.join(gone)} is gone" if gone else "not everybody came in time")
            time.sleep(MEETING_S)
        return {member: int(self._store.get(key)) for member, key in zip(members, keys, strict=True)}
