"""Processes that take steps together: the word of one to the others, the batch, and a step watched to its end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from genserve.diffusion.accelerator import Place, is_accelerator, mark
from genserve.diffusion.process_groups import forget
from genserve.diffusion.wires import Wire
from genserve.errors import GenServeError

STEP_TIMEOUT_S = 20.0
"""How long one member waits for another inside a step; one that hangs costs its group that long."""
WATCH_S = 0.0002
"""How often a GPU is asked whether a shared step is done."""
MEETING_LIMIT_S = 600.0
"""How long members of a group wait for one that loads weights."""
ARRIVED = 0
"""A member's only word to its leader; leaders use other codes."""

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
        self,
        name: str,
        members: tuple[str, ...],
        me: str,
        *,
        tensors: Any,
        wires: dict[str, Wire],
        form_part: FormPart,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.members = members
        self.rank = members.index(me)
        self.tensors = tensors
        self._wires = wires
        self._form_part = form_part
        self._step_timeout_s = step_timeout_s
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

        Its process groups are aborted, not destroyed: that would wait for the member that is gone. They are aborted
        beside each other and nobody waits for it: on a GPU one may have to wait for the end of another.
        """
        self._lost.set()
        for wire in self._wires.values():
            wire.close()
        given_up = (self.tensors, *self._parts.values())
        self.tensors, self._parts = _Nothing(), {}
        for group in given_up:
            forget(group)
            threading.Thread(target=_abort, args=(group,), name="abort", daemon=True).start()

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
            if is_accelerator(buffer.device):
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

    def finish(self, place: Place) -> None:
        """Wait until the device has done the step that this member has asked of it.

        Raises GenServeError ``group_lost``. A GPU's collectives do not fail with a member: they wait for it, and once
        they are aborted they end as if they had succeeded. On a CPU they have ended, or failed, by now.
        """
        if not is_accelerator(place):
            return
        with self._unbroken():
            self._watch(mark(place))

    def _watch(self, is_done: Callable[[], bool]) -> None:
        until = time.monotonic() + self._step_timeout_s
        while not is_done():
            if self.is_lost or any(wire.is_cut for wire in self._wires.values()):
                raise RuntimeError("a member left in the middle of a step")
            if time.monotonic() > until:
                raise RuntimeError(f"a step has not ended within {self._step_timeout_s:g} s")
            time.sleep(WATCH_S)
        if self.is_lost:
            raise RuntimeError("the group was given up in the middle of a step")

    @contextlib.contextmanager
    def _unbroken(self) -> Iterator[None]:
        try:
            yield
        except torch.AcceleratorError:
            self.lose()
            raise
        except (RuntimeError, OSError) as error:
            raise self.broken(error) from error

    def broken(self, error: Exception) -> GenServeError:
        """Mark the group lost and say so with our code."""
        self.lose()
        return GenServeError("group_lost", f"group {self.name} of {', '.join(self.members)}: {error}")


def _abort(group: Any) -> None:
    with contextlib.suppress(RuntimeError):
        group.abort()
