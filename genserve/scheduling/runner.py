"""What runs stages: a device with models on it, as segments see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from genserve.diffusion.wires import Fill
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p

Held = Callable[[], bytes]
Offer = Callable[[], tuple[p.Content, ...]]
"""The first of the pieces says how many bytes the others are."""
Ready = Callable[[], None]


OUT_OF_MEMORY = "out_of_memory"
DEVICE_LOST = "device_lost"


class Runner(Protocol):
    """A device with models on it. Errors are GenServeError with a code; ``out_of_memory`` and ``device_lost`` are two.

    It holds, per request and attempt, the embeddings and latents between segments.
    """

    @property
    def device(self) -> str: ...

    @property
    def is_lost(self) -> bool:
        """Whether the device failed in a way that no later work on it in this process can be expected to succeed."""

    @property
    def memory_bytes(self) -> int: ...

    @property
    def models(self) -> tuple[str, ...]: ...

    @property
    def resident(self) -> tuple[tuple[str, Stage], ...]: ...

    @property
    def displaced(self) -> tuple[tuple[str, Stage], ...]:
        """Stages that it is to hold and has no room for."""

    def watch(self, tell: Callable[[p.StageChange], None]) -> None:
        """Hear of every stage that is loaded or dropped from now on."""

    def keep_for(self, wanted: frozenset[tuple[str, Stage]]) -> None:
        """What queued segments need: dropped only when nothing else is left to drop."""

    def hold(self, model: str, stage: Stage) -> None:
        """Load a stage's weights unless they are there; raises GenServeError ``stage_too_large``."""

    def release(self, model: str, stage: Stage) -> None:
        """Drop a stage's weights."""

    def holds(self, request_id: str, attempt: int) -> bool: ...

    def forget(self, request_id: str) -> None: ...

    def offer(self, request_id: str, attempt: int) -> Offer | None:
        """What is held for a request, and stays: a function that serialises it, in pieces, or None if nothing is."""

    def restore(self, member: p.Member, content: p.Content) -> None:
        """Hold what a checkpoint file's bytes, or all the pieces of an offer, describe.

        Raises GenServeError ``checkpoint_corrupt`` or ``checkpoint_mismatch``.
        """

    def receive(self, member: p.Member, first: p.Content, rest: Fill) -> Ready:
        """Take an offer in, piece by piece, on any thread; it is held from when what is returned is called.

        Raises as ``restore``, and whatever ``rest`` does.
        """

    def encode(self, members: tuple[p.Member, ...]) -> None:
        """Embed the prompts; held afterwards."""

    def begin(self, members: tuple[p.Member, ...]) -> Any:
        """Form a batch; a request whose latents are not held begins anew at step 0."""

    def position(self, batch: Any) -> int:
        """Denoising steps done."""

    def step(self, batch: Any) -> None:
        """One denoising step of the whole batch; returns when the device has finished it."""

    def without(self, batch: Any, request_ids: tuple[str, ...]) -> Any:
        """The batch without some members, which are forgotten; the others go on undisturbed."""

    def end(self, batch: Any) -> None:
        """Dissolve the batch; its members are held one by one."""

    def snapshot(self, batch: Any, request_id: str) -> Held:
        """Copy a member's latents now, which may be right after the batch's end; serialise them later."""

    def preview(self, batch: Any, request_id: str) -> Any:
        """Frames of an unfinished member, uint8 (frames, height, width, 3); does not disturb it."""

    def decode(self, members: tuple[p.Member, ...]) -> dict[str, Any]:
        """Frames by request, uint8 (frames, height, width, 3); nothing is held afterwards.

        Raises GenServeError ``unknown_latents`` where the finished latents are not held.
        """
