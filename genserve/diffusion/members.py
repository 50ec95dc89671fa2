"""Samplers and guiders of several requests behind the interface of one; not for running models.

The loop's blocks hand a whole batch to ``scheduler.step`` and to the guider. Here every row goes to its own request's
object, so that a request in a batch computes after the denoiser exactly what it computes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from diffusers.modular_pipelines.modular_pipeline import BlockState


class SamplerRows:
    """One sampler per row of the batch."""

    def __init__(self, samplers: Sequence[Any]) -> None:
        self._samplers = samplers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_samplers"][0], name)

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> tuple[Any]:
        """Advance each row with its own sampler; returns a tuple, as with ``return_dict=False``."""
        options["return_dict"] = False
        rows = [
            sampler.step(model_output[row : row + 1], timestep, sample[row : row + 1], **options)[0]
            for row, sampler in enumerate(self._samplers)
        ]
        return (torch.cat(rows),)


class GuiderRows:
    """One guider per row of the batch; which conditions run is the same for all (see Generation.batch_key)."""

    def __init__(self, guiders: Sequence[Any]) -> None:
        self._guiders = guiders

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_guiders"][0], name)

    def set_state(self, **state: Any) -> None:
        for guider in self._guiders:
            guider.set_state(**state)

    def __call__(self, conditions: Sequence[Any]) -> Any:
        """Combine each row's predictions with its own scale."""
        outputs = [guider([_row(c, row) for c in conditions]) for row, guider in enumerate(self._guiders)]
        return GuiderOutput(pred=torch.cat([output.pred for output in outputs]), pred_cond=None, pred_uncond=None)


def together(own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The components of a batch out of its members' own; a batch of one uses them as they are."""
    if len(own) == 1:
        return own[0]
    rows: dict[str, Any] = {}
    for name, first in own[0].items():
        every = [components[name] for components in own]
        rows[name] = GuiderRows(every) if isinstance(first, BaseGuidance) else SamplerRows(every)
    return rows


def _row(condition: Any, row: int) -> Any:
    fields = vars(condition)
    return BlockState(**{**fields, "noise_pred": fields["noise_pred"][row : row + 1]})
