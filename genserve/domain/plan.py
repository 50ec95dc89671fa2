"""What a planner answers: actions with reasons, and a reason for everyone left waiting."""

from __future__ import annotations

from msgspec import Struct

from genserve.domain.request import Stage


class Action(Struct, frozen=True, tag_field="do", omit_defaults=True):
    """Base of what a plan can ask for; ``reason`` is for people who read the log."""


class Start(Action, frozen=True, tag="start"):
    """Run one stage of a batch on a group: the first worker leads.

    ``from_step`` is None where the stop of the segment named by ``after`` decides it (a regroup at an unknown
    boundary): void, with what comes after it, where that segment is gone by then or ends without a stop.
    For encode and decode both steps are 0. The segment waits in its workers' queues behind ``after``.
    """

    segment_id: str
    request_ids: tuple[str, ...]
    model: str
    stage: Stage
    workers: tuple[str, ...]
    reason: str
    from_step: int | None = 0
    to_step: int = 0
    after: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it goes on from a stop whose step is not known yet."""
        return self.stage is Stage.DENOISE and self.from_step is None


class Yield(Action, frozen=True, tag="yield"):
    """Stop a segment at its next step boundary; its requests pause, their later segments are dropped, but for an open
    one (``from_step`` None) and what comes after it.
    """

    segment_id: str
    reason: str


class Cancel(Action, frozen=True, tag="cancel"):
    """Take one request out of its segments for good, at the next step boundary."""

    request_id: str
    reason: str


class Accept(Action, frozen=True, tag="accept"):
    """The light answer of a cascade stands: the request completes."""

    request_id: str
    reason: str


class Defer(Action, frozen=True, tag="defer"):
    """The light answer is not good enough: the request begins anew on its heavy model."""

    request_id: str
    reason: str


class Load(Action, frozen=True, tag="load"):
    """Bring a stage's weights onto a worker."""

    worker_id: str
    model: str
    stage: Stage
    reason: str


class Unload(Action, frozen=True, tag="unload"):
    """Drop a stage's weights from a worker."""

    worker_id: str
    model: str
    stage: Stage
    reason: str


AnyAction = Start | Yield | Cancel | Accept | Defer | Load | Unload


class Waiting(Struct, frozen=True):
    """Why a request was left waiting."""

    request_id: str
    reason: str


class Plan(Struct, frozen=True):
    """One decision. No actions is a plan too, and ``note`` then says why.

    ``wake_at_us`` asks to be called at that time even if nothing happens; 0 asks for nothing.
    """

    actions: tuple[AnyAction, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    note: str = ""
    wake_at_us: int = 0
