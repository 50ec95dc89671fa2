"""Sequence parallelism: one denoiser's tokens spread over a group of processes; not which group, nor when.

Behind the seam are diffusers' own context parallelism, as Ulysses or ring, and xfuser's USP, which is both together.
Every rank runs the same steps on the same state. Inside the denoiser each rank computes its share of the tokens; the
prediction is gathered on all of them, so that every rank's sampler goes on alone and the latents stay equal.
"""

from __future__ import annotations

from typing import Any, Protocol

from genserve.diffusion.denoising import Denoising
from genserve.diffusion.parallel_context import ContextParallel
from genserve.diffusion.parallel_group import Group
from genserve.diffusion.parallel_xfuser import build_xfuser
from genserve.errors import CallerError

BACKENDS = ("ulysses", "ring", "xfuser")


class Parallel(Protocol):
    """How the denoisers of one loaded model run on a group."""

    @property
    def name(self) -> str:
        """One of BACKENDS."""

    def check(self, denoising: Denoising, degree: int) -> None:
        """Raises GenServeError ``unsupported_degree`` where this batch cannot be spread over so many ranks."""

    def switch(self, group: Group | None, denoising: Denoising | None = None) -> None:
        """The next steps run on that group, or on this process alone; no communication.

        A group needs the batch that runs on it, whose shape decides how its tokens are split.
        """


def build_parallel(pipeline: Any, backend: str = "ulysses") -> Parallel:
    """That backend for a loaded pipeline.

    Raises CallerError ``unknown_backend``, ``backend_unavailable`` (no accelerator, package absent, or an attention
    that cannot be merged across ranks) or ``unsupported_family`` (no plan for its denoiser).
    """
    if backend not in BACKENDS:
        raise CallerError("unknown_backend", f"no backend {backend!r}; there are: {', '.join(BACKENDS)}")
    if backend == "xfuser":
        return build_xfuser(pipeline)
    return ContextParallel(pipeline, backend)
