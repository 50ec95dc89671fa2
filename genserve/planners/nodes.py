"""Which node each target runs on, when there are several: groups never cross one; not which GPUs inside it.

Whoever keeps or lowers its width stays. The rest is placed in decreasing width: on its own node if there is room, else
on the fullest node with room, else on the roomiest node once single-GPU tasks have moved out, else at half the width.
"""

from __future__ import annotations

from collections.abc import Sequence

from genserve.planners.view import Task, View


class Nodes:
    """Rooms are GPUs not yet promised to anyone; what is bound or runs unchanged has its own already."""

    def __init__(self, view: View, widths: Sequence[tuple[Task, int]]) -> None:
        self.view = view
        self.home: dict[str, str] = {}
        self.width: dict[str, int] = {}
        self.room = {node: len(members) for node, members in view.nodes.items()}
        self._tasks = [t for t, _ in widths]
        for task in view.tasks:
            if task.is_bound:
                self._deduct_bound(task)
        movers = [(t, w) for t, w in widths if not self._stays(t, w)]
        for task, width in sorted(movers, key=lambda m: -m[1]):
            self._settle(task, width)

    def _deduct_bound(self, task: Task) -> None:
        for segment_id in task.request.segments[:2]:
            segment = self.view.state.segments.get(segment_id)
            if segment is not None and self.view.is_taken(segment.leader) and len(segment.workers) == task.degree:
                self.room[self.view.node_of[segment.leader]] -= task.degree
                return

    def _node(self, task: Task) -> str:
        return task.node or self.view.node_of.get(task.request.home, "")

    def _stays(self, task: Task, width: int) -> bool:
        if task.running is None or task.is_stopping or width > task.degree:
            return False
        self._put(task, task.node, width)
        return True

    def _put(self, task: Task, node: str, width: int) -> None:
        self.home[task.request_id] = node
        self.width[task.request_id] = width
        self.room[node] -= width

    def _settle(self, task: Task, width: int) -> None:
        while width >= 1:
            node = self._find(task, width)
            if node:
                self._put(task, node, width)
                return
            width = max((k for k in task.degrees if k <= width // 2), default=0)
        self.width[task.request_id] = 0

    def _find(self, task: Task, width: int) -> str:
        own = self._node(task)
        if own and self.room[own] >= width:
            return own
        fits = [n for n, room in self.room.items() if room >= width]
        if fits:
            return min(fits, key=lambda n: (self.room[n], n))
        return self._make_room(width) if width > 1 and sum(self.room.values()) >= width else ""

    def _make_room(self, width: int) -> str:
        """Move single-GPU tasks out of the node that then has the room, fewest moves first."""
        singles: dict[str, list[Task]] = {node: [] for node in self.room}
        for task in self._tasks:
            if self.width.get(task.request_id) == 1:
                singles[self.home[task.request_id]].append(task)
        node = max(self.room, key=lambda n: (self.room[n] + len(singles[n]), n))
        need = width - self.room[node]
        if len(singles[node]) < need or sum(max(0, r) for n, r in self.room.items() if n != node) < need:
            return ""
        for task in sorted(singles[node], key=lambda t: t.key)[-need:]:
            self.room[node] += 1
            other = min((n for n, r in self.room.items() if r >= 1 and n != node), key=lambda n: (self.room[n], n))
            self._put(task, other, 1)
        return node
