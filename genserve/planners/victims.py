"""Which running tasks are told to stop so that others have room; not who gets the room."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from genserve.planners.view import Task


def interruptible(tasks: Iterable[Task]) -> list[Task]:
    """Those that run and have more than the step in flight to do."""
    return [t for t in tasks if t.running is not None and not t.is_stopping and t.steps > 1]


def choose_victims(missing: int, tasks: Sequence[Task], wanted: Mapping[str, int], *, may_pause: bool) -> list[Task]:
    """Tasks that are wanted narrower or not at all, nearest step boundary first, until enough GPUs are freed.

    Without ``may_pause`` only those that go on with fewer.
    """
    victims: list[Task] = []
    for task in sorted(interruptible(tasks), key=_by_boundary):
        if missing <= 0:
            break
        target = wanted[task.request_id]
        if target < task.degree and (target or may_pause):
            victims.append(task)
            missing -= task.degree - target
    return victims


def find_near_video(latest_us: float, tasks: Iterable[Task], urgent: Collection[str], *, now_us: float) -> Task | None:
    """The video with the nearest boundary, no later than that; one that is urgent has to keep a second of slack."""
    fits = [
        t
        for t in interruptible(tasks)
        if not t.is_image
        and t.boundary_us <= latest_us
        and (t.request_id not in urgent or t.slack_us(now_us, t.fastest) > 1_000_000)
    ]
    return min(fits, key=_by_boundary, default=None)


def _by_boundary(task: Task) -> tuple[float, str]:
    return task.boundary_us, task.request_id
