"""Which node each target runs on, when there are several: groups never cross one; not which GPUs inside it.

Whoever keeps or lowers its width stays. The rest is placed in decreasing width: on its own node if there is room, else
on the fullest node with room, else on the roomiest node once single-GPU tasks have moved out, else at half the width.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from genserve.planners.view import Task, View


class Target(Struct):
    """A width for a task. ``is_urgent``: others may be interrupted for it, up to ``need``.

    ``node`` is where it is to run, "" as long as that is open.
    """

    task: Task
    degree: int
    need: int
    reason: str
    is_urgent: bool = False
    node: str = ""


class Nodes:
    """Sets the targets' nodes, and their widths to 0 where there is no room.

    Rooms are GPUs not yet promised to anyone; what is bound or runs unchanged has its own already.
    """

    def __init__(self, view: View, targets: Sequence[Target]) -> None:
        self.view = view
        self.targets = targets
        self.room = {node: len(members) for node, members in view.nodes.items()}
        for task in view.tasks:
            if task.is_bound:
                self._deduct_bound(task)
        movers = [t for t in targets if not self._stays(t)]
        for target in sorted(movers, key=lambda t: -t.degree):
            self._settle(target)

    def _deduct_bound(self, task: Task) -> None:
        for segment_id in task.request.segments[:2]:
            segment = self.view.state.segments.get(segment_id)
            if segment is not None and self.view.is_taken(segment.leader) and len(segment.workers) == task.degree:
                self.room[self.view.node_of[segment.leader]] -= task.degree
                return

    def _stays(self, target: Target) -> bool:
        task = target.task
        if task.running is None or task.is_stopping or target.degree > task.degree:
            return False
        self._put(target, task.node)
        return True

    def _put(self, target: Target, node: str) -> None:
        target.node = node
        self.room[node] -= target.degree

    def _settle(self, target: Target) -> None:
        while target.degree >= 1:
            node = self._find(target.task, target.degree)
            if node:
                self._put(target, node)
                return
            target.degree = max((k for k in target.task.degrees if k <= target.degree // 2), default=0)

    def _find(self, task: Task, width: int) -> str:
        own = task.node or self.view.node_of.get(task.request.home, "")
        if own and self.room[own] >= width:
            return own
        fits = [n for n, room in self.room.items() if room >= width]
        if fits:
            return min(fits, key=lambda n: (self.room[n], n))
        return self._make_room(width) if width > 1 and sum(self.room.values()) >= width else ""

    def _make_room(self, width: int) -> str:
        """Move single-GPU tasks out of the node that then has the room, fewest moves first."""
        singles: dict[str, list[Target]] = {node: [] for node in self.room}
        for target in self.targets:
            if target.degree == 1 and target.node:
                singles[target.node].append(target)
        node = max(self.room, key=lambda n: (self.room[n] + len(singles[n]), n))
        need = width - self.room[node]
        if len(singles[node]) < need or sum(max(0, r) for n, r in self.room.items() if n != node) < need:
            return ""
        for target in sorted(singles[node], key=lambda t: t.task.key)[-need:]:
            self.room[node] += 1
            other = min((n for n, r in self.room.items() if r >= 1 and n != node), key=lambda n: (self.room[n], n))
            self._put(target, other)
        return node
