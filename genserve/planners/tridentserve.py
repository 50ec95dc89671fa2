"""TridentServe (arXiv 2510.02838; code PKU-DAIR/Hetu-DiT): the dispatcher as released. Never interrupts.

At most every ``every_ms`` the whole queue is put to a knapsack per machine (M5): degrees with an efficiency of at least
``floor`` and at least the memory minimum; a start on time is worth 1000, a late one 100 (1 + lateness) + (k - 1), each
idle GPU costs 1. Encode shares the group's leader; decode goes to one GPU and frees the others.

Changed: a dynamic programme per machine, machines in order of free GPUs, in place of the CBC solver (equal objective on
one machine, see tests); a late request's worth stays below 1000 (open point 7); encode and decode are in the estimate
(open point 8); ``filter_fix`` falls back to the smallest memory-feasible degree where floor and memory leave none (open
point 1). With ``filter_fix`` off such requests are never served, as released.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from genserve.domain.cluster import ClusterState
from genserve.domain.events import PlanDecided, Recorded
from genserve.domain.plan import AnyAction, Plan, Waiting
from genserve.domain.request import Media, RequestSpec, Shape
from genserve.planners.assign import SegmentIds, chain
from genserve.planners.interface import Policy
from genserve.planners.place import Places
from genserve.planners.view import Task, View

ON_TIME = 1000
LATE_CAP = 999
_VOLUME_RULES = ((15_667_200, 2), (30_412_800, 4), (59_904_000, 8))


class Choice(NamedTuple):
    degree: int
    worth: int


class TridentServe(Policy, frozen=True):
    """``memory_rules`` are those of the release, written for 48 GB."""

    title: ClassVar[str] = "tridentserve"

    every_ms: int = 500
    floor: float = 0.8
    filter_fix: bool = True
    memory_rules: bool = False
    queue_limit: int = 64

    def begin(self) -> int:
        """When the last dispatch was decided."""
        return -(1 << 60)

    def remember(self, memory: int, recorded: Recorded) -> int:
        event = recorded.event
        return event.clock_us if isinstance(event, PlanDecided) and event.note == "dispatch" else memory

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        next_us = memory + self.every_ms * 1000
        if state.clock_us < next_us:
            news = [r.request_id for r in state.requests.values() if r.is_idle and not r.told]
            told = tuple(Waiting(r, "waits for the next dispatch") for r in sorted(news))
            return Plan(waiting=told, note="dispatches twice a second at most", wake_at_us=next_us)
        view = View(state)
        waiting = [t for t in view.tasks if t.is_idle]
        waiting.sort(key=lambda t: (t.arrival_us, t.request_id))
        options = {t.request_id: self.choices(t, view.now_us) for t in waiting}
        picks = self._pick(waiting, options, view)
        actions = _starts(view, waiting, picks)
        started = {r for a in actions for r in getattr(a, "request_ids", ())}
        told = tuple(Waiting(t.request_id, _why(options, t)) for t in waiting if t.request_id not in started)
        return Plan(tuple(actions), told, "dispatch" if actions else "no machine has room")

    def choices(self, task: Task, now_us: float) -> list[Choice]:
        """The eligible degrees and what a start now at each is worth (M5.4)."""
        degrees = self.eligible(task)
        best_us = min((task.run_us(k) for k in degrees), default=1.0)
        found = []
        for k in degrees:
            late_us = now_us + task.run_us(k) + task.encode_us + task.decode_us - task.deadline_us
            worth = ON_TIME if late_us <= 0 else min(LATE_CAP, int(100 * (1 + late_us / best_us)) + (k - 1))
            found.append(Choice(k, worth))
        if found and all(c.worth == LATE_CAP for c in found):
            return found[:1]
        return found

    def eligible(self, task: Task) -> list[int]:
        spec = task.request.spec
        least = min_degree(spec) if self.memory_rules else 1
        known = [k for k in task.tau if k & (k - 1) == 0 and k <= max(task.degrees)]
        fits = [k for k in known if k >= least]
        efficient = [k for k in fits if task.tau[1] / task.tau[k] / k >= self.floor]
        return efficient or (fits[:1] if self.filter_fix else [])

    def _pick(self, waiting: list[Task], options: dict[str, list[Choice]], view: View) -> list[tuple[str, int, str]]:
        """(request, degree, node): a knapsack per machine, the one with most free GPUs first."""
        picks: list[tuple[str, int, str]] = []
        queue = [t for t in waiting if options[t.request_id]]
        queue.sort(key=lambda t: (-max(c.worth for c in options[t.request_id]), t.arrival_us, t.request_id))
        queue = queue[: self.queue_limit]
        for node in sorted(view.free, key=lambda n: (-len(view.free[n]), n)):
            degrees = knapsack([options[t.request_id] for t in queue], len(view.free[node]))
            picks += [(t.request_id, k, node) for t, k in zip(queue, degrees, strict=True) if k]
            queue = [t for t, k in zip(queue, degrees, strict=True) if not k]
        return picks


def knapsack(options: list[list[Choice]], free: int) -> list[int]:
    """Degrees (0 for not now) that maximise worth minus idle GPUs on one machine."""
    dp: list[tuple[int, tuple[int, ...]] | None] = [(0, ())] + [None] * free
    for choices in options:
        row: list[tuple[int, tuple[int, ...]] | None] = [None] * (free + 1)
        for used, cell in enumerate(dp):
            if cell is None:
                continue
            for degree, worth in ((0, 0), *choices):
                total = used + degree
                if total > free:
                    continue
                value = cell[0] + worth
                old = row[total]
                if old is None or value > old[0]:
                    row[total] = (value, (*cell[1], degree))
        dp = row
    best = max((cell[0] - (free - used), used) for used, cell in enumerate(dp) if cell is not None)
    found = dp[best[1]]
    assert found is not None
    return list(found[1])


def min_degree(spec: RequestSpec) -> int:
    """The memory rules of the release, for 48 GB GPUs."""
    shape = spec.shape
    if spec.media is Media.IMAGE:
        return 2 if shape in (Shape(2048, 2048), Shape(3072, 3072), Shape(4096, 4096)) else 1
    return max((k for volume, k in _VOLUME_RULES if shape.pixels > volume), default=1)


def _starts(view: View, waiting: list[Task], picks: list[tuple[str, int, str]]) -> list[AnyAction]:
    places, ids = Places(view), SegmentIds(view.state)
    tasks = {t.request_id: t for t in waiting}
    actions: list[AnyAction] = []
    for request_id, degree, node in sorted(picks, key=lambda p: (-p[1], p[0])):
        task = tasks[request_id]
        group = places.try_take(degree, home=task.request.home, node=node, model=task.request.spec.model)
        if group is not None:
            reason = f"knapsack of {node}: degree {degree}"
            actions.extend(chain((task.request,), group, ids=ids, after=places.last_on(group), reason=reason))
    return actions


def _why(options: dict[str, list[Choice]], task: Task) -> str:
    if not options[task.request_id]:
        return "no degree is both efficient and large enough for its memory"
    return "other starts are worth more on the free GPUs"
