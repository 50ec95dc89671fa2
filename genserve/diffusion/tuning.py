"""Making a loaded module faster by configuration: memory layout and compilation; the arithmetic stays the model's."""

from __future__ import annotations

from typing import Any

import torch

from genserve.diffusion.catalog import ModelEntry
from genserve.errors import CallerError

REPEATED_BLOCKS = {"SD3Transformer2DModel": ("JointTransformerBlock",)}
"""Blocks of denoisers that diffusers names none for; compiling one compiles all of its kind."""

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the dimensions of a convolution's weights: pictures, clips."""


def tune(name: str, module: Any, entry: ModelEntry) -> None:
    """Prepare a pipeline's component, in place, as its catalog entry says; call it once, with the weights in place.

    Raises CallerError ``compile_unsupported`` for a denoiser without repeated blocks.
    """
    if name == "vae" and entry.vae_channels_last:
        _lay_out(module)
    if name.startswith("transformer") and entry.compile == "regional":
        _compile(module, entry)


def _lay_out(vae: Any) -> None:
    for parameter in vae.parameters():
        if parameter.ndim in FORMATS:
            parameter.data = parameter.data.contiguous(memory_format=FORMATS[parameter.ndim])


def _compile(denoiser: Any, entry: ModelEntry) -> None:
    """Each repeated block by itself: one compilation serves all layers. It happens at the first step of a shape."""
    names = REPEATED_BLOCKS.get(type(denoiser).__name__, getattr(denoiser, "_repeated_blocks", None))
    blocks = [module for module in denoiser.modules() if type(module).__name__ in (names or ())]
    if not blocks:
        message = f"{type(denoiser).__name__} of {entry.name} has no blocks that repeat: set compile to none"
        raise CallerError("compile_unsupported", message, "model")
    for block in blocks:
        block.compile()
