"""A segment on simulated GPUs and what the cluster knows about a request; mutable, and owned by the fleet."""

from __future__ import annotations

from genserve.domain.cluster import Request, Segment
from genserve.domain.plan import Start
from genserve.domain.request import RequestSpec, Status


class Sample:
    """What the cluster knows about one request: where its latents are and how far they got."""

    __slots__ = ("attempt", "degree", "home", "jobs", "spec", "step", "was_paused")

    def __init__(self, request: Request) -> None:
        self.spec: RequestSpec = request.spec
        self.attempt = request.attempt
        self.step = request.step
        self.degree = request.degree
        self.home = request.home
        self.was_paused = request.status is Status.PAUSED
        self.jobs: list[str] = []


class Job:
    """A segment on simulated GPUs.

    ``ready_us`` is when its workers have heard of it, ``began_us`` when its first step began; ``ticket`` voids stale
    happenings.
    """

    __slots__ = (
        "after", "began_us", "from_step", "is_open", "is_running", "members", "model", "paid_us", "period_us",
        "ready_us", "reported", "segment_id", "stage", "stopping", "ticket", "to_step", "workers",
    )  # fmt: skip

    def __init__(self, start: Start | Segment) -> None:
        self.segment_id = start.segment_id
        self.members = list(start.request_ids)
        self.model = start.model
        self.stage = start.stage
        self.workers = start.workers
        self.from_step = start.from_step
        self.to_step = start.to_step
        self.after = start.after
        self.is_open = start.is_open
        self.is_running = False
        self.stopping = False
        self.ready_us = 0
        self.began_us = 0
        self.paid_us = 0
        self.period_us = 1
        self.reported = 0
        self.ticket = 0

    def boundary_after(self, now_us: int) -> int:
        """The step count at the next boundary; a segment that started always runs a step."""
        return self.reported_base + max(0, now_us - self.began_us) // self.period_us + 1

    @property
    def reported_base(self) -> int:
        return self.from_step or 0

    def time_of(self, step: int) -> int:
        return self.began_us + (step - self.reported_base) * self.period_us
