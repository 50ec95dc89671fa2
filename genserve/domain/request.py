"""What a client asked for and where it stands; not how it is scheduled (see cluster, plan)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

Side = Annotated[int, Meta(ge=1)]


class Media(StrEnum):
    IMAGE = "image"
    VIDEO = "video"


class Stage(StrEnum):
    """The three stages of a diffusion request, in order."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"


class Status(StrEnum):
    """Where a request stands.

    WAITING -> RUNNING -> (PAUSED | WAITING) -> RUNNING -> FINISHING -> COMPLETED, and from anywhere
    but a final state to CANCELLED or FAILED. FINISHING means that the pixels exist and are being stored.
    """

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHING = "finishing"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (Status.COMPLETED, Status.CANCELLED, Status.FAILED)


class Shape(Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """Pixels of the result; an image has one frame."""

    width: Side
    height: Side
    frames: Side = 1

    @property
    def pixels(self) -> int:
        return self.width * self.height * self.frames

    def __str__(self) -> str:
        size = f"{self.width}x{self.height}"
        return size if self.frames == 1 else f"{size}x{self.frames}"


class RequestSpec(Struct, frozen=True, omit_defaults=True):
    """Everything a client asked for, with defaults filled in; it never changes.

    Times are microseconds since the epoch. ``deadline_us`` is when the result has to be stored.
    ``group_id`` binds the n images of one call; ``traceparent`` continues the caller's trace.
    """

    request_id: str
    model: str
    media: Media
    shape: Shape
    steps: int
    arrival_us: int
    deadline_us: int
    prompt: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 1.0
    seed: int = 0
    fps: int = 0
    priority: int = 0
    slo_class: str = "standard"
    output_format: str = "png"
    partial_images: int = 0
    group_id: str = ""
    tenant: str = ""
    user: str = ""
    traceparent: str = ""
    heavy_model: str = ""
    """For a cascade: the model that takes over when the answer of ``model`` is not good enough."""
    heavy_steps: int = 0
    """Steps of the heavy model; 0 means as many as those of the light one."""

    @property
    def is_guided(self) -> bool:
        """Whether a step runs the denoiser twice (classifier-free guidance)."""
        return self.guidance_scale > 1.0

    @property
    def batch_key(self) -> tuple[str, Shape, int, bool]:
        """Requests with equal keys may share a batch."""
        return (self.model, self.shape, self.steps, self.is_guided)

    @property
    def preview_steps(self) -> tuple[int, ...]:
        """After which steps a partial image is due: evenly spread, never the last."""
        parts = self.partial_images + 1
        return tuple(sorted({self.steps * i // parts for i in range(1, parts)} - {0, self.steps}))


class Checkpoint(Struct, frozen=True):
    """Latents on disk after ``step`` steps; ``sha256`` is of the file's bytes."""

    step: int
    attempt: int
    uri: str
    size_bytes: int
    sha256: str


class Artifact(Struct, frozen=True):
    """A stored result: ``kind`` is image, video, thumbnail, spritesheet or partial."""

    kind: str
    uri: str
    media_type: str
    size_bytes: int
    sha256: str
