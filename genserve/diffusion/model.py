"""Running a model stage by stage: encode, prepare, one denoising step, decode; not for deciding when."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import BlockState, PipelineState

from genserve.diffusion.accelerator import synchronize
from genserve.diffusion.artifacts import Frames
from genserve.diffusion.catalog import ModelEntry
from genserve.diffusion.denoising import (
    Conditioning,
    Denoising,
    Member,
    Values,
    find_batched,
    join,
    rows_of,
)
from genserve.diffusion.generation import Generation
from genserve.diffusion.sampler_state import attributes_of
from genserve.diffusion.stages import OwnComponents, Stages, own_components, run_blocks
from genserve.errors import InvariantBroken

PROMPTS_KEPT = 64


class DiffusionModel:
    """A loaded model. One thread at a time; any number of batches may be in flight and take turns step by step."""

    def __init__(
        self, entry: ModelEntry, pipeline: Any, stages: Stages, *, device: torch.device | str, fingerprint: str
    ) -> None:
        self.entry = entry
        self.pipeline = pipeline
        self.device = torch.device(device)
        """Where its weights go; a pipeline by itself knows only where those are that it has at the moment."""
        self.fingerprint = fingerprint
        """Changes with the checkpoint's configuration and file sizes; latents go on only under the same one."""
        self._stages = stages
        self.loop_values: frozenset[str] = frozenset()
        """Names of what the loop starts from; what a step adds to it is of no use to the next one."""
        self._prompts: OrderedDict[tuple[str, str], Conditioning] = OrderedDict()
        self._batched: frozenset[str] | None = None

    @property
    def _place(self) -> dict[str, Any]:
        """The pipeline's answer to every block of where it runs, for which it walks through all its modules."""
        return {"_execution_device": self.device}

    @torch.no_grad()
    def encode(self, generations: Sequence[Generation]) -> list[Conditioning]:
        """Text embeddings, one prompt at a time so that they don't depend on the company; recent ones are kept.

        The negative prompt is always encoded, "" where none was given: leaving it out means something else to some
        families.
        """
        return [self._encode(generation.prompt, generation.negative_prompt) for generation in generations]

    @torch.no_grad()
    def prepare(self, generations: Sequence[Generation], conditionings: Sequence[Conditioning]) -> Denoising:
        """A batch before its first step, with noise from each request's own seed.

        Raises CallerError ``batch_mismatch`` when the generations' batch keys differ.
        """
        pairs = zip(generations, conditionings, strict=True)
        return join([self._prepare(generation, conditioning) for generation, conditioning in pairs])

    @torch.no_grad()
    def step(self, denoising: Denoising) -> None:
        """Advance every member by exactly one step, in place.

        On a GPU it returns before the device is done (see synchronize). An exception out of the denoiser, such as
        out of memory, leaves the batch as it was. Raises InvariantBroken ``steps_exhausted`` after the last step.
        """
        if denoising.is_done:
            raise InvariantBroken("steps_exhausted", f"{denoising.model} has done all {denoising.steps} steps")
        state, index = denoising.state, denoising.step_index
        components = OwnComponents(self.pipeline, denoising.components)
        self._stages.loop.loop_step(components, state, i=index, t=state.timesteps[index])
        denoising.step_index = index + 1

    def synchronize(self) -> None:
        """Wait until the steps so far are done; a GPU otherwise runs behind the calls. Copies to the host go on."""
        synchronize(self.device)

    @torch.no_grad()
    def decode(self, denoising: Denoising) -> list[Frames]:
        """Pixels of the latents as they are now, uint8 (frames, height, width, 3) per member; changes nothing.

        One member at a time: memory stays that of one, and nobody's pixels depend on the company.
        Raises InvariantBroken ``pixels_not_finite`` when the model's arithmetic overflowed.
        """
        return [self._decode(denoising, index) for index in range(len(denoising.members))]

    def _encode(self, prompt: str, negative_prompt: str) -> Conditioning:
        key = (prompt, negative_prompt)
        if key not in self._prompts:
            self._prompts[key] = self._encode_anew(prompt, negative_prompt)
            if len(self._prompts) > PROMPTS_KEPT:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def _encode_anew(self, prompt: str, negative_prompt: str) -> Conditioning:
        state = PipelineState()
        state.set("prompt", prompt)
        state.set("negative_prompt", negative_prompt)
        if self.entry.max_sequence_length:
            state.set("max_sequence_length", self.entry.max_sequence_length)
        run_blocks(self._stages.encode, self.pipeline, state)
        names = {output.name for block in self._stages.encode for output in block.intermediate_outputs}
        return Conditioning({name: state.values[name] for name in sorted(names)}, state.kwargs_mapping)

    def _prepare(self, generation: Generation, conditioning: Conditioning) -> Denoising:
        components = own_components(self.pipeline, guidance_scale=generation.guidance_scale)
        generator = torch.Generator("cpu").manual_seed(generation.seed)
        state = self._prepared(generation, conditioning, components, [generator])
        return Denoising(
            model=self.entry.name,
            members=(Member(generation, conditioning, components, attributes_of(components), generator),),
            state=BlockState(**state),
            batched=self._find_batched(generation, conditioning, state),
            components=components,
        )

    def _prepared(
        self,
        generation: Generation,
        conditioning: Conditioning,
        components: dict[str, Any],
        generators: list[torch.Generator],
    ) -> Values:
        """What the loop's blocks start from, as values by name."""
        kinds = {kind: list(names) for kind, names in conditioning.kinds.items()}
        state = PipelineState({**conditioning.values, **_inputs(generation), "generator": generators}, kinds)
        run_blocks(self._stages.prepare, OwnComponents(self.pipeline, {**components, **self._place}), state)
        values = {**state.values, **vars(self._stages.loop.get_block_state(state))}
        self.loop_values = frozenset(values)
        return values

    def _find_batched(self, generation: Generation, conditioning: Conditioning, state: Values) -> frozenset[str]:
        """Which values have a row per member: those that grow when the same request is prepared twice over."""
        if self._batched is None:
            twice = Conditioning({name: _twice(v) for name, v in conditioning.values.items()}, conditioning.kinds)
            components = own_components(self.pipeline, guidance_scale=generation.guidance_scale)
            generators = [torch.Generator("cpu").manual_seed(generation.seed) for _ in range(2)]
            self._batched = find_batched(state, self._prepared(generation, twice, components, generators))
        return self._batched

    def _decode(self, denoising: Denoising, index: int) -> Frames:
        member = denoising.members[index]
        values = rows_of(vars(denoising.state), [index], denoising.batched)
        values["latents"] = values["latents"].to(self.pipeline.vae.dtype)
        state = PipelineState({**values, **_inputs(member.generation), "output_type": "pt"})
        run_blocks(self._stages.decode, OwnComponents(self.pipeline, member.components), state)
        pixels = state.values["videos"][0] if self.entry.media == "video" else state.values["images"]
        if not pixels.isfinite().all():
            message = f"{self.entry.name} made pixels that are not numbers, seed {member.generation.seed}"
            raise InvariantBroken("pixels_not_finite", message)
        return _frames(pixels)


def _frames(pixels: torch.Tensor) -> Frames:
    """Pixels (frames, 3, height, width) from 0 to 1, where they are, as bytes on the host, a quarter of the size."""
    levels = pixels.float().mul(255).round_().to(torch.uint8)
    frames: Frames = levels.movedim(1, -1).contiguous().cpu().numpy()
    return frames


def _inputs(generation: Generation) -> Values:
    """A generation in the words of the blocks; a block takes those that it declares."""
    return {
        "height": generation.height,
        "width": generation.width,
        "num_frames": generation.frames,
        "num_inference_steps": generation.steps,
        "guidance_scale": generation.guidance_scale,
    }


def _twice(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.cat([value, value])
    return value + value if isinstance(value, list) else value
