"""One picture or clip to generate, as plain values; not who asked for it, nor by when.

Free of torch, so that anything may import it.
"""

from __future__ import annotations

import hashlib

import msgspec


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the pixels, given a model: equal generations give equal pixels.

    An image has one frame. ``seed`` feeds the request's own random generator, on the CPU whatever the device.
    """

    prompt: str
    width: int
    height: int
    steps: int
    seed: int
    guidance_scale: float
    negative_prompt: str = ""
    frames: int = 1

    @property
    def is_guided(self) -> bool:
        """Whether classifier-free guidance would run, for a family that has it: diffusers guides above 1."""
        return self.guidance_scale > 1.0

    @property
    def batch_key(self) -> tuple[int, int, int, int, bool]:
        """Generations of one model with equal keys may share a batch."""
        return (self.width, self.height, self.frames, self.steps, self.is_guided)

    @property
    def digest(self) -> str:
        """SHA-256 of the fields, in hexadecimal; checkpoints carry it."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()
