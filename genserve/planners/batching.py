"""Which waiting requests share their steps, and up to which size that pays; not where or when they run.

Requests may share a batch that are equal in model, shape, step count and guidance, and stand at the same step. Two ways
to choose among those: ``share_steps``, ours, asks the cost table whether it pays, and ``join_in_order`` is GenServe's
M7, which asks only whether all stay on time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache

from genserve.domain.costs import CostTable
from genserve.domain.request import Shape, Stage
from genserve.planners.view import Task, View, by_key, profile_of

PAYS = 0.9
"""A batch pays if a step costs each of its requests at most this share of its cost in the next smaller one.

A batch makes its first member wait for the others and gives way at longer intervals. A gain within the spread of what
was measured (a few percent), or like GenServe's for large images (a batch of two takes 1.9 times one), isn't worth it.
"""

MAX_BATCH = 8
"""GenServe measured no larger ones."""


@lru_cache(maxsize=64)
def paying_sizes(costs: CostTable) -> dict[tuple[str, Shape], tuple[int, ...]]:
    """By model and shape, the batch sizes above 1 that pay on one GPU, ascending; classes without any are left out.

    A size that nobody measured for that very shape does not pay.
    """
    classes = {(c.model, c.shape) for c in costs.data.stages if c.stage is Stage.DENOISE and c.batch > 1}
    found = {kind: _paying(costs, *kind) for kind in sorted(classes)}
    return {kind: sizes for kind, sizes in found.items() if sizes}


def _paying(costs: CostTable, model: str, shape: Shape) -> tuple[int, ...]:
    sizes, best = [], float(costs.step_us(model, shape))
    for size in costs.batches(model, shape)[1:]:
        each = costs.step_us(model, shape, batch=size) / size
        if each <= PAYS * best:
            sizes.append(size)
            best = each
    return tuple(sizes)


def may_share(tasks: Iterable[Task], view: View) -> list[Task]:
    """Those that wait and belong to a class in which a batch pays."""
    sizes = paying_sizes(view.state.costs)
    return [t for t in tasks if t.is_idle and (t.request.spec.model, t.request.spec.shape) in sizes] if sizes else []


def share_steps(tasks: Iterable[Task], view: View, *, excess: int, margin_us: int = 0) -> list[Task]:
    """The waiting tasks by deadline, some of them together where that pays and is harmless.

    At most ``excess`` requests ride along with another: as many as there are more than GPUs, since a batch of requests
    that could each have a GPU only makes them slower.
    """
    alike: dict[Hashable, list[Task]] = {}
    for task in sorted(tasks, key=by_key):
        alike.setdefault(_likeness(task), []).append(task)
    found: list[Task] = []
    for queue in alike.values():
        spec = queue[0].request.spec
        sizes = paying_sizes(view.state.costs).get((spec.model, spec.shape), ())
        at = 0
        while at < len(queue):
            size = _largest_harmless(queue, at, [s for s in sizes if s <= excess + 1], view, margin_us=margin_us)
            found.append(view.together(queue[at : at + size]) if size > 1 else queue[at])
            at += size
            excess -= size - 1
    return sorted(found, key=by_key)


def _likeness(task: Task) -> Hashable:
    """Equal for tasks that may share a batch. Decodes take turns anyway and are nobody's like."""
    request = task.request
    if request.stage is Stage.DECODE:
        return request.request_id
    return request.spec.batch_key, request.stage, request.step


def _largest_harmless(queue: Sequence[Task], at: int, sizes: Sequence[int], view: View, *, margin_us: int) -> int:
    for size in reversed(sizes):
        if at + size <= len(queue) and is_harmless(queue[at : at + size], view, margin_us=margin_us):
            return size
    return 1


def is_harmless(members: Sequence[Task], view: View, *, margin_us: int = 0) -> bool:
    """Whether nobody loses by a batch of these that starts now on one GPU.

    Whoever could be on time alone, started now at any of its degrees, is on time in the batch. Those that are late
    anyway end on average no later than one after the other on that GPU; who waits behind them finds it free earlier.
    """
    began_us = view.now_us + margin_us
    ends_us = began_us + _batch_us(members, view)
    turn_us, later_us = began_us, 0.0
    for member in members:
        turn_us += _alone_us(member)
        if member.slack_us(began_us, member.fastest) < 0:
            later_us += ends_us - turn_us
        elif ends_us > member.deadline_us:
            return False
    return later_us <= 0


def _batch_us(members: Sequence[Task], view: View) -> float:
    """What a batch still takes on one GPU, encode and decode included."""
    first = members[0]
    spec = first.request.spec
    profile = profile_of(view.state.costs, spec.model, spec.shape, len(members))
    encode_us = profile.encode_us if first.encode_us else 0.0
    return first.steps * profile.step_us[1] * max(m.pace for m in members) + encode_us + profile.decode_us


def _alone_us(task: Task) -> float:
    return task.run_us(1) + task.encode_us + task.decode_us


def join_in_order(queue: Sequence[Task], view: View) -> list[Task]:
    """GenServe's M7, literally: a batch starts with each image; queued ones like it join while all stay on time."""
    left, found = list(queue), []
    while left:
        batch = first = left.pop(0)
        for other in tuple(left):
            if batch.size < MAX_BATCH and _likeness(other) == _likeness(first):
                larger = (*batch.parts, other)
                if all(view.now_us + _batch_us(larger, view) <= m.deadline_us for m in larger):
                    batch = view.together(larger)
                    left.remove(other)
        found.append(batch)
    return found
