"""A Modular Diffusers pipeline taken apart into encode, prepare, step and decode; knows no family by name.

Every text-to-image and text-to-video family of diffusers arranges its blocks alike: text encoding, then a group
named ``denoise`` that holds input blocks, exactly one loop and perhaps unpacking, then decoding. The loop's body is
public (``loop_step``), so that one denoising step is one call.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines.modular_pipeline import LoopSequentialPipelineBlocks
from diffusers.schedulers import SchedulerMixin

from genserve.domain.request import Stage
from genserve.errors import CallerError

DENOISE_GROUP = "denoise."


class Stages(msgspec.Struct, frozen=True):
    """The blocks of the text-to-anything workflow, in order, by what they are for."""

    encode: tuple[Any, ...]
    prepare: tuple[Any, ...]
    loop: Any
    decode: tuple[Any, ...]

    @property
    def component_names(self) -> frozenset[str]:
        """The components that some stage uses; a checkpoint's others need not be loaded."""
        return frozenset(name for stage in Stage for name in self.names_of(stage))

    def names_of(self, stage: Stage) -> frozenset[str]:
        """The components that the blocks of one stage use."""
        blocks = {Stage.ENCODE: self.encode, Stage.DENOISE: (*self.prepare, self.loop), Stage.DECODE: self.decode}
        return frozenset(spec.name for block in blocks[stage] for spec in block.expected_components)


class OwnComponents:
    """A pipeline in which some components are replaced by a request's own, without touching the pipeline."""

    def __init__(self, pipeline: Any, own: Mapping[str, Any]) -> None:
        self._pipeline = pipeline
        self._own = own

    def __getattr__(self, name: str) -> Any:
        own: Mapping[str, Any] = self.__dict__["_own"]
        return own[name] if name in own else getattr(self.__dict__["_pipeline"], name)


def split_stages(pipeline: Any) -> Stages:
    """Cut the pipeline's blocks at its denoising loop; raises CallerError ``unsupported_pipeline``."""
    blocks: dict[str, Any] = pipeline.blocks.get_execution_blocks(prompt=True).sub_blocks
    loops = [name for name, block in blocks.items() if isinstance(block, LoopSequentialPipelineBlocks)]
    if len(loops) != 1 or not loops[0].startswith(DENOISE_GROUP):
        family = type(pipeline).__name__
        raise CallerError("unsupported_pipeline", f"{family} has not one denoising loop but {loops or 'none'}")
    names = list(blocks)
    loop = names.index(loops[0])
    first = next(index for index, name in enumerate(names) if name.startswith(DENOISE_GROUP))
    ordered = list(blocks.values())
    return Stages(tuple(ordered[:first]), tuple(ordered[first:loop]), ordered[loop], tuple(ordered[loop + 1 :]))


def run_blocks(blocks: Sequence[Any], components: Any, state: Any) -> None:
    """Run blocks one after the other on a PipelineState, which they change."""
    for block in blocks:
        block(components, state)


def own_components(pipeline: Any, *, guidance_scale: float) -> dict[str, Any]:
    """Fresh samplers and guiders for one request, by component name.

    Both hold the state of a run, so that sharing one mixes requests up. A guider's scale comes from the request: the
    one in the blocks' defaults differs from the plain pipelines'. A scale of 1 or less switches guidance off, as the
    plain pipelines do.
    """
    own: dict[str, Any] = {}
    for name, component in pipeline.components.items():
        if isinstance(component, SchedulerMixin):
            own[name] = _own_sampler(component)
        elif isinstance(component, BaseGuidance):
            own[name] = _own_guider(component, guidance_scale)
    return own


def _own_sampler(sampler: Any) -> Any:
    """A copy of the pipeline's, which is never used: making one from its configuration anew takes ten times as long.

    Configuration and tables are shared: samplers put others in their place, and change none.
    """
    own = copy.copy(sampler)
    shared = [value for value in vars(sampler).values() if isinstance(value, FrozenDict | torch.Tensor | np.ndarray)]
    vars(own).update(copy.deepcopy(vars(sampler), {id(value): value for value in shared}))
    return own


def _own_guider(guider: Any, guidance_scale: float) -> Any:
    own = copy.copy(guider)
    own.guidance_scale = guidance_scale
    if guidance_scale <= 1.0:
        own.disable()
    return own
