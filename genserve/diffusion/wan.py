"""Wan's spatial stride from its autoencoder's configuration; diffusers counts downsampling layers instead.

Wan 2.2's autoencoder also cuts pixels into patches of two, which the count misses: pictures came out twice as large.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from diffusers.modular_pipelines import WanModularPipeline


def correct_stride(pipeline: Any) -> None:
    """Let a Wan pipeline read its stride where it is written; others are left as they are."""
    kind: Any = type(pipeline)
    if issubclass(kind, WanModularPipeline):
        pipeline.__class__ = _corrected(kind)


@cache
def _corrected(kind: Any) -> Any:
    def stride(self: Any) -> int:
        vae = getattr(self, "vae", None)
        return 8 if vae is None else int(vae.config.scale_factor_spatial)

    return type(kind.__name__, (kind,), {"vae_scale_factor_spatial": property(stride)})
