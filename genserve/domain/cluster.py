"""The cluster as a value: every live request, segment and worker; not how it changes (see evolve).

Only live requests are kept: a completed, cancelled or failed one leaves the state and stays in the log.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from genserve.domain.costs import CostData, CostTable
from genserve.domain.request import Checkpoint, RequestSpec, Stage, Status


class Request(Struct, frozen=True):
    """A live request.

    ``stage`` and ``step`` are what comes next: the stage to run and the denoising steps already done.
    ``home`` names the worker whose memory holds its embeddings and latents, "" when none does.
    ``pace_permille`` is measured over estimated step time of its last steps, 0 before the first.
    ``fault`` is why its last attempt ended, ``fatal`` the code of a fault that no further attempt can mend.
    """

    spec: RequestSpec
    submitted_us: int
    status: Status = Status.WAITING
    stage: Stage = Stage.ENCODE
    step: int = 0
    attempt: int = 0
    segments: tuple[str, ...] = ()
    home: str = ""
    degree: int = 0
    checkpoint: Checkpoint | None = None
    started_us: int = 0
    changed_us: int = 0
    pauses: int = 0
    regroups: int = 0
    failures: int = 0
    fatal: str = ""
    fault: str = ""
    cancelling: bool = False
    stopping: bool = False
    pace_permille: int = 0
    told: str = ""
    score_permille: int = -1

    @property
    def request_id(self) -> str:
        return self.spec.request_id

    @property
    def steps_left(self) -> int:
        return self.spec.steps - self.step

    @property
    def is_answered(self) -> bool:
        """Whether the light model of a cascade has answered and nobody has decided about the answer yet."""
        return self.score_permille >= 0

    @property
    def is_idle(self) -> bool:
        """Whether it waits for GPUs: not in any segment, not finishing, not being cancelled."""
        return not self.segments and self.status is not Status.FINISHING and not self.cancelling


class Undecided(Struct, frozen=True):
    """A request that waits for admission's verdict, until ``verdict_by_us`` at most; planners don't see it."""

    spec: RequestSpec
    submitted_us: int
    verdict_by_us: int
    cancelling: bool = False


class Segment(Struct, frozen=True):
    """A stage of a batch, queued or running on a group; the first worker leads.

    ``boundary_us`` is when the last boundary known to the log was passed, 0 before the start; it and ``started_us`` are
    by the worker's clock where it told. ``decided_us`` is when it was decided, 0 unless all its workers were idle then.
    """

    segment_id: str
    request_ids: tuple[str, ...]
    model: str
    stage: Stage
    workers: tuple[str, ...]
    from_step: int | None
    to_step: int
    after: str = ""
    decided_us: int = 0
    started_us: int = 0
    boundary_us: int = 0
    yielding: bool = False

    @property
    def leader(self) -> str:
        return self.workers[0]

    @property
    def is_open(self) -> bool:
        """Whether it goes on from a stop whose step is not known yet; void if the stop does not come."""
        return self.stage is Stage.DENOISE and self.from_step is None

    @property
    def degree(self) -> int:
        return len(self.workers)

    @property
    def is_running(self) -> bool:
        return self.started_us > 0


class Worker(Struct, frozen=True):
    """One GPU. ``queue`` holds its segments in the order in which it will run them.

    ``displaced`` are stages that are not resident for want of room, and are to be run here all the same. Unset, and so
    in no digest, where there are none.
    """

    worker_id: str
    incarnation: int
    node: str = "node-0"
    device: str = "cpu"
    memory_bytes: int = 0
    resident: tuple[tuple[str, Stage], ...] = ()
    queue: tuple[str, ...] = ()
    displaced: tuple[tuple[str, Stage], ...] | UnsetType = UNSET

    @property
    def placed(self) -> tuple[tuple[str, Stage], ...]:
        """The stages that are run here, loaded or not."""
        return (*self.resident, *(self.displaced or ()))


class Pace(Struct, frozen=True):
    """Running mean of measured over estimated step time for one class of requests."""

    permille: int
    samples: int


class ClusterState(Struct, frozen=True):
    """Everything a planner may look at. ``clock_us`` is the time of the decision being made.

    ``dispatch_us`` is a running mean of what lies between a decision and the first work of an idle worker, as the log
    sees both. It and ``undecided`` are unset, and so in no digest, while they say nothing: digests of older logs stay
    true.
    """

    position: int = 0
    recorded_us: int = 0
    clock_us: int = 0
    epoch: int = 0
    planner_digest: str = ""
    requests: dict[str, Request] = {}
    segments: dict[str, Segment] = {}
    workers: dict[str, Worker] = {}
    pace: dict[str, Pace] = {}
    costs: CostTable = CostTable(CostData(name="none"))
    undecided: dict[str, Undecided] | UnsetType = UNSET
    dispatch_us: int | UnsetType = UNSET
