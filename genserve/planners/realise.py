"""From widths to actions with as few interruptions as possible; not which widths are wanted.

A running request whose width is unchanged is left alone. Every change is a yield now and a start once the boundary
has passed: the stop itself calls the planner again, and whatever is best then is started.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from genserve.domain.plan import AnyAction, Plan, Start, Waiting, Yield
from genserve.domain.request import Stage
from genserve.planners.assign import SegmentIds, chain
from genserve.planners.place import Places
from genserve.planners.view import Task, View


class Target(Struct):
    """A width for a task. ``is_urgent``: others may be interrupted for it, up to ``need``."""

    task: Task
    degree: int
    need: int
    reason: str
    is_urgent: bool = False


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
        self.wanted = {t.task.request_id: t.degree for t in targets}
        self.places = Places(view, aligned_only=style.aligned_only)
        self.ids = SegmentIds(view.state)
        self.actions: list[AnyAction] = []
        self.flagged: list[Task] = []
        self.short: list[Target] = []
        self.cost_us = view.prices.switch_us + view.prices.resume_us

    def actions_taken(self) -> list[AnyAction]:
        waiting = [t for t in self.targets if t.task.is_idle]
        coming = self._coming()
        missing = self.view.gpus if self.style.is_eager else self._missing(waiting) - coming
        victims = self._choose_victims(missing) if missing > 0 else []
        self._start_waiting(waiting, victims, coming)
        for victim, reason in victims:
            self._flag(victim, reason)
        if self.style.image_exception and self.style.may_pause:
            self._hurry_images(victims)
        if self.style.may_grow:
            self._grow()
        return self.actions

    # ── room ─────────────────────────────────────────────────────────────────────────────────────────────

    def _coming(self) -> int:
        """GPUs that stops already under way will free, less what their own requests go on with."""
        return sum(t.degree - min(t.degree, self.wanted.get(t.request_id, 0)) for t in self.view.tasks if t.is_stopping)

    def _missing(self, waiting: Sequence[Target]) -> int:
        """GPUs that targets lack beyond those that are free now."""
        lack = sum(t.degree for t in waiting)
        if self.style.forced_room:
            lack += sum(
                max(0, t.need - t.task.degree)
                for t in self.targets
                if t.is_urgent and t.task.running is not None and not t.task.is_stopping
            )
        return lack - self.places.count

    def _choose_victims(self, missing: int) -> list[tuple[Task, str]]:
        """Running tasks without a target or with a smaller one, nearest step boundary first, until enough is freed."""
        victims = []
        for task in sorted(self._interruptible(), key=lambda t: (t.boundary_us, t.request_id)):
            if missing <= 0:
                break
            target = self.wanted.get(task.request_id, 0)
            if target < task.degree and (target or self.style.may_pause):
                victims.append((task, "shrinks" if target else "gives way"))
                missing -= task.degree - target
        return victims

    def _interruptible(self) -> list[Task]:
        flagged = {t.request_id for t in self.flagged}
        return [
            t
            for t in self.view.tasks
            if t.running is not None and not t.is_stopping and t.request_id not in flagged and t.steps > 1
        ]

    def _flag(self, task: Task, reason: str) -> None:
        assert task.running is not None
        self.flagged.append(task)
        self.actions.append(Yield(task.running.segment_id, reason))

    # ── starts ───────────────────────────────────────────────────────────────────────────────────────────

    def _start_waiting(self, waiting: Sequence[Target], victims: Sequence[tuple[Task, str]], coming: int) -> None:
        """In order, on free GPUs; narrower while the full group isn't free, unless holding the GPUs pays."""
        room_us = max((v.boundary_us for v, _ in victims), default=0.0)
        stopping = [t.boundary_us for t in self.view.tasks if t.is_stopping]
        if coming and stopping:
            room_us = max(room_us, *stopping)
        for target in waiting:
            task = target.task
            width = min(target.degree, self.places.widest())
            if width < 1 or (width < target.degree and self._holds(target, width, room_us)):
                if width >= 1:
                    self._hold(width)
                self.short.append(target)
                continue
            self._start(task, _useful(task, width), target.reason)
            if width < target.degree:
                self.short.append(target)

    def _start(self, task: Task, degree: int, reason: str) -> None:
        group = self.places.try_take(degree, home=task.request.home)
        while group is None and degree > 1:
            degree = _useful(task, degree // 2)
            group = self.places.try_take(degree, home=task.request.home)
        if group is not None:
            self.actions.extend(chain((task.request,), group, ids=self.ids, after="", reason=reason))

    def _holds(self, target: Target, width: int, room_us: float) -> bool:
        """Whether GPUs had better stay idle for a group that is about to be complete than be switched later."""
        if not (self.style.may_hold and target.is_urgent and room_us and self.cost_us > 50_000):
            return False
        task, wait_us = target.task, room_us - self.view.now_us
        lost_us = wait_us * task.step_us(target.degree) / task.step_us(_useful(task, width))
        return lost_us < self.cost_us and task.slack_us(self.view.now_us + wait_us, target.degree) >= 0

    def _hold(self, width: int) -> None:
        node = max(self.places.free, key=lambda n: (self.places.room(n), n))
        self.places.reserve(node, width)

    # ── images that cannot wait ──────────────────────────────────────────────────────────────────────────

    def _hurry_images(self, victims: Sequence[tuple[Task, str]]) -> None:
        """Where the flagged boundaries come too late for a saved image, stop the video with the nearest one instead."""
        stops = sorted([v.boundary_us for v, _ in victims] + [t.boundary_us for t in self.view.tasks if t.is_stopping])
        for target in self.short:
            task = target.task
            if not (target.is_urgent and task.is_image):
                continue
            latest_us = self.view.now_us + task.slack_us(self.view.now_us, task.fastest)
            if stops and stops[0] <= latest_us:
                stops.pop(0)
                continue
            video = self._find_near_video(latest_us)
            if video is not None:
                self._flag(video, f"stops for image {task.request_id}, which cannot wait for others")

    def _find_near_video(self, latest_us: float) -> Task | None:
        urgent = {t.task.request_id for t in self.targets if t.is_urgent}
        fits = [
            t
            for t in self._interruptible()
            if not t.is_image
            and t.boundary_us <= latest_us
            and (t.request_id not in urgent or t.slack_us(self.view.now_us, t.fastest) > 1_000_000)
        ]
        return min(fits, key=lambda t: (t.boundary_us, t.request_id), default=None)

    # ── growth ───────────────────────────────────────────────────────────────────────────────────────────

    def _grow(self) -> None:
        """Into GPUs of its own node that are free now: urgent growers first, others only where it pays."""
        flagged = {t.request_id for t in self.flagged}
        growers = [
            t
            for t in self.targets
            if t.task.running is not None
            and not t.task.is_stopping
            and t.degree > t.task.degree
            and t.task.request_id not in flagged
            and t.task.steps > 1
        ]
        growers.sort(key=lambda t: (not (t.is_urgent and t.need > t.task.degree), t.task.key))
        for target in growers:
            self._try_grow(target)

    def _try_grow(self, target: Target) -> None:
        task = target.task
        assert task.running is not None
        node = self.view.node_of[task.running.workers[0]]
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


def _useful(task: Task, degree: int) -> int:
    """The largest degree worth having that is not above ``degree``."""
    return max((k for k in task.degrees if k <= degree), default=1)


def plan_for(
    view: View, targets: Sequence[Target], style: Style, *, waiting: Sequence[Waiting] = (), note: str = ""
) -> Plan:
    """The plan that moves the cluster towards the targets; idle tasks that get nothing are told why."""
    actions = Realisation(view, targets, style).actions_taken()
    started = {r for a in actions if isinstance(a, Start) for r in a.request_ids}
    reasons = {w.request_id: w for w in waiting}
    for target in targets:
        reasons.setdefault(target.task.request_id, Waiting(target.task.request_id, f"{target.reason}; GPUs are busy"))
    left = [t.request_id for t in view.tasks if t.is_idle and t.request_id not in started]
    told = tuple(reasons.get(r) or Waiting(r, "no GPU left for it") for r in left)
    return Plan(tuple(_ordered(actions)), told, note or ("" if actions else "nothing to change"))


def _ordered(actions: Sequence[AnyAction]) -> list[AnyAction]:
    return [a for a in actions if isinstance(a, Yield)] + [a for a in actions if not isinstance(a, Yield)]


__all__ = ["Realisation", "Stage", "Style", "Target", "plan_for"]
