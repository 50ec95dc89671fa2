"""Which GPUs: groups inside one node, aligned blocks where there are any; not how many.

Any set inside a node is a legal group (GenServe and TetriServe create all of them at start-up); aligned power-of-two
blocks come first because they are the ones every cluster creates in advance, and because keeping them whole keeps
wide groups possible.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from genserve.domain.placement import holders, is_placed, places
from genserve.domain.request import Stage
from genserve.planners.view import View


class Places:
    """Free GPUs of one decision, taken group by group."""

    def __init__(self, view: View, *, aligned_only: bool = False) -> None:
        self._nodes = view.nodes
        self._node_of = view.node_of
        self._aligned_only = aligned_only
        self._state = view.state
        self.free: dict[str, list[str]] = {node: list(ids) for node, ids in view.free.items()}
        self.count = view.free_count
        self._ending = view.ending
        self._stops = view.stops

    def room(self, node: str) -> int:
        return len(self.free.get(node, ()))

    def node_of(self, worker_id: str) -> str:
        return self._node_of.get(worker_id, "")

    def widest(self) -> int:
        """The largest power of two that fits into one node now."""
        most = max((len(w) for w in self.free.values()), default=0)
        return 1 << (most.bit_length() - 1) if most else 0

    def try_take(self, degree: int, *, home: str = "", node: str = "", model: str = "") -> tuple[str, ...] | None:
        """A group of ``degree`` led by ``home`` where it is free; else in its node; else in the fullest node that fits.

        ``node`` restricts the search, and ``model`` to workers that hold its denoiser, else to those that are to, if
        any are. None when no node has the room.
        """
        own = node or self.node_of(home)
        for able in self._able(model):
            fits = [n for n, w in able.items() if len(w) >= degree and (not node or n == node)]
            for name in sorted(fits, key=lambda n: (n != own, len(self.free[n]), n)):
                group = self._choose(able[name], self._nodes[name], degree, home)
                if group is not None:
                    self._remove(name, group)
                    return group
        return None

    def last_on(self, group: Iterable[str]) -> str:
        """The segment behind which a group's next one is queued, "" where all of it is idle."""
        return next((self._ending[w] for w in group if w in self._ending), "")

    def reserve(self, node: str, count: int) -> None:
        """Keep so many GPUs of a node idle: someone grows into them at its next boundary."""
        self.free[node] = self.free[node][: len(self.free[node]) - count]
        self.count -= count

    def _remove(self, node: str, group: Collection[str]) -> None:
        self.free[node] = [w for w in self.free[node] if w not in group]
        self.count -= len(group)

    def _able(self, model: str) -> Iterator[dict[str, list[str]]]:
        """The free GPUs that are good for a model, those that need not load it first."""
        if not model or not is_placed(self._state):
            yield self.free
            return
        for find in (holders, places):
            able = find(self._state, model, Stage.DENOISE)
            yield {node: [w for w in free if w in able] for node, free in self.free.items()}

    def _choose(self, usable: list[str], members: Sequence[str], degree: int, home: str) -> tuple[str, ...] | None:
        free = set(usable)
        if degree == 1 and home in free:
            return (home,)
        blocks = (tuple(members[i : i + degree]) for i in range(0, len(members) - degree + 1, degree))
        whole = [b for b in blocks if free.issuperset(b)]
        if whole:
            block = min(whole, key=lambda b: (home not in b, self._spoils(members, b, free), self._moves(b, home), b))
        elif self._aligned_only:
            return None
        else:
            order = sorted(usable, key=lambda w: (w != home, w in self._stops, w))
            block = tuple(order[:degree])
        return block if home not in block else (home, *(w for w in block if w != home))

    def _moves(self, block: tuple[str, ...], home: str) -> bool:
        """Whether another request would have to move, which is about to stop there and could go on."""
        return any(w in self._stops and w != home for w in block)

    def _spoils(self, members: Sequence[str], block: tuple[str, ...], free: set[str]) -> int:
        """How large a free block would be broken up."""
        width, size = len(block), len(members)
        start = members.index(block[0])
        while width * 2 <= size:
            low = start // (width * 2) * (width * 2)
            if not free.issuperset(members[low : low + width * 2]):
                break
            width *= 2
        return width
