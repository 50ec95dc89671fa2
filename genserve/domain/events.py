"""Every fact the log can hold, and the envelope it is recorded in; not how facts change the state (see evolve).

Facts are grouped by stream: ``request/<id>``, ``worker/<id>`` and ``scheduler``. Fields are never renamed or
given a new meaning: a change raises ``schema_version`` and adds an upcast in ``genserve.journal.codec``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from msgspec import Struct

from genserve.domain.costs import CostData
from genserve.domain.plan import AnyAction, Waiting
from genserve.domain.request import Artifact, RequestSpec, Stage


class Kind(StrEnum):
    """What-if runs feed exogenous facts to another planner; the rest is derived again."""

    EXOGENOUS = "exogenous"
    DECISION = "decision"
    OUTCOME = "outcome"
    OPERATIONAL = "operational"


class Event(Struct, frozen=True, omit_defaults=True):
    """Base of all facts. ``durable`` facts are awaited by whoever appends them; others are only ordered."""

    schema_version: ClassVar[int] = 1
    kind: ClassVar[Kind] = Kind.OUTCOME
    durable: ClassVar[bool] = True


# ── request/<id> ─────────────────────────────────────────────────────────────────────────────────────────


class RequestSubmitted(Event, frozen=True):
    """``verdict_by_us``: admission has until then to promise the deadline or refuse; 0 where nobody is refused."""

    kind: ClassVar[Kind] = Kind.EXOGENOUS
    request: RequestSpec
    verdict_by_us: int = 0


class RequestAdmitted(Event, frozen=True):
    """Its deadline is promised, with the pool filled up to ``fill``; 0 if there was no test any more."""

    kind: ClassVar[Kind] = Kind.DECISION
    fill: float = 0.0


class CancelRequested(Event, frozen=True):
    kind: ClassVar[Kind] = Kind.EXOGENOUS
    reason: str = ""


class StageStarted(Event, frozen=True):
    """A segment began to run on its group; ``from_step`` counts steps already done.

    ``at_us``, here and below, is the worker's clock at that moment, 0 where no worker said: the fact itself reaches the
    log a little later.
    """

    durable: ClassVar[bool] = False
    segment_id: str
    stage: Stage
    attempt: int
    workers: tuple[str, ...]
    batch: int = 1
    from_step: int = 0
    at_us: int = 0


class StepsFinished(Event, frozen=True):
    """Denoising steps ``from_step`` (inclusive) to ``to_step`` (exclusive) ran; ``took_us`` is their sum.

    ``segment_id`` and ``attempt`` say whose steps they are: steps of an older attempt were run again.
    """

    durable: ClassVar[bool] = False
    segment_id: str
    attempt: int
    from_step: int
    to_step: int
    took_us: int
    degree: int = 1
    batch: int = 1
    at_us: int = 0


class StageFinished(Event, frozen=True):
    """A stage is complete. After decode the group is free and the pixels are on their way to the request actor."""

    segment_id: str
    stage: Stage
    attempt: int
    took_us: int
    at_us: int = 0


class RequestPaused(Event, frozen=True):
    """The segment stopped at a boundary before its end; ``home`` is the worker that keeps the latents."""

    segment_id: str
    attempt: int
    step: int
    home: str
    at_us: int = 0


class LatentsCheckpointed(Event, frozen=True):
    """``took_us`` is what writing the file took, 0 if nobody measured it."""

    attempt: int
    step: int
    uri: str
    size_bytes: int
    sha256: str
    took_us: int = 0


class ArtifactStored(Event, frozen=True):
    """``index`` numbers partial images from 0."""

    artifact: Artifact
    index: int = 0


class AnswerScored(Event, frozen=True):
    """The light model of a cascade has answered, and how good the answer is; it stands unless the plan defers it."""

    attempt: int
    score_permille: int


class AttemptFailed(Event, frozen=True):
    """This attempt is over; the request goes on from its checkpoint as the next one, if the budget allows."""

    attempt: int
    code: str
    message: str
    retryable: bool = True

    @property
    def spoils_checkpoint(self) -> bool:
        """Whether the checkpoint itself is no good, so that the next attempt begins at step 0."""
        return self.code in ("checkpoint_lost", "checkpoint_corrupt", "checkpoint_mismatch")


class RequestCompleted(Event, frozen=True):
    attempt: int


class RequestCancelled(Event, frozen=True):
    reason: str = ""


class RequestFailed(Event, frozen=True):
    """``quote_us``, of a request that admission refused: the earliest deadline that could have been promised."""

    code: str
    message: str
    quote_us: int = 0


class RequestDeleted(Event, frozen=True):
    """The client no longer wants to see the request: about its record, not its work, so it may follow the end."""

    kind: ClassVar[Kind] = Kind.OPERATIONAL


# ── worker/<id> ──────────────────────────────────────────────────────────────────────────────────────────


class WorkerJoined(Event, frozen=True):
    """A worker process is up. ``incarnation`` rises with every restart of the same worker.

    ``displaced`` are the stages that it is to hold and has no room for beside the others.
    """

    kind: ClassVar[Kind] = Kind.EXOGENOUS
    worker_id: str
    incarnation: int
    node: str = "node-0"
    device: str = "cpu"
    memory_bytes: int = 0
    resident: tuple[tuple[str, Stage], ...] = ()
    displaced: tuple[tuple[str, Stage], ...] = ()


class WorkerLost(Event, frozen=True):
    """The worker is gone (died, left, or unreachable); everything in its memory with it."""

    kind: ClassVar[Kind] = Kind.EXOGENOUS
    worker_id: str
    incarnation: int
    reason: str


class StageLoaded(Event, frozen=True):
    kind: ClassVar[Kind] = Kind.OPERATIONAL
    worker_id: str
    model: str
    stage: Stage
    took_us: int
    memory_bytes: int = 0


class StageUnloaded(Event, frozen=True):
    """``memory_bytes`` are free again. ``displaced``: it gave way to another stage and keeps its place here."""

    kind: ClassVar[Kind] = Kind.OPERATIONAL
    worker_id: str
    model: str
    stage: Stage
    took_us: int = 0
    memory_bytes: int = 0
    displaced: bool = False


# ── scheduler ────────────────────────────────────────────────────────────────────────────────────────────


class LeaderElected(Event, frozen=True):
    kind: ClassVar[Kind] = Kind.OPERATIONAL
    epoch: int
    holder: str


class PlannerChanged(Event, frozen=True):
    """The policy from here on. ``parameters`` are enough to build it again; ``digest`` covers both.

    ``reason`` tells how the one before it failed, if it did; empty where an operator's settings say so.
    """

    kind: ClassVar[Kind] = Kind.OPERATIONAL
    name: str
    digest: str
    parameters: dict[str, bool | int | float | str]
    reason: str = ""


class CostsUpdated(Event, frozen=True):
    kind: ClassVar[Kind] = Kind.EXOGENOUS
    costs: CostData


class PlanDecided(Event, frozen=True):
    """A decision with everything needed to make it again.

    It saw the state folded up to ``input_position`` at ``clock_us``. ``waiting`` lists only requests whose
    reason changed since it was last told. ``took_us`` is telemetry and no part of the decision.
    """

    kind: ClassVar[Kind] = Kind.DECISION
    input_position: int
    clock_us: int
    planner: str
    planner_digest: str
    costs_digest: str
    state_digest: str
    actions: tuple[AnyAction, ...]
    waiting: tuple[Waiting, ...] = ()
    note: str = ""
    wake_at_us: int = 0
    took_us: int = 0


class WakeReached(Event, frozen=True):
    """The time has come that a plan asked to be woken at; 0 when a new leader wants its first decision."""

    kind: ClassVar[Kind] = Kind.OPERATIONAL
    durable: ClassVar[bool] = False
    wake_at_us: int = 0


class ActionRefused(Event, frozen=True):
    """A worker would not do what it was told, and why; its requests may be planned again."""

    segment_id: str
    worker_id: str
    code: str
    message: str


AnyEvent = (
    RequestSubmitted
    | RequestAdmitted
    | CancelRequested
    | StageStarted
    | StepsFinished
    | StageFinished
    | RequestPaused
    | LatentsCheckpointed
    | ArtifactStored
    | AnswerScored
    | AttemptFailed
    | RequestCompleted
    | RequestCancelled
    | RequestFailed
    | RequestDeleted
    | WorkerJoined
    | WorkerLost
    | StageLoaded
    | StageUnloaded
    | LeaderElected
    | PlannerChanged
    | CostsUpdated
    | PlanDecided
    | WakeReached
    | ActionRefused
)

REQUEST_ENDS = (RequestCompleted, RequestCancelled, RequestFailed)
"""The facts that end a request: one of them, once."""

EVENT_TYPES: dict[str, type[Event]] = {cls.__name__: cls for cls in AnyEvent.__args__}


class Recorded(Struct, frozen=True):
    """An event with its place in the log.

    ``position`` counts the whole log from 1 without gaps, ``version`` counts the stream from 1.
    ``recorded_us`` never falls from one position to the next; ``occurred_us`` is the producer's clock.
    """

    position: int
    stream: str
    version: int
    recorded_us: int
    event: AnyEvent
    occurred_us: int = 0
    event_id: str = ""
    causation_position: int = 0
    fence: int = 0

    @property
    def happened_us(self) -> int:
        """By the clock of the worker that told, which may be another machine's; never later than recorded."""
        return min(getattr(self.event, "at_us", 0) or self.recorded_us, self.recorded_us)
