"""A family that no line of genserve names: LTX-Video, whose latents are packed and whose prompts carry masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from genserve.diffusion.catalog import ModelEntry
from genserve.diffusion.latents import load, save
from genserve.diffusion.load import load_model
from genserve.diffusion.model import DiffusionModel
from tests.diffusion.generations import a_generation, begun, finished, largest_difference, latents_alone

pytestmark = pytest.mark.models

ENTRY = ModelEntry(
    name="tiny-ltx",
    family="ltx",
    path="tiny-ltx",
    media="video",
    size_multiple=32,
    min_width=32,
    max_width=128,
    min_height=32,
    max_height=128,
    default_width=64,
    default_height=64,
    frame_stride=8,
    max_frames=17,
    default_frames=9,
    default_fps=8,
    default_steps=4,
    default_guidance_scale=3.0,
    max_sequence_length=32,
    default_slo_ms=1000,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    from genserve.diffusion.quiet import quiet

    folder = tmp_path_factory.mktemp("models")
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _pipeline().save_pretrained(ENTRY.folder(folder))
    return load_model(ENTRY, folder)


def _pipeline() -> Any:
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )
    from transformers import T5Config, T5EncoderModel

    from genserve.diffusion.vocabulary import t5_tokenizer

    return LTXPipeline(
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
        ),
        text_encoder=T5EncoderModel(T5Config(vocab_size=len(t5_tokenizer()), d_model=32, d_kv=16, num_layers=1)),
        tokenizer=t5_tokenizer(),
    )


def a_clip(**changes: Any) -> Any:
    return a_generation(ENTRY, **{"frames": 9, **changes})


def test_steps_taken_one_by_one_equal_diffusers_own_call_of_the_same_blocks(model: DiffusionModel) -> None:
    frames = model.decode(finished(model, begun(model, a_clip())))[0]
    model.pipeline.guider.guidance_scale = ENTRY.default_guidance_scale
    model.pipeline.set_progress_bar_config(disable=True)
    whole = model.pipeline(
        prompt=a_clip().prompt,
        negative_prompt="",
        width=64,
        height=64,
        num_frames=9,
        num_inference_steps=4,
        max_sequence_length=ENTRY.max_sequence_length,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
        output="videos",
    )
    assert np.array_equal((np.asarray(whole[0]) * 255).round().astype(np.uint8), frames)


def test_it_pauses_and_resumes_to_the_same_bits(model: DiffusionModel) -> None:
    resumed = load(model, a_clip(), save(model, begun(model, a_clip(), steps=2)))
    assert torch.equal(finished(model, resumed).latents, latents_alone(model, a_clip()))


def test_it_shares_batches(model: DiffusionModel) -> None:
    fox, ship = a_clip(), a_clip(prompt="a ship", seed=2, guidance_scale=6.0)
    batch = finished(model, begun(model, fox, ship))
    assert largest_difference(batch.latents[:1], latents_alone(model, fox)) < 5e-5
    assert largest_difference(batch.latents[1:], latents_alone(model, ship)) < 5e-5
