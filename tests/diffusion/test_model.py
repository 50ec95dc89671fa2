"""Against diffusers' own pipelines, and what a run may rely on while it is under way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from genserve.diffusion.catalog import Catalog, ModelEntry
from genserve.diffusion.generation import Generation
from genserve.diffusion.load import load_model
from genserve.diffusion.model import PROMPTS_KEPT, DiffusionModel
from genserve.errors import CallerError, InvariantBroken
from tests.diffusion.generations import a_generation, begun, finished, largest_difference, latents_alone

pytestmark = pytest.mark.models

Load = Callable[[str], DiffusionModel]

TOLERANCE = {"tiny-flux": 0.0, "tiny-wan": 0.0, "tiny-sd3": 2e-5}
"""Flux has no second forward and the plain Wan pipeline runs two, as the guider does: those are equal to the bit.

The plain SD3 pipeline runs one forward over a batch of two; matrix products round differently by batch, and a few
steps leave some 3e-6 on latents of up to 5.
"""


def plain_run(model: DiffusionModel, models_dir: Path, generation: Generation) -> tuple[torch.Tensor, Any]:
    """Latents and uint8 frames out of the plain diffusers pipeline of the same folder."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(model.entry.folder(models_dir))
    pipeline.set_progress_bar_config(disable=True)
    latents = []

    def remember(_pipeline: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents.append(values["latents"])
        return values

    options: dict[str, Any] = {} if model.entry.media == "image" else {"num_frames": generation.frames}
    if model.entry.family != "flux":
        options["negative_prompt"] = generation.negative_prompt
    result = pipeline(
        generation.prompt,
        width=generation.width,
        height=generation.height,
        num_inference_steps=generation.steps,
        guidance_scale=generation.guidance_scale,
        max_sequence_length=model.entry.max_sequence_length,
        generator=torch.Generator().manual_seed(generation.seed),
        output_type="np",
        callback_on_step_end=remember,
        **options,
    )
    pixels = result.images if model.entry.media == "image" else result.frames[0]
    return latents[-1], (np.asarray(pixels) * 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    "changes", [{}, {"negative_prompt": "blurry", "guidance_scale": 7.0}, {"guidance_scale": 1.0}, {"width": 96}]
)
def test_a_run_equals_the_plain_pipeline_with_the_same_seed(
    model: DiffusionModel, models_dir: Path, changes: dict[str, Any]
) -> None:
    generation = a_generation(model.entry, **changes)
    denoising = finished(model, begun(model, generation))
    latents, frames = plain_run(model, models_dir, generation)
    assert largest_difference(denoising.latents, latents) <= TOLERANCE[model.entry.name]
    assert np.abs(model.decode(denoising)[0].astype(int) - frames).max() <= (TOLERANCE[model.entry.name] > 0)


def test_the_pixels_are_frames_by_height_by_width_by_three_and_not_a_flat_grey(model: DiffusionModel) -> None:
    generation = a_generation(model.entry, width=96)
    frames = model.decode(begun(model, generation, steps=4))[0]
    assert frames.dtype == np.uint8
    assert frames.shape == (generation.frames, 64, 96, 3)
    assert frames.std() > 20


def test_prompt_seed_guidance_and_size_change_the_pixels(model: DiffusionModel) -> None:
    fox = latents_alone(model, a_generation(model.entry))
    for changes in ({"prompt": "a blue ship at sea"}, {"seed": 2}, {"guidance_scale": 9.0}):
        assert largest_difference(latents_alone(model, a_generation(model.entry, **changes)), fox) > 1e-3


def test_no_negative_prompt_is_the_empty_one_and_another_matters(load: Load) -> None:
    model = load("tiny-sd3")
    assert a_generation(model.entry).negative_prompt == ""
    fox, no_fox = (latents_alone(model, a_generation(model.entry, negative_prompt=text)) for text in ("", "a dog"))
    assert largest_difference(fox, no_fox) > 1e-3


def test_a_step_is_one_step_and_the_last_one_ends_the_run(model: DiffusionModel) -> None:
    denoising = begun(model, a_generation(model.entry, steps=2))
    seen = []
    while not denoising.is_done:
        model.step(denoising)
        seen.append((denoising.step_index, denoising.steps))
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(InvariantBroken, match="steps_exhausted"):
        model.step(denoising)


def test_runs_that_take_turns_on_one_model_do_not_disturb_each_other(model: DiffusionModel) -> None:
    fox, ship = a_generation(model.entry), a_generation(model.entry, prompt="a ship", seed=2, width=96, steps=6)
    one, other = begun(model, fox), begun(model, ship)
    for turn in range(6):
        model.step(other)
        if turn < 4:
            model.step(one)
    assert torch.equal(one.latents, latents_alone(model, fox))
    assert torch.equal(other.latents, latents_alone(model, ship))


def test_a_run_changes_nothing_of_the_pipelines_own_sampler(model: DiffusionModel) -> None:
    """Its tables are every run's, here and in the processes that a run goes on in."""
    tables = {k: v for k, v in vars(model.pipeline.scheduler).items() if isinstance(v, torch.Tensor | np.ndarray)}
    before = copy.deepcopy(tables)
    finished(model, begun(model, a_generation(model.entry)))
    assert tables.keys() <= vars(model.pipeline.scheduler).keys()
    for name, table in tables.items():
        assert vars(model.pipeline.scheduler)[name] is table
        assert np.array_equal(np.asarray(table), np.asarray(before[name]))


def test_decoding_halfway_shows_something_and_disturbs_nothing(model: DiffusionModel) -> None:
    generation = a_generation(model.entry)
    denoising = begun(model, generation)
    previews = []
    while not denoising.is_done:
        previews.append(model.decode(denoising)[0])
        model.step(denoising)
    assert torch.equal(denoising.latents, latents_alone(model, generation))
    assert not np.array_equal(previews[0], previews[-1])


def test_a_failing_step_leaves_the_batch_as_it_was(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = a_generation(model.entry)
    denoising = begun(model, generation, steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(model.pipeline.transformer, "forward", _out_of_memory)
        with pytest.raises(MemoryError):
            model.step(denoising)
    assert denoising.step_index == 2
    assert torch.equal(finished(model, denoising).latents, latents_alone(model, generation))


def _out_of_memory(*_: Any, **__: Any) -> None:
    raise MemoryError


def test_pixels_that_are_not_numbers_are_a_coded_error(model: DiffusionModel) -> None:
    denoising = begun(model, a_generation(model.entry))
    denoising.state.latents = denoising.latents * float("nan")
    with pytest.raises(InvariantBroken, match="pixels_not_finite"):
        model.decode(denoising)


def test_recent_prompts_are_encoded_once_and_old_ones_forgotten(load: Load) -> None:
    model = load("tiny-flux")
    first = a_generation(model.entry, prompt="prompt 0")
    kept = model.encode([first])[0]
    assert model.encode([first])[0] is kept
    model.encode([a_generation(model.entry, prompt=f"prompt {n}") for n in range(1, PROMPTS_KEPT + 1)])
    again = model.encode([first])[0]
    assert again is not kept
    assert all(torch.equal(again.values[name], value) for name, value in kept.values.items())


def test_a_prompt_longer_than_the_text_encoders_is_cut_and_not_fatal(model: DiffusionModel) -> None:
    generation = a_generation(model.entry, prompt="fox " * 400)
    assert torch.isfinite(begun(model, generation, steps=1).latents).all()


def test_bfloat16_is_a_matter_of_the_catalog(load: Load, models_dir: Path) -> None:
    entry: ModelEntry = msgspec.structs.replace(load("tiny-wan").entry, dtype="bfloat16", vae_dtype="float32")
    model = load_model(entry, models_dir)
    assert (model.pipeline.transformer.dtype, model.pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    assert model.decode(begun(model, a_generation(entry), steps=4))[0].std() > 20


def test_the_blocks_can_be_named_in_the_catalog(load: Load, models_dir: Path) -> None:
    entry: ModelEntry = msgspec.structs.replace(load("tiny-wan").entry, blocks="WanBlocks")
    generation = a_generation(entry)
    assert torch.equal(
        latents_alone(load_model(entry, models_dir), generation), latents_alone(load("tiny-wan"), generation)
    )


def test_an_absent_checkpoint_is_a_coded_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match=r"checkpoint_not_found.*genserve models build"):
        load_model(Catalog.load().get("tiny-sd3"), tmp_path)


def test_a_checkpoint_with_a_component_missing_is_a_coded_error(models_dir: Path, tmp_path: Path) -> None:
    entry = Catalog.load().get("tiny-wan")
    folder = entry.folder(tmp_path)
    folder.mkdir()
    for path in entry.folder(models_dir).iterdir():
        if path.name != "vae":
            (folder / path.name).symlink_to(path)
    with pytest.raises(CallerError, match=r"checkpoint_incomplete.*vae"):
        load_model(entry, tmp_path)
