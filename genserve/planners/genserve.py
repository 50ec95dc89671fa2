"""GenServe (arXiv 2604.04335): step-level preemption, elastic sequence parallelism and a knapsack over videos.

The round of section M8 (Algorithm 1): images are one group whose value on g GPUs is the number of them on time under
EDF; each video has at most four candidate widths; a knapsack maximises (recoverable videos, sum of 1 / (1 + |laxity|)).

``genserve`` is the algorithm as written: candidates carry concrete GPUs and one path is kept per cell, the finish
estimate leaves out encode and decode, and a running video gives way to images only. Filled in where the paper is
silent: re-planned at every event and every ``round_ms`` (the paper: every step boundary), late videos only through f,
one paused video per GPU. ``genserve_ideal`` is strengthened: an exact knapsack over counts, videos may displace
videos, decode, encode and the price of a change are in the estimate, useless degrees are dropped, late videos go last.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from genserve.domain.cluster import ClusterState
from genserve.domain.plan import Plan, Waiting
from genserve.planners.batching import join_in_order
from genserve.planners.edf_best_fit import with_timer
from genserve.planners.interface import Policy
from genserve.planners.nodes import Target
from genserve.planners.realise import Style, plan_for
from genserve.planners.view import Task, View

MAX_CANDIDATES = 4
RECOVERABLE = 1e6
Value = tuple[int, float]


class Candidate(NamedTuple):
    """A width for a video, its value, and in the literal form the GPUs it would run on."""

    width: int
    value: Value
    gpus: frozenset[str] = frozenset()

    @property
    def worth(self) -> float:
        return worth(self.value)


class _GenServe(Policy, frozen=True):
    """Switches in the order of the paper's ablation."""

    preemption: bool = True
    dp_solver: bool = True
    elastic_sp: bool = True
    batching: bool = True
    max_pauses: int = 0
    round_ms: int = 1000

    is_ideal: ClassVar[bool] = False

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        view = View(state)
        if not view.gpus or not view.tasks:
            return Plan(waiting=tuple(Waiting(t.request_id, "no worker has joined") for t in view.tasks), note="idle")
        decision = _Round(self, view)
        plan = decision.solve() if self.dp_solver else decision.first_come()
        return with_timer(plan, state, self.round_ms * 1000 if self.dp_solver else 0)


class GenServe(_GenServe, frozen=True):
    """The paper's algorithm as written."""

    title: ClassVar[str] = "genserve"


class GenServeIdeal(_GenServe, frozen=True):
    """GenServe strengthened: exact knapsack over counts, video over video, decode and prices in the estimate."""

    title: ClassVar[str] = "genserve_ideal"
    is_ideal: ClassVar[bool] = True


