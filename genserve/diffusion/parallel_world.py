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
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from genserve.diffusion.accelerator import give_back
from genserve.diffusion.parallel_group import STEP_TIMEOUT_S, Group
from genserve.diffusion.process_groups import dist, form
from genserve.diffusion.wires import LOCALHOST, Exchange, Wire, call
from genserve.errors import GenServeError

FORMING_S = 20.0
MEETING_S = 0.002


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
        give_back(self._device)
        try:
            ports, attempt = self._meet(name, members)
            tensors = self._tensors(f"{name}/tensors/{attempt}", rank, size)
            wires = self._connect(name, ports)
        except (RuntimeError, OSError) as error:
            with contextlib.suppress(RuntimeError):
                self._store.delete_key(f"{name}/{self.me}")
            raise GenServeError("group_not_formed", f"group {name}: {error}") from error
        self._formed[members] += 1
        return Group(
            name,
            members,
            self.me,
            tensors=tensors,
            wires=wires,
            form_part=lambda part, ranks: self._tensors(part, ranks.index(rank), len(ranks)),
            step_timeout_s=self._step_timeout.total_seconds(),
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

    def _meet(self, name: str, members: tuple[str, ...]) -> tuple[dict[str, int], str]:
        """Wait until every member wants this group: connecting to one that never comes cannot be called off.

        Their exchanges' ports, in the order of the members, and the first one's name for this attempt: what an earlier
        one left in the store is not to be met again.
        """
        keys = [f"{name}/{member}" for member in members]
        mine = f"{name}/{self.me}"
        self._store.set(mine, f"{self._exchange.port} {uuid.uuid4().hex}")
        until = time.monotonic() + self._timeout.total_seconds()
        while not self._store.check(keys):
            gone = sorted(self._gone & {*members})
            if gone or time.monotonic() > until:
                raise RuntimeError(f"{', '.join(gone)} is gone" if gone else "not everybody came in time")
            time.sleep(MEETING_S)
        said = [self._store.get(key).decode().split() for key in keys]
        return {member: int(port) for member, (port, _) in zip(members, said, strict=True)}, said[0][1]
