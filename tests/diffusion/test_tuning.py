"""Faster by configuration, same latents: compiled blocks, the autoencoder's memory layout, copies on the side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.load import load_model
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.streams import HostCopy
from genserve.diffusion.tuning import tune
from genserve.errors import CallerError
from tests.diffusion.generations import a_generation, begun, finished, largest_difference, latents_alone

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

FAMILIES = ("tiny-sd3", "tiny-flux", "tiny-wan")
COMPILED = 1e-4
"""Latents are of order 1; fused kernels round differently."""


def load_tuned(models_dir: Path, name: str, **changes: Any) -> DiffusionModel:
    return load_model(msgspec.structs.replace(Catalog.load().get(name), **changes), models_dir)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_blocks_give_the_latents_of_plain_ones(models_dir: Path, name: str) -> None:
    torch._dynamo.reset()
    plain = load_tuned(models_dir, name)
    compiled = load_tuned(models_dir, name, compile="regional")
    generation = a_generation(plain.entry, steps=2)
    assert largest_difference(latents_alone(compiled, generation), latents_alone(plain, generation)) < COMPILED
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert counted > 0


def test_a_denoiser_whose_blocks_are_unknown_is_not_compiled(models_dir: Path) -> None:
    entry = msgspec.structs.replace(Catalog.load().get("tiny-sd3"), compile="regional")
    with pytest.raises(CallerError, match="compile to none") as refused:
        tune("transformer", torch.nn.Linear(1, 1), entry)
    assert refused.value.code == "compile_unsupported"


@pytest.mark.parametrize("name", ["tiny-sd3", "tiny-wan"])
def test_channels_last_changes_the_layout_and_not_the_picture(models_dir: Path, name: str) -> None:
    plain, tuned = load_tuned(models_dir, name), load_tuned(models_dir, name, vae_channels_last=True)
    weight = tuned.pipeline.vae.decoder.conv_in.weight
    memory_format = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
    assert weight.is_contiguous(memory_format=memory_format)
    generation = a_generation(plain.entry, steps=1)
    frames = [model.decode(finished(model, begun(model, generation)))[0] for model in (plain, tuned)]
    assert abs(frames[0].astype(int) - frames[1]).max() <= 1


def test_a_copy_holds_what_was_there_when_it_was_made() -> None:
    tensors = {"latents": torch.arange(6.0).reshape(2, 3).T, "state": torch.zeros(4, dtype=torch.uint8)}
    copy = HostCopy(tensors)
    tensors["latents"].fill_(-1)
    arrived = copy.wait()
    assert torch.equal(arrived["latents"], torch.arange(6.0).reshape(2, 3).T)
    assert arrived["latents"].is_contiguous()
    assert arrived["state"].dtype is torch.uint8
