"""SAVE: select whom to save, allocate their need, verify what switching costs, expand into what is idle. Ours.

Each part can be switched off by a parameter. Every call recomputes everything; what is remembered (the arrivals of
each class, the ageing credit) is a fold over events.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any, ClassVar

from genserve.domain.cluster import ClusterState
from genserve.domain.events import Recorded
from genserve.domain.plan import Plan, Waiting
from genserve.planners.batching import may_share, share_steps
from genserve.planners.interface import Policy
from genserve.planners.memory import AGED, AHEAD, BOUGHT, Arrivals, Memory, forecast_classes, remember
from genserve.planners.need import MARGIN_US, find_need
from genserve.planners.nodes import Target
from genserve.planners.realise import Style, plan_for
from genserve.planners.view import Task, View, by_key

AGE_FACTOR = 6
CREDIT_CAP_S = 30
"""Unspent credit is worth so many seconds of the pool at most, or the head of the queue if that costs more. Small ones
may pass the head until they have spent its price, or a stream of them would take all credit for ever."""


class Save(Policy, frozen=True):
    """Parts: selection, forecast, ageing (``phi``), sp and image_sp, pausing, forced_room, image_exception, expansion,
    holding, batching, need_test (off: switches count as free). ``admitted``: everything in the pool was promised its
    deadline by ``admission``; then nobody is given up for good, and forecast and ageing are off."""

    title: ClassVar[str] = "save"

    selection: bool = True
    forecast: bool = True
    phi: float = 0.05
    sp: bool = True
    image_sp: bool = True
    pausing: bool = True
    forced_room: bool = True
    image_exception: bool = True
    expansion: bool = True
    holding: bool = True
    batching: bool = True
    admitted: bool = False
    need_test: bool = True
    aligned_only: bool = False
    margin_us: int = MARGIN_US

    def begin(self) -> Memory:
        return Memory()

    def remember(self, memory: Memory, recorded: Recorded) -> Memory:
        return remember(memory, recorded)

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        view = View(state)
        if not view.tasks or not view.gpus:
            waiting = tuple(Waiting(t.request_id, "no worker has joined") for t in view.tasks)
            return Plan(waiting=waiting, note="nothing to plan")
        return _Decision(self, view, memory).plan()

    @property
    def style(self) -> Style:
        return Style(
            may_pause=self.pausing,
            forced_room=self.forced_room,
            image_exception=self.image_exception,
            may_hold=self.holding,
            aligned_only=self.aligned_only,
        )


class _Decision:
    def __init__(self, parts: Save, view: View, memory: Memory) -> None:
        self.parts = parts
        self.view = view
        self.memory = memory
        self.open = [t for t in view.tasks if not t.is_bound]
        self.left = view.open_gpus
        self.told: list[Waiting] = []
        self.promised: set[str] = set()
        self.first: list[Task] = []

    def plan(self) -> Plan:
        for task in self.open:
            if not self._find_need(task) and self.parts.admitted:
                self._promise(task)
        saved, given_up = self._choose()
        late = [t for t in self.open if not t.need]
        bought = self._age([*late, *given_up])
        targets = self._allocate(bought, saved)
        if self.parts.expansion:
            targets = self._expand(targets, given_up, late)
        self._tell(targets, given_up, late)
        return plan_for(self.view, targets, self.parts.style, waiting=self.told)

    # ── 1. budget and need ───────────────────────────────────────────────────────────────────────────────

    def _find_need(self, task: Task) -> int:
        parts = self.parts
        if not parts.sp or (task.is_image and not parts.image_sp):
            task.degrees = task.degrees[:1]
        return find_need(task, self.view, margin_us=parts.margin_us, priced=parts.need_test)

    def _promise(self, task: Task) -> None:
        """An admitted request that became late gets half its allowance more and can't be given up from then on."""
        task.deadline_us += (task.deadline_us - task.arrival_us) // 2
        if self._find_need(task):
            self.promised.add(task.request_id)
        else:
            task.need, task.work = task.fastest, task.fastest * task.run_us(task.fastest) + task.decode_us
            self.first.append(task)

    # ── 2. select: whom to save ──────────────────────────────────────────────────────────────────────────

    def _choose(self) -> tuple[list[Task], list[Task]]:
        """Saved and given up. Batches are made where as many are saved with them; a given-up one is taken apart."""
        lost = {t.request_id for t in self.first}
        able = [t for t in self.open if t.need and t.request_id not in lost]
        if self.promised:
            able.sort(key=lambda t: (t.deadline_us, t.request_id))
        alone = self._select(able)
        batched = self._together(able)
        if batched is able:
            return alone
        saved, given_up = self._select(batched)
        if sum(t.size for t in saved) < sum(t.size for t in alone[0]):
            return alone
        return saved, [part for t in given_up for part in t.parts]

    def _select(self, able: list[Task]) -> tuple[list[Task], list[Task]]:
        """Moore-Hodgson on a fluid, malleable machine: in deadline order, give up the largest work while too full."""
        if not self.parts.selection:
            return able, []
        forecasts = self.parts.forecast and not self.parts.admitted
        classes = forecast_classes(self.memory, self.view) if forecasts else []
        due, gone = sum(t.work for t in self.first), set()
        heap: list[tuple[float, str, int]] = []
        for task in able:
            due += task.work
            if task.request_id not in self.promised:
                size = task.size
                heapq.heappush(heap, (-task.work / size, task.request_id, size))
            horizon = task.deadline_us - self.view.now_us
            while heap and due > self._capacity(horizon, classes, -heap[0][0]):
                work, request_id, size = heapq.heappop(heap)
                due += work * size
                gone.add(request_id)
        saved = [t for t in able if t.request_id not in gone]
        return saved, [t for t in able if t.request_id in gone]

    def _capacity(self, horizon_us: float, classes: Iterable[Arrivals], largest_us: float) -> float:
        """GPU time until then, less what is bound and what cheaper requests still to come will want."""
        capacity = self.view.gpus * horizon_us - self.view.bound_us(horizon_us)
        for kind in classes:
            if kind.cost_us < largest_us and kind.allowance_us < horizon_us:
                capacity -= kind.load * (horizon_us - kind.allowance_us)
        return capacity

    def _together(self, tasks: list[Task]) -> list[Task]:
        """``tasks`` with some that wait in batches, as far as they want more GPUs than there are; else as they are."""
        excess = sum(t.need or 1 for t in tasks) - self.left
        if not self.parts.batching or excess <= 0:
            return tasks
        fixed = self.promised | self.memory.bought
        idle = {t for t in may_share(tasks, self.view) if t.request_id not in fixed}
        shared = share_steps(idle, self.view, excess=excess, margin_us=self.parts.margin_us)
        if len(shared) == len(idle):
            return tasks
        found = [t for t in tasks if t not in idle]
        for task in shared:
            found += [task] if not task.members or self._is_sound(task) else task.members
        return sorted(found, key=by_key)

    def _is_sound(self, batch: Task) -> bool:
        """Find a batch's need: those that can be saved alone must be saved together, the price of a resume included."""
        return bool(self._find_need(batch)) or not batch.members[0].need

    # ── 3. ageing credit ─────────────────────────────────────────────────────────────────────────────────

    def _age(self, hopeless: list[Task]) -> list[Task]:
        """Requests that were paid for out of the credit of the old, oldest first; told so, for memory is the log."""
        if self.parts.phi <= 0 or self.parts.admitted:
            return []
        bought = [t for t in self.open if t.request_id in self.memory.bought]
        queue = [t for t in hopeless if t.request_id not in self.memory.bought and self._is_old(t)]
        queue.sort(key=lambda t: (t.arrival_us + AGE_FACTOR * t.alone_us, t.request_id))
        if not queue:
            return bought
        head, passed_us = queue[0], float(self.memory.passed_us)
        head_us = self._price(head)
        credit = min(self._unspent_us(), max(head_us, CREDIT_CAP_S * 1_000_000 * self.view.gpus))
        for task in queue:
            price = self._price(task)
            passes = task is not head and price <= head_us / 10 and passed_us + price <= head_us
            if price <= credit and (task is head or passes):
                credit -= price
                passed_us += price * passes
                bought.append(task)
                how = f"{BOUGHT} {AHEAD}" if passes else BOUGHT
                self.told.append(Waiting(task.request_id, f"{how} for {round(price)} GPU-us"))
            elif task.is_idle:
                self.told.append(Waiting(task.request_id, f"{AGED}: waits for credit"))
        return bought

    def _unspent_us(self) -> float:
        return self.parts.phi * self.view.gpus * self.memory.queued_for(self.view.now_us) - self.memory.spent_us

    def _is_old(self, task: Task) -> bool:
        return self.view.now_us - task.arrival_us > AGE_FACTOR * task.alone_us

    def _price(self, task: Task) -> float:
        return task.run_us(1) + task.decode_us + task.encode_us

    # ── 4. allocate ──────────────────────────────────────────────────────────────────────────────────────

    def _allocate(self, bought: list[Task], saved: list[Task]) -> list[Target]:
        """Bought ones get one GPU; saved ones, by deadline, their need or the largest power of two that is left."""
        targets, taken = [], {t.request_id for t in bought}
        for task in self.first:
            if width := self._fit(task, task.fastest):
                targets.append(self._target(task, width, width, "admitted and lost: before everything", is_urgent=True))
        for task in bought:
            if self.left >= 1:
                targets.append(self._target(task, 1, 1, "runs on ageing credit", is_urgent=True))
        for task in saved:
            if task.request_id in taken:
                continue
            width = self._fit(task, task.need)
            if not width:
                break
            targets.append(self._target(task, width, task.need, "saved", is_urgent=True))
        return targets

    def _fit(self, task: Task, degree: int) -> int:
        if degree <= self.left:
            return degree
        return max((k for k in task.degrees if k <= self.left), default=0)

    def _target(self, task: Task, degree: int, need: int, reason: str, *, is_urgent: bool = False) -> Target:
        self.left -= degree
        return Target(task, degree, need, reason, is_urgent)

    # ── 5. expand into idle GPUs ─────────────────────────────────────────────────────────────────────────

    def _expand(self, targets: list[Target], given_up: list[Task], late: list[Task]) -> list[Target]:
        taken = {t.task.request_id for t in targets}
        given_up, late = ([t for t in tasks if t.request_id not in taken] for tasks in (given_up, late))
        if given_up or late:
            self._widen(targets, floor=0.9)
        for task in sorted(self._together(given_up), key=lambda t: (t.work, t.request_id)):
            if width := self._fit(task, task.need):
                targets.append(self._target(task, width, task.need, "given up for now, on idle GPUs"))
        for task in sorted(self._together(late), key=lambda t: (-self._urge(t), t.request_id)):
            if self.left >= 1:
                targets.append(self._target(task, 1, 1, "late, on idle GPUs"))
        self._widen(targets, floor=0.25)
        return targets

    def _urge(self, task: Task) -> float:
        return task.size * (self.view.now_us - task.arrival_us) / max(1.0, self._price(task))

    def _widen(self, targets: list[Target], *, floor: float) -> None:
        """Double degrees while the added GPUs work at ``floor`` of a single one; best efficiency, then least slack."""
        heap = [entry for i, t in enumerate(targets) if (entry := self._doubling(t, i, floor))]
        heapq.heapify(heap)
        while heap and self.left > 0:
            _, _, _, index, wider = heapq.heappop(heap)
            target = targets[index]
            if wider - target.degree > self.left:
                continue
            self.left -= wider - target.degree
            target.degree = wider
            if entry := self._doubling(target, index, floor):
                heapq.heappush(heap, entry)

    def _doubling(self, target: Target, index: int, floor: float) -> tuple[float, float, str, int, int] | None:
        task, now = target.task, target.degree
        wider, efficiency = task.growth.get(now, (0, 0.0))
        if efficiency < floor or wider > task.degrees[-1]:
            return None
        return -efficiency, task.slack_us(self.view.now_us, now), task.request_id, index, wider

    # ── reasons ──────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, targets: list[Target], given_up: list[Task], late: list[Task]) -> None:
        """Why each idle request without a target waits. The first reason told of a request wins."""
        known = {r.request_id for t in targets if t.task.is_idle for r in t.task.requests}
        known.update(w.request_id for w in self.told)
        reasons = {t.request_id: "given up for now: others need its GPU time" for t in given_up}
        reasons |= {t.request_id: "late at any degree" for t in late}
        for task in self.open:
            if task.is_idle and task.request_id not in known:
                reason = reasons.get(task.request_id, "saved, after those with earlier deadlines")
                self.told.append(Waiting(task.request_id, reason))
