"""From widths to actions with as few interruptions as possible; not which widths are wanted.

A running request whose width is unchanged is left alone. Every change is a yield now and a start once the boundary
has passed: the stop itself calls the planner again, and whatever is best then is started.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from genserve.domain.plan import AnyAction, Plan, Start, Waiting, Yield
from genserve.planners.assign import SegmentIds, chain
from genserve.planners.layout import power_of_two
from genserve.planners.nodes import Nodes, Target
from genserve.planners.place import Places
from genserve.planners.victims import choose_victims, find_near_video
from genserve.planners.view import Task, View


class Style(Struct, frozen=True):
    """The parts of the realisation that can be switched off for ablation.

    ``is_eager``: every runner whose width differs is stopped at once, needed or not (the papers' way).
    """

    may_pause: bool = True
    is_eager: bool = False
    forced_room: bool = True
    image_exception: bool = True
    may_hold: bool = True
    may_grow: bool = True
    growth_pays: float = 5.0
    aligned_only: bool = False


class Realisation:
    """One decision's actions. ``targets`` are in the order in which they are served."""

    def __init__(self, view: View, targets: Sequence[Target], style: Style) -> None:
        self.view = view
        self.style = style
        self.targets = targets
        self._settle_nodes()
        self.wanted = {t.task.request_id: t for t in self.targets}
        self.places = Places(view, aligned_only=style.aligned_only)
        self.ids = SegmentIds(view.state)
        self.actions: list[AnyAction] = []
        self.flagged: list[Task] = []
        self.cost_us = view.prices.switch_us + view.prices.resume_us

    def _settle_nodes(self) -> None:
        """With several nodes, give each target one, at half its width where it fits nowhere."""
        if len(self.view.nodes) > 1:
            Nodes(self.view, self.targets)
            self.targets = [t for t in self.targets if t.degree]

    def actions_taken(self) -> list[AnyAction]:
        targets: dict[str, list[Target]] = {node: [] for node in self.view.nodes}
        only = next(iter(self.view.nodes), "")
        for target in self.targets:
            targets[target.node or only].append(target)
        for node, here in targets.items():
            if self.style.is_eager or not all(map(_is_content, here)):
                self._realise(node, here)
        return self.actions

    def _realise(self, node: str, targets: Sequence[Target]) -> None:
        """On one node: first whoever lacks GPUs, then growth into what is left."""
        waiting = [t for t in targets if t.task.is_idle]
        lack = self._lack(targets, waiting)
        if lack or self.style.is_eager or any(t.task.is_stopping for t in targets):
            self._make_room(node, waiting, lack)
        if self.style.may_grow:
            self._grow(targets, node)

    def _make_room(self, node: str, waiting: Sequence[Target], lack: int) -> None:
        """Step by step: room, starts, stops, images that cannot wait."""
        tasks = [t for t in self.view.tasks if t.running is not None and t.node == node]
        coming = self._coming(tasks, node)
        missing = self.view.gpus if self.style.is_eager else lack - self.places.room(node) - coming
        wanted = {t.request_id: self._wanted_here(t, node) for t in tasks}
        victims = choose_victims(missing, tasks, wanted, may_pause=self.style.may_pause)
        stopping = [*victims, *(t for t in tasks if t.is_stopping)]
        known = stopping if coming else victims
        room_us = max((t.boundary_us for t in known), default=0.0)
        short = self._start_waiting(waiting, room_us, node)
        for victim in victims:
            self._flag(victim, "shrinks" if wanted[victim.request_id] else "gives way")
        if self.style.image_exception and self.style.may_pause:
            self._hurry_images(short, tasks, stopping)

    def _wanted_here(self, task: Task, node: str) -> int:
        target = self.wanted.get(task.request_id)
        return target.degree if target is not None and target.node in (node, "") else 0

    # ── room ─────────────────────────────────────────────────────────────────────────────────────────────

    def _coming(self, tasks: Sequence[Task], node: str) -> int:
        """GPUs that stops already under way will free for who is not queued there yet, less what their own requests go
        on with.
        """
        return sum(self._freed(t) - min(t.degree, self._wanted_here(t, node)) for t in tasks if t.is_stopping)

    def _freed(self, task: Task) -> int:
        return sum(w not in self.view.held for w in task.running.workers) if task.running else 0

    def _lack(self, targets: Sequence[Target], waiting: Sequence[Target]) -> int:
        """GPUs that waiting and urgent targets have less than they want."""
        lack = sum(t.degree for t in waiting)
        if self.style.forced_room:
            lack += sum(
                max(0, min(t.need, t.degree) - t.task.degree)
                for t in targets
                if t.is_urgent and t.task.running is not None and not t.task.is_stopping
            )
        return lack

    def _flag(self, task: Task, reason: str) -> None:
        assert task.running is not None
        self.flagged.append(task)
        self.actions.append(Yield(task.running.segment_id, reason))

    # ── starts ───────────────────────────────────────────────────────────────────────────────────────────

    def _start_waiting(self, waiting: Sequence[Target], room_us: float, node: str) -> list[Target]:
        """In order, on free GPUs; narrower while the full group isn't free, unless holding the GPUs pays.

        ``room_us`` is when the last stop takes effect. Returns the targets that got less than they want.
        """
        short = []
        for target in waiting:
            task, width = target.task, min(target.degree, power_of_two(self.places.room(node)))
            if width < target.degree:
                short.append(target)
                if width >= 1 and self._holds(target, width, room_us):
                    self.places.reserve(node, width)
                    continue
            if width >= 1:
                self._start(task, _useful(task, width), target.reason, node=node)
        return short

    def _start(self, task: Task, degree: int, reason: str, *, node: str) -> None:
        group = self.places.try_take(degree, home=task.request.home, node=node, model=task.request.spec.model)
        while group is None and degree > 1:
            degree = _useful(task, degree // 2)
            group = self.places.try_take(degree, home=task.request.home, node=node, model=task.request.spec.model)
        if group is not None:
            together = f"{reason}, a batch of {task.size}" if task.members else reason
            after = self.places.last_on(group)
            self.actions.extend(chain(task.requests, group, ids=self.ids, after=after, reason=together))

    def _holds(self, target: Target, width: int, room_us: float) -> bool:
        """Whether GPUs had better stay idle for a group that is about to be complete than be switched later."""
        if not (self.style.may_hold and target.is_urgent and room_us and self.cost_us > 50_000):
            return False
        task, wait_us = target.task, room_us - self.view.now_us
        lost_us = wait_us * task.step_us(target.degree) / task.step_us(_useful(task, width))
        return lost_us < self.cost_us and task.slack_us(self.view.now_us + wait_us, target.degree) >= 0

    # ── images that cannot wait ──────────────────────────────────────────────────────────────────────────

    def _hurry_images(self, short: Sequence[Target], tasks: Sequence[Task], stopping: Sequence[Task]) -> None:
        """Where the flagged boundaries come too late for a saved image, stop the video with the nearest one instead."""
        stops = sorted(t.boundary_us for t in stopping)
        urgent = {t.task.request_id for t in self.targets if t.is_urgent}
        stopped: list[Task] = []
        for target in short:
            task = target.task
            if not (target.is_urgent and task.is_image):
                continue
            latest_us = self.view.now_us + task.slack_us(self.view.now_us, task.fastest)
            if stops and stops[0] <= latest_us:
                stops.pop(0)
                continue
            others = [t for t in tasks if t not in stopping and t not in stopped]
            video = find_near_video(latest_us, others, urgent, now_us=self.view.now_us)
            if video is not None:
                self._flag(video, f"stops for image {task.request_id}, which cannot wait for others")
                stopped.append(video)

    # ── growth ───────────────────────────────────────────────────────────────────────────────────────────

    def _grow(self, targets: Sequence[Target], node: str) -> None:
        """Into GPUs of its own node that are free now: urgent growers first, others only where it pays."""
        flagged = {t.request_id for t in self.flagged}
        growers = [
            t
            for t in targets
            if t.task.running is not None
            and t.task.node == node
            and not t.task.is_stopping
            and t.degree > t.task.degree
            and t.task.request_id not in flagged
            and t.task.steps > 1
        ]
        growers.sort(key=lambda t: (not (t.is_urgent and t.need > t.task.degree), t.task.key))
        for target in growers:
            self._try_grow(target, node)

    def _try_grow(self, target: Target, node: str) -> None:
        task = target.task
        degree = target.degree
        while degree > task.degree and self.places.room(node) < degree - task.degree:
            degree = _useful(task, degree // 2)
        if degree <= task.degree:
            return
        saved_us = task.run_us(task.degree) - task.run_us(degree)
        is_forced = target.is_urgent and target.need > task.degree
        if is_forced or saved_us >= self.style.growth_pays * self.cost_us:
            self.places.reserve(node, degree - task.degree)
            self._flag(task, f"grows to {degree}")


def _is_content(target: Target) -> bool:
    """Whether it goes on and needs no more GPUs: nobody gives way on a node where all are content."""
    task = target.task
    return task.running is not None and not task.is_stopping and target.degree <= task.degree


def _useful(task: Task, degree: int) -> int:
    """The largest degree worth having that is not above ``degree``."""
    return max((k for k in task.degrees if k <= degree), default=1)


def plan_for(
    view: View, targets: Sequence[Target], style: Style, *, waiting: Sequence[Waiting] = (), note: str = ""
) -> Plan:
    """The plan that moves the cluster towards the targets; idle tasks that get nothing are told why."""
    actions = Realisation(view, targets, style).actions_taken()
    started = {r for a in actions if isinstance(a, Start) for r in a.request_ids}
    left = [t.request_id for t in view.tasks if t.is_idle and t.request_id not in started]
    told = _explain(left, targets, waiting) if left else ()
    return Plan(tuple(_ordered(actions)), told, note or ("" if actions else "nothing to change"))


def _explain(left: Sequence[str], targets: Sequence[Target], waiting: Sequence[Waiting]) -> tuple[Waiting, ...]:
    reasons = {w.request_id: w.reason for w in waiting}
    for target in targets:
        for request in target.task.requests:
            reasons.setdefault(request.request_id, f"{target.reason}; GPUs are busy")
    return tuple(Waiting(r, reasons.get(r, "no GPU left for it")) for r in left)


def _ordered(actions: Sequence[AnyAction]) -> list[AnyAction]:
    return [a for a in actions if isinstance(a, Yield)] + [a for a in actions if not isinstance(a, Yield)]
