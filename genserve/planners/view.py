"""What a planner needs to know about each live request, computed once per decision; not a decision.

Requests that share their steps are one task: they hold one group and stop at one boundary. Steps left count the step
in flight as a fraction. Times are microseconds as floats; they never leave the planner.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from genserve.domain.cluster import ClusterState, Request, Segment
from genserve.domain.costs import CostTable
from genserve.domain.estimate import is_stopping, steps_done
from genserve.domain.placement import ending, is_free
from genserve.domain.request import Media, Shape, Stage, Status
from genserve.planners.layout import layout_of


class Profile(NamedTuple):
    """A class of requests by the cost table: useful degrees with their step times, encode and decode on one GPU.

    Of a batch: those of all its members together, at the degrees at which a batch of that size was measured.
    ``growth`` is, by degree, the next wider one and how well the added GPUs work compared with a single one.
    ``store_us`` passes between the pixels and the stored result, on no GPU.
    """

    degrees: tuple[int, ...]
    step_us: dict[int, float]
    encode_us: float
    decode_us: float
    growth: dict[int, tuple[int, float]]
    store_us: int = 0


@lru_cache(maxsize=4096)
def profile_of(costs: CostTable, model: str, shape: Shape, batch: int = 1) -> Profile:
    degrees = costs.degrees(model, shape)
    steps = {k: float(costs.step_us(model, shape, degree=k, batch=batch)) for k in degrees}
    encode_us, decode_us = (float(costs.stage_us(model, s, shape, batch=batch)) for s in (Stage.ENCODE, Stage.DECODE))
    if batch > 1:
        degrees = tuple(k for k in degrees if batch in costs.batches(model, shape, degree=k)) or degrees[:1]
    growth = {a: (b, (steps[1] / steps[b] - steps[1] / steps[a]) / (b - a)) for a, b in pairwise(degrees)}
    return Profile(degrees, steps, encode_us, decode_us, growth, costs.store_us(model, shape))


class Task:
    """A live request, or a batch of several, as a planner sees it.

    ``members`` are the tasks of a batch, () for a single request; a batch goes by the request of one of them.
    ``running`` is its denoising segment, ``node`` and ``degree`` that segment's place and width ("" and 0 if it doesn't
    run), ``last`` the width it last ran at. ``is_idle``: it may be started, at once or from the stop that it is about
    to make. ``is_bound``: its pixels only wait for encode or decode, or what it goes on with is queued; it can't be
    interrupted and needs no decision now. ``deadline_us`` is when its pixels have to exist, so that the result is
    stored in time.
    """

    __slots__ = (
        "arrival_us", "boundary_us", "deadline_us", "decode_us", "degree", "degrees", "encode_us", "growth", "is_bound",
        "is_idle", "is_stopping", "key", "last", "members", "need", "node", "pace", "request", "request_id", "running",
        "steps", "tau", "work",
    )  # fmt: skip

    def __init__(self, request: Request, profile: Profile, pace: float, largest: int) -> None:
        spec = request.spec
        self.request = request
        self.request_id = spec.request_id
        self.members: tuple[Task, ...] = ()
        self.deadline_us = spec.deadline_us - profile.store_us
        self.arrival_us = spec.arrival_us
        self.degrees = profile.degrees if profile.degrees[-1] <= largest else _within(profile.degrees, largest)
        self.tau = profile.step_us
        self.growth = profile.growth
        self.pace = pace
        self.encode_us = profile.encode_us if request.stage is Stage.ENCODE else 0.0
        self.decode_us = profile.decode_us
        self.steps = 0.0 if request.stage is Stage.DECODE else float(spec.steps - request.step)
        self.last = request.degree
        self.running: Segment | None = None
        self.node = ""
        self.degree = 0
        self.boundary_us = 0.0
        self.is_bound = False
        self.is_stopping = False
        self.is_idle = not request.segments
        self.need = 0
        self.work = 0.0
        self.key = (spec.deadline_us, spec.request_id)

    @property
    def is_image(self) -> bool:
        return self.request.spec.media is Media.IMAGE

    @property
    def was_paused(self) -> bool:
        return self.request.status is Status.PAUSED

    @property
    def size(self) -> int:
        """How many requests it is."""
        return len(self.members) or 1

    @property
    def requests(self) -> tuple[Request, ...]:
        return tuple(m.request for m in self.members) if self.members else (self.request,)

    @property
    def parts(self) -> tuple[Task, ...]:
        """What a batch that has not been started may be taken apart into."""
        return self.members if self.members and self.is_idle else (self,)

    def step_us(self, degree: int) -> float:
        return self.tau[degree] * self.pace

    def run_us(self, degree: int) -> float:
        """The denoising still to do, at that degree."""
        return self.steps * self.tau[degree] * self.pace

    @property
    def alone_us(self) -> float:
        """GPU time of the whole request on one GPU."""
        steps = self.request.spec.steps * self.tau[1] * self.pace
        return steps + self.decode_us + self.encode_us

    @property
    def fastest(self) -> int:
        return self.degrees[-1]

    def slack_us(self, now_us: float, degree: int) -> float:
        return self.deadline_us - now_us - self.run_us(degree) - self.decode_us - self.encode_us


@lru_cache(maxsize=64)
def _within(degrees: tuple[int, ...], largest: int) -> tuple[int, ...]:
    return tuple(k for k in degrees if k <= largest) or degrees[:1]


class View:
    """The cluster for one decision: tasks by deadline, GPUs that are free, and work that can't be interrupted.

    GPUs that are about to be free count as free; ``ending`` are the segments that they end with, and ``stops`` those
    where a request is about to stop that may go on there. ``held`` are the GPUs of bound tasks.
    """

    def __init__(self, state: ClusterState) -> None:
        self.state = state
        self.now_us = float(state.clock_us)
        self.prices = state.costs.prices
        self.able, self.node_of, self.nodes, self.largest = layout_of(state)
        self.ending: dict[str, str] = {}
        self.free = self._free()
        self.gpus = len(self.able)
        self._classes: dict[tuple[str, Shape], tuple[Profile, float]] = {}
        self._bound: list[float] = []
        self.held: set[str] = set()
        self.stops: set[str] = set()
        self.tasks = self._tasks()
        self._all_bound_us = sum(self._bound)
        self._longest_bound_us = max(self._bound, default=0.0)

    def _free(self) -> dict[str, list[str]]:
        """By node. Nobody who denoises is about to be free where nobody has measured a dispatch."""
        state, denoise = self.state, Stage.DENOISE
        segments = () if state.dispatch_us else state.segments.values()
        busy = {w for s in segments if s.stage is denoise for w in s.workers}
        found = {node: [w for w in ids if w not in busy and self._is_free(w)] for node, ids in self.nodes.items()}
        return {node: free for node, free in found.items() if free}

    def _is_free(self, worker_id: str) -> bool:
        """Now or soon: then it is told behind what."""
        worker = self.state.workers[worker_id]
        if is_free(self.state, worker):
            return True
        last = ending(self.state, worker)
        if last:
            self.ending[worker_id] = last
        return bool(last)

    @property
    def free_count(self) -> int:
        return sum(len(w) for w in self.free.values())

    def is_taken(self, worker_id: str) -> bool:
        """Whether the end of what it runs is out of sight; of a GPU to plan with that is not idle."""
        return worker_id in self.able and worker_id not in self.ending

    @property
    def open_gpus(self) -> int:
        """GPUs that no bound task holds: those that run something else may be had at its next boundary."""
        return self.gpus - len(self.held)

    def bound_us(self, horizon_us: float) -> float:
        """GPU time within the horizon that is bound to what cannot be interrupted: a decode that outlasts it counts
        only up to there."""
        if self._longest_bound_us <= horizon_us:
            return self._all_bound_us
        return sum(left if left < horizon_us else horizon_us for left in self._bound)

    def together(self, members: Sequence[Task]) -> Task:
        """Tasks of equal batch key as one, which goes by the member whose progress is furthest known.

        It is due with the first of those that can still be on time; with the first of all if none can.
        """
        first = min(members, key=_by_progress)
        spec = first.request.spec
        profile = profile_of(self.state.costs, spec.model, spec.shape, len(members))
        task = Task(first.request, profile, max(m.pace for m in members), self.largest)
        task.members = tuple(sorted(members, key=by_key))
        finish_us = self.now_us + task.run_us(1) + task.encode_us + task.decode_us
        due = next((m for m in task.members if m.deadline_us >= finish_us), task.members[0])
        task.deadline_us, task.arrival_us = due.deadline_us, due.arrival_us
        task.key = (task.deadline_us, task.request_id)
        return task

    def _tasks(self) -> list[Task]:
        """By deadline. The last segment of a chain tells who shares it, whatever their reports have reached."""
        tasks: list[Task] = []
        chains: dict[str, list[Task]] = {}
        for request in self.state.requests.values():
            if request.status is Status.FINISHING or request.cancelling or request.fatal:
                continue
            task = self.task(request)
            if request.segments:
                chains.setdefault(request.segments[-1], []).append(task)
            else:
                tasks.append(task)
        for members in chains.values():
            task = members[0] if len(members) == 1 else self.together(members)
            self._place(task)
            tasks.append(task)
        tasks.sort(key=by_key)
        return tasks

    def task(self, request: Request) -> Task:
        """A request by itself, as if it ran nowhere."""
        profile, pace = self.class_of(request.spec.model, request.spec.shape)
        own = request.pace_permille
        return Task(request, profile, own / 1000 if own else pace, self.largest)

    def _place(self, task: Task) -> None:
        """Where it runs, and how far the step in flight has come."""
        request, segments = task.request, self.state.segments
        head = segments[request.segments[0]]
        if head.yielding and self._is_settled(task, head):
            return
        if head.stage is not Stage.DENOISE or not head.is_running or (self.ending and self._is_ending(head)):
            self._bind(task, [segments[s] for s in request.segments])
            return
        task.running = head
        task.node = self.node_of[head.leader]
        task.degree = head.degree
        task.is_stopping = head.yielding
        period = task.step_us(task.degree) if len(head.request_ids) == 1 else self._batch_step_us(task, head)
        passed = max(0.0, self.now_us - head.boundary_us) / period
        done = min(passed, head.to_step - request.step - 0.001)
        task.steps = max(0.0, task.steps - done)
        task.boundary_us = head.boundary_us + (int(passed) + 1) * period

    def _is_settled(self, task: Task, head: Segment) -> bool:
        """Of one that is to stop: whether what it goes on with is queued, or it is so near that it counts as idle."""
        live = [self.state.segments[s] for s in task.request.segments]
        beyond = next((i for i, s in enumerate(live) if i and s.is_open), 0)
        if beyond:
            self._bind(task, live[beyond:])
            self.held.update(w for w in head.workers if self.is_taken(w))
        elif head.leader in self.ending and is_stopping(self.state, head):
            self.stops.add(head.leader)
            task.is_idle = True
            task.steps = float(head.to_step - steps_done(self.state, task.request) - 1)
        return bool(beyond) or task.is_idle

    def _batch_step_us(self, task: Task, segment: Segment) -> float:
        spec, batch = task.request.spec, len(segment.request_ids)
        return self.state.costs.step_us(spec.model, spec.shape, degree=segment.degree, batch=batch) * task.pace

    def _is_ending(self, segment: Segment) -> bool:
        """Whether some of its GPUs are about to be free: then it has done its steps, but for what the log will tell."""
        return not self.ending.keys().isdisjoint(segment.workers)

    def _bind(self, task: Task, live: list[Segment]) -> None:
        """In encode or decode, or queued behind something: left alone. Its GPUs, if they are any, count as taken."""
        task.is_bound = True
        denoise = next((s for s in live if s.stage is Stage.DENOISE and not self._is_ending(s)), None)
        task.degree = denoise.degree if denoise is not None else 1
        last = live[-1]
        if denoise is None and self.is_taken(last.leader):
            began = last.started_us or self.now_us
            self._bound.append(max(0.0, task.decode_us - max(0.0, self.now_us - began)))
        group = last.workers if denoise is None else denoise.workers
        self.held.update(w for w in group if self.is_taken(w))

    def class_of(self, model: str, shape: Shape) -> tuple[Profile, float]:
        """A class's profile and its pace: measured over estimated step time, 1 before anything was measured."""
        key = (model, shape)
        found = self._classes.get(key)
        if found is None:
            pace = self.state.pace.get(f"{model}/{shape}")
            found = profile_of(self.state.costs, model, shape), pace.permille / 1000 if pace else 1.0
            self._classes[key] = found
        return found


def by_key(task: Task) -> tuple[int, str]:
    return task.key


def _by_progress(task: Task) -> tuple[int, int, tuple[int, str]]:
    """Furthest first: fewest segments to come, then most steps done."""
    return len(task.request.segments), -task.request.step, task.key
