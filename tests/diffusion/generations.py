"""Builders for small generations and for runs of them."""

from __future__ import annotations

from typing import Any

import torch

from genserve.diffusion.catalog import ModelEntry
from genserve.diffusion.denoising import Denoising
from genserve.diffusion.generation import Generation
from genserve.diffusion.model import DiffusionModel

STEPS = 4


def a_generation(entry: ModelEntry, **changes: Any) -> Generation:
    """The smallest thing worth looking at: 64 by 64, five frames if it is a video."""
    wanted: dict[str, Any] = {
        "prompt": "a red fox in the snow",
        "width": 64,
        "height": 64,
        "frames": 5 if entry.media == "video" else 1,
        "steps": STEPS,
        "seed": 1,
    }
    return entry.generation(**{**wanted, **changes})


def begun(model: DiffusionModel, *generations: Generation, steps: int = 0) -> Denoising:
    """A batch of those generations after so many steps."""
    denoising = model.prepare(generations, model.encode(generations))
    for _ in range(steps):
        model.step(denoising)
    return denoising


def finished(model: DiffusionModel, denoising: Denoising) -> Denoising:
    while not denoising.is_done:
        model.step(denoising)
    return denoising


def latents_alone(model: DiffusionModel, generation: Generation) -> torch.Tensor:
    """What the generation comes to in a run of its own that nothing disturbs."""
    return finished(model, begun(model, generation)).latents


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())