class _Round:
    def __init__(self, policy: _GenServe, view: View) -> None:
        self.policy = policy
        self.view = view
        open_tasks = [t for t in view.tasks if not t.is_bound]
        self.images = [t for t in open_tasks if t.is_image and t.is_idle]
        self.videos = [t for t in open_tasks if not t.is_image]
        for task in self.videos:
            task.degrees = self._degrees(task)
        at_work = [t for t in open_tasks if t.is_image and t.running is not None]
        self.at_work = [Target(t, t.degree, t.degree, "goes on") for t in at_work]
        self.budget = max(0, view.open_gpus - sum(t.degree for t in at_work))
        self.homes = {t.request.home for t in self.videos if t.is_idle and t.request.home}

    def _degrees(self, task: Task) -> tuple[int, ...]:
        """Without elastic_sp a video keeps its first degree; without the solver everything runs on one GPU."""
        if not self.policy.dp_solver:
            return task.degrees[:1]
        return task.degrees if self.policy.elastic_sp or not task.last else (task.last,)

    # ── stage 1: values and candidates ───────────────────────────────────────────────────────────────────

    def image_values(self) -> list[Value]:
        """V_img(g): under EDF on g idle GPUs, how many waiting images are on time and how urgent they are."""
        values: list[Value] = [(0, 0.0)]
        for gpus in range(1, self.budget + 1):
            values.append(self._edf_value(gpus) if gpus <= len(self.images) else values[-1])
        return values

    def _edf_value(self, gpus: int) -> Value:
        ready = [self.view.now_us] * gpus
        on_time, urgency = 0, 0.0
        for task in self.images:
            at = min(range(gpus), key=lambda i: (ready[i], i))
            finish = ready[at] + task.run_us(1) + task.encode_us + task.decode_us
            if finish > task.deadline_us and self.policy.is_ideal:
                continue
            ready[at] = finish
            if finish <= task.deadline_us:
                on_time += 1
                urgency += 1 / (1 + (task.deadline_us - finish) / 1e6)
        return on_time, urgency

    def candidates(self, task: Task) -> list[Candidate]:
        """Hold, go on, wider, narrower; for one that doesn't run, hold and start at up to three widths."""
        found = [Candidate(0, (0, 0.0))] if self._may_hold(task) else []
        for width in self._widths(task):
            gpus = frozenset() if self.policy.is_ideal else self._gpus_for(task, width)
            if self.policy.is_ideal or gpus:
                found.append(Candidate(width, self._value(task, width), gpus))
        return found[:MAX_CANDIDATES]

    def _may_hold(self, task: Task) -> bool:
        if task.running is None:
            return True
        if not self.policy.preemption:
            return False
        if self.policy.is_ideal:
            return True
        slack = task.deadline_us - self.view.now_us - task.run_us(task.degree)
        is_first_pause = task.running.leader not in self.homes
        too_often = 0 < self.policy.max_pauses <= task.request.pauses
        return bool(self.images) and slack > 0 and is_first_pause and not too_often

    def _widths(self, task: Task) -> list[int]:
        if task.running is not None:
            near = [k for k in task.degrees if k in (task.degree * 2, task.degree // 2)]
            return [task.degree, *sorted(near, reverse=True)]
        meets = [k for k in task.degrees if self._laxity_us(task, k) >= 0]
        return meets[: MAX_CANDIDATES - 1] or [self._efficient(task)]

    def _efficient(self, task: Task) -> int:
        return max((k for k in task.degrees if task.tau[1] / task.tau[k] / k >= 0.8), default=task.degrees[0])

    def _laxity_us(self, task: Task, width: int) -> float:
        """Literal: steps left only. Ideal: with encode, decode and the price of the change."""
        laxity = task.deadline_us - self.view.now_us - task.run_us(width)
        if not self.policy.is_ideal:
            return laxity
        if task.last and width != task.last:
            laxity -= self.view.prices.switch_us + self.view.prices.resume_us
        return laxity - task.encode_us - task.decode_us

    def _value(self, task: Task, width: int) -> Value:
        laxity = self._laxity_us(task, width)
        closeness = 1 / (1 + abs(laxity) / 1e6)
        if laxity < 0 and self.policy.is_ideal:
            return 0, closeness * 1e-3
        return int(laxity >= 0), closeness

    def _gpus_for(self, task: Task, width: int) -> frozenset[str]:
        """Concrete GPUs: its own first (leader first), then idle ones, then those of others, in order of name."""
        own = list(task.running.workers) if task.running is not None else []
        node = self.view.node_of.get(own[0] if own else task.request.home, "")
        for name in [node] if own else sorted(self.view.nodes, key=lambda n: (n != node, n)):
            idle = [w for w in self.view.free.get(name, []) if w not in own]
            idle.sort(key=lambda w: (w != task.request.home, w))
            others = [w for t in self.videos if t.running and t is not task for w in t.running.workers]
            pool = [*own, *idle, *sorted(w for w in others if self.view.node_of[w] == name)]
            if len(pool) >= width:
                return frozenset(pool[:width])
        return frozenset()

    # ── stage 2: knapsack over videos ────────────────────────────────────────────────────────────────────

    def knapsack(self) -> Packing:
        """For each number of GPUs the best value and the widths, video by video; exact in the ideal form."""
        return best_widths([self.candidates(t) for t in self.videos], self.budget)

    # ── stage 3: join and act ────────────────────────────────────────────────────────────────────────────

    def solve(self) -> Plan:
        """The split between videos and images with the best sum; among equals the one with fewer GPUs."""
        if not self.policy.is_ideal and self._is_uncontended():
            running = [Target(t, t.degree, t.degree, "goes on") for t in self.videos]
            return self._act(running, self.budget - sum(t.degree for t in self.videos))
        images, packing = self.image_values(), self.knapsack()
        scores = [
            (value + worth(images[self.budget - used]), -used)
            for used, value in enumerate(packing.values)
            if value >= 0
        ]
        widths = packing.widths(-max(scores)[1])
        targets = [Target(t, w, w, "knapsack") for t, w in zip(self.videos, widths, strict=True) if w]
        return self._act(targets, self.budget - sum(widths))

    def _is_uncontended(self) -> bool:
        """The fast path (M1.6): there is a GPU for every waiting image, and no video wants anything."""
        runs_on = all(t.running is not None and not t.is_stopping for t in self.videos)
        return runs_on and 0 < len(self.images) <= self.view.free_count

    def _act(self, targets: list[Target], for_images: int) -> Plan:
        """Images on what the videos leave, batched where every member stays on time; late ones and videos after."""
        spare = for_images - len(self.images)
        images = join_in_order(self.images, self.view) if self.policy.batching else self.images
        ordered = [Target(t, 1, 1, "image, earliest deadline first", True) for t in images[:for_images]]
        if self.policy.is_ideal:
            ordered += targets
        else:
            ordered = targets + ordered
        if spare > 0:
            ordered += self._leftovers(targets, spare)
        style = Style(is_eager=True, image_exception=False, forced_room=True, growth_pays=0.0, may_hold=False)
        return plan_for(self.view, [*self.at_work, *ordered], style)

    def _leftovers(self, targets: list[Target], spare: int) -> list[Target]:
        """Idle GPUs go to videos that the knapsack left out (ideal: it never leaves GPUs idle while work waits)."""
        chosen = {t.task.request_id for t in targets}
        extra = []
        for task in self.videos:
            if task.request_id not in chosen and spare >= 1:
                extra.append(Target(task, 1, 1, "idle GPU"))
                spare -= 1
        return extra

    # ── before the solver: the ablation's first two rows ─────────────────────────────────────────────────

    def first_come(self) -> Plan:
        """FCFS at one GPU; with preemption, waiting images pause the videos with most slack (M4)."""
        order = sorted([*self.videos, *self.images], key=lambda t: (t.running is None, t.arrival_us, t.request_id))
        if self.policy.preemption:
            order = self._images_before_victims()
        targets = [Target(t, 1, 1, "arrival order") for t in order[: self.budget]]
        style = Style(is_eager=self.policy.preemption, image_exception=False, may_pause=self.policy.preemption)
        return plan_for(self.view, [*self.at_work, *targets], style)

    def _images_before_victims(self) -> list[Task]:
        """Videos that may not be paused, then images, then victims with least slack first, then the queue."""
        running = [v for v in self.videos if v.running is not None]
        victims = [v for v in running if self._may_hold(v)]
        fixed = [v for v in running if v not in victims]
        victims.sort(key=lambda v: (v.slack_us(self.view.now_us, v.degree), v.request_id))
        queue = [v for v in self.videos if v.running is None]
        queue.sort(key=lambda t: (not t.was_paused, t.arrival_us, t.request_id))
        images = sorted(self.images, key=lambda t: (t.arrival_us, t.request_id))
        return [*fixed, *images, *victims, *queue]


def worth(value: Value) -> float:
    """A pair as one number, in the same order: sums of the second part stay far below RECOVERABLE."""
    return value[0] * RECOVERABLE + value[1]


class Packing:
    """dp[b]: the best sum with exactly b GPUs (-1 where there is none), and the widths that give it."""

    def __init__(self, values: list[float], picks: list[list[int]]) -> None:
        self.values = values
        self._picks = picks

    def widths(self, used: int) -> list[int]:
        """Video by video, by following the back-pointers."""
        found = []
        for pick in reversed(self._picks):
            found.append(pick[used])
            used -= pick[used]
        return found[::-1]


def best_widths(options: list[list[Candidate]], budget: int) -> Packing:
    """One candidate per video.

    Where candidates name GPUs, each must be disjoint from those on the one path its cell remembers, so that the answer
    can miss the best one (M9.1); without GPUs the answer is exact. A video none of whose candidates fits gets nothing.
    """
    values, held = [0.0] + [-1.0] * budget, [frozenset[str]()] * (budget + 1)
    picks: list[list[int]] = []
    for candidates in options:
        row, pick, taken = [-1.0] * (budget + 1), [0] * (budget + 1), list(held)
        for c in candidates:
            gain, gpus, width = c.worth, c.gpus, c.width
            for used in range(budget + 1 - width):
                if values[used] < 0 or (gpus and gpus & held[used]):
                    continue
                total = values[used] + gain
                if total > row[used + width]:
                    row[used + width], pick[used + width] = total, width
                    taken[used + width] = held[used] | gpus if gpus else held[used]
        if max(row) < 0:
            row, pick, taken = values, [0] * (budget + 1), held
        values, held = row, taken
        picks.append(pick)
    return Packing(values, picks)
