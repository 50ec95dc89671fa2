"""What schedulers, workers and request actors say to each other; plain values that cross processes by pickle.

A segment command names a batch, a stage, a step range and a group of GPUs whose first member leads. Commands are
delivered at least once and are idempotent by ``segment_id``; a worker obeys or refuses with a code. A revision
takes effect at the next step boundary. Reports go to the request's actor in order, at least once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from genserve.diffusion.wires import Buffer
from genserve.domain.request import Checkpoint, RequestSpec, Stage

Content = Buffer
"""Embeddings or latents, as one worker gives them to another or as a checkpoint file has them."""


class Member(Struct, frozen=True):
    """One request of a batch: what to make, where its latents are, and whom to tell.

    ``home`` is the worker that may hold its latents in memory; ``checkpoint`` is what disk holds.
    """

    spec: RequestSpec
    attempt: int
    actor: str
    home: str = ""
    checkpoint: Checkpoint | None = None

    @property
    def request_id(self) -> str:
        return self.spec.request_id


class RunSegment(Struct, frozen=True):
    """Queue a segment. It begins when the worker's earlier segments have ended.

    ``from_step`` None means: where the stop of the segment before it leaves the request. ``epoch`` is the scheduler's;
    a group of two or more is one of the world's ``generation``. ``after_on`` names the worker that runs ``after``,
    where that is none of this group, and ``after_incarnation`` which of its lives: the segment begins when that has
    ended there, and lets others pass until then. Its members come from ``after``, and who leaves that early does not
    come, if it ``continues`` that; else it only stands behind it.
    """

    epoch: int
    segment_id: str
    stage: Stage
    model: str
    members: tuple[Member, ...]
    group: tuple[str, ...]
    from_step: int | None
    to_step: int
    after: str = ""
    generation: int = 0
    checkpoint_every: int = 0
    after_on: str = ""
    after_incarnation: int = 0
    continues: bool = True

    @property
    def leader(self) -> str:
        return self.group[0]

    @property
    def is_open(self) -> bool:
        """Whether it goes on from a stop; void for a request that does not stop."""
        return self.stage is Stage.DENOISE and self.from_step is None


class Revise(Struct, frozen=True):
    """Change a segment at its next boundary: stop all of it (pause), or take out some requests for good."""

    epoch: int
    segment_id: str
    stop: bool = False
    drop: tuple[str, ...] = ()


class HoldStage(Struct, frozen=True):
    """Load a stage's weights, or with ``keep`` off drop them, once the worker's earlier segments have ended."""

    epoch: int
    model: str
    stage: Stage
    keep: bool = True


Command = RunSegment | Revise | HoldStage


class World(Struct, frozen=True):
    """One generation of the workers of a node that can form groups: who, in rank order, and where they meet."""

    generation: int
    port: int
    roster: tuple[str, ...]


class Left(Struct, frozen=True):
    """Requests that left a segment before its end: by its stop, from which an open segment goes on, or for good."""

    stopped: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def parted(self, request_ids: Iterable[str], *, is_open: bool) -> tuple[str, ...]:
        """Those that do not come to what follows, which is an open segment or not."""
        early = {*self.stopped, *self.gone}
        return tuple(r for r in request_ids if (r not in self.stopped if is_open else r in early))


class HandOver(Struct, frozen=True):
    """A worker's wish for what another one holds of requests (ids and attempts), which gives it up.

    It is given once the segment ``after`` of that ``incarnation`` has ended, at once where that is empty, and of those
    who come to what follows: an open segment or not. On the same ``node`` it is sent straight to ``port``, where it is
    expected by ``name``; otherwise, or with no port, it is in the answer.
    """

    requests: tuple[tuple[str, int], ...]
    after: str = ""
    incarnation: int = 0
    is_open: bool = False
    node: str = ""
    port: int = 0
    name: str = ""


class HandedOver(Struct, frozen=True):
    """``left`` tells who left ``after`` early; None: it will not run. Contents by request; not of those not held."""

    left: Left | None
    contents: Mapping[str, Content] = {}


NOT_READY = "worker_not_ready"
"""The refusal of a process that nobody has greeted: not the one that was to get the command."""


class Answer(Struct, frozen=True):
    """What a worker says to a command: an empty ``refusal`` means it will obey.

    Refusal codes: stale_epoch, worker_not_ready, not_in_group, unknown_model, unsupported_degree, unknown_segment.
    """

    refusal: str = ""
    message: str = ""


class Hello(Struct, frozen=True):
    """A worker's self-description: ``segments`` are those it will still report on."""

    worker_id: str
    incarnation: int
    node: str
    device: str
    memory_bytes: int
    resident: tuple[tuple[str, Stage], ...]
    segments: tuple[str, ...]
    displaced: tuple[tuple[str, Stage], ...] = ()


class StageChange(Struct, frozen=True):
    """A stage's weights were loaded or, with ``is_loaded`` off, dropped; with a ``code`` it could not be done."""

    model: str
    stage: Stage
    is_loaded: bool
    took_us: int = 0
    memory_bytes: int = 0
    code: str = ""
    message: str = ""
    displaced: bool = False


# ── reports: worker -> request actor ─────────────────────────────────────────────────────────────────────


class Report(Struct, frozen=True):
    """Base of reports on one request in one segment."""

    request_id: str
    attempt: int
    segment_id: str


class Began(Report, frozen=True):
    """The segment's work has begun; ``at_us``, here and below, is the worker's clock."""

    stage: Stage
    workers: tuple[str, ...]
    batch: int
    from_step: int
    at_us: int = 0


class Stepped(Report, frozen=True):
    """One more denoising step ran: ``step`` are done now, ``busy_us`` is the sum of this segment's step times."""

    step: int
    busy_us: int
    degree: int
    batch: int
    at_us: int = 0


class Snapshot(Report, frozen=True):
    """Latents after ``step`` steps, as the bytes of a checkpoint file."""

    step: int
    content: bytes


class Preview(Report, frozen=True):
    """Frames of an unfinished image, uint8 (frames, height, width, 3)."""

    index: int
    frames: Any


class Ended(Report, frozen=True):
    """The stage is complete and its GPU free; a decode's result follows."""

    stage: Stage
    took_us: int
    at_us: int = 0


class Decoded(Report, frozen=True):
    """The result of a decode: ``frames``, uint8 (frames, height, width, 3)."""

    frames: Any


class Stopped(Report, frozen=True):
    """The segment stopped before its end because it was told to; ``home`` holds the latents, if there are any.

    ``goes_on``: an open segment goes on from there at once.
    """

    step: int
    home: str
    at_us: int = 0
    goes_on: bool = False


class Dropped(Report, frozen=True):
    """The request was taken out of the segment for good."""


class Failed(Report, frozen=True):
    """The attempt cannot go on."""

    code: str
    message: str
    retryable: bool


AnyReport = Began | Stepped | Snapshot | Preview | Ended | Decoded | Stopped | Dropped | Failed
