"""Each family on a GPU: near to the bits of the host's processor, and its own bits whatever happens in between."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from genserve.diffusion.accelerator import free_bytes, total_bytes
from genserve.diffusion.catalog import Catalog
from genserve.diffusion.denoising import Denoising, join, split
from genserve.diffusion.latents import load as load_latents
from genserve.diffusion.latents import save, snapshot
from genserve.diffusion.load import open_model
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.parallel_state import from_bytes, pack, to_parts
from genserve.diffusion.transfer import pack_embeddings, unpack_embeddings
from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling.residency import Residency
from genserve.scheduling.shelf import ModelShelf
from tests.diffusion.generations import a_generation, begun, finished, largest_difference, latents_alone

pytestmark = pytest.mark.models

TOLERANCE = 5e-5
"""Another device sums in another order; latents are of order 1."""


@pytest.fixture(scope="module")
def load_on_gpu(models_dir: Path, gpu: str) -> Callable[[str], DiffusionModel]:
    from genserve.diffusion.load import load_model

    return cache(lambda name: load_model(Catalog.load().get(name), models_dir, device=gpu))


@pytest.fixture
def on_gpu(model: DiffusionModel, load_on_gpu: Callable[[str], DiffusionModel]) -> DiffusionModel:
    """The family of ``model``, which is on the host's processor."""
    return load_on_gpu(model.entry.name)


def alone(model: DiffusionModel) -> torch.Tensor:
    return latents_alone(model, a_generation(model.entry)).cpu()


def is_on(model: DiffusionModel, denoising: Denoising) -> bool:
    return denoising.latents.device == model.device


def test_every_weight_and_latent_is_there(on_gpu: DiffusionModel, gpu: str) -> None:
    modules = [c for c in on_gpu.pipeline.components.values() if isinstance(c, torch.nn.Module)]
    assert {str(p.device) for module in modules for p in module.parameters()} == {gpu}
    assert str(begun(on_gpu, a_generation(on_gpu.entry), steps=1).latents.device) == gpu


def test_it_makes_what_the_hosts_processor_makes(model: DiffusionModel, on_gpu: DiffusionModel) -> None:
    generation = a_generation(model.entry)
    ours, theirs = (finished(m, begun(m, generation)) for m in (on_gpu, model))
    assert largest_difference(ours.latents.cpu(), theirs.latents) <= TOLERANCE
    assert np.abs(on_gpu.decode(ours)[0].astype(int) - model.decode(theirs)[0]).max() <= 1


def test_a_checkpoint_goes_on_to_the_same_bits(on_gpu: DiffusionModel) -> None:
    generation = a_generation(on_gpu.entry)
    content = save(on_gpu, begun(on_gpu, generation, steps=2))
    loaded = load_latents(on_gpu, generation, content)
    assert is_on(on_gpu, loaded)
    assert save(on_gpu, loaded) == content
    assert torch.equal(finished(on_gpu, loaded).latents.cpu(), alone(on_gpu))


def test_a_checkpoint_goes_on_where_there_is_no_gpu_and_the_other_way(
    model: DiffusionModel, on_gpu: DiffusionModel
) -> None:
    generation = a_generation(model.entry)
    for one, other in ((model, on_gpu), (on_gpu, model)):
        loaded = load_latents(other, generation, save(one, begun(one, generation, steps=2)))
        assert is_on(other, loaded)
        assert largest_difference(finished(other, loaded).latents.cpu(), alone(model)) <= TOLERANCE


def test_a_snapshot_is_not_changed_by_the_steps_after_it(on_gpu: DiffusionModel) -> None:
    generation = a_generation(on_gpu.entry)
    denoising = begun(on_gpu, generation, steps=2)
    content = save(on_gpu, denoising)
    taken = snapshot(on_gpu, denoising)
    finished(on_gpu, denoising)
    assert taken.to_bytes() == content


def test_a_batch_that_moves_goes_on_to_the_same_bits(on_gpu: DiffusionModel) -> None:
    first, *rest = to_parts(pack(on_gpu, begun(on_gpu, a_generation(on_gpu.entry), steps=2)))
    moved = from_bytes(on_gpu, b"".join((first, *rest)))
    assert is_on(on_gpu, moved)
    assert torch.equal(finished(on_gpu, moved).latents.cpu(), alone(on_gpu))


def test_embeddings_made_on_the_host_serve_the_gpu(model: DiffusionModel, on_gpu: DiffusionModel) -> None:
    generation = a_generation(model.entry)
    conditioning = unpack_embeddings(pack_embeddings(model.encode([generation])[0]), on_gpu.device)
    latents = finished(on_gpu, on_gpu.prepare([generation], [conditioning])).latents
    assert largest_difference(latents.cpu(), alone(model)) <= TOLERANCE


def test_members_of_a_batch_get_what_they_would_get_alone(on_gpu: DiffusionModel) -> None:
    fox, ship = a_generation(on_gpu.entry), a_generation(on_gpu.entry, prompt="a ship", seed=2)
    batch = join([begun(on_gpu, generation, steps=1) for generation in (fox, ship)])
    on_gpu.step(batch)
    rest = finished(on_gpu, split(batch, [1]))
    assert largest_difference(rest.latents.cpu(), latents_alone(on_gpu, ship).cpu()) <= TOLERANCE


@pytest.mark.parametrize(("name", "vae"), [("tiny-sd3", "float32"), ("tiny-flux", ""), ("tiny-wan", "float32")])
def test_half_the_bits_and_another_layout_are_the_catalogs_choice(
    models_dir: Path, gpu: str, name: str, vae: str
) -> None:
    """As full-size models are served: bfloat16, an autoencoder in float32, convolutions laid out by channel."""
    from genserve.diffusion.load import load_model

    changes = {"dtype": "bfloat16", "vae_dtype": vae, "vae_channels_last": True}
    model = load_model(msgspec.structs.replace(Catalog.load().get(name), **changes), models_dir, device=gpu)
    generation = a_generation(model.entry)
    loaded = load_latents(model, generation, save(model, begun(model, generation, steps=2)))
    moved = from_bytes(model, b"".join(to_parts(pack(model, loaded))))
    undisturbed = finished(model, begun(model, generation))
    assert torch.equal(finished(model, moved).latents, undisturbed.latents)
    assert np.array_equal(model.decode(moved)[0], model.decode(undisturbed)[0])
    assert model.decode(moved)[0].std() > 20


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_take_memory_of_the_device_and_give_it_back(models_dir: Path, gpu: str) -> None:
    gc.collect()
    before = free_bytes(gpu) or 0
    _, weights = open_model(Catalog.load().get("tiny-wan"), models_dir, device=gpu)
    assert free_bytes(gpu) == before
    weights.load(Stage.DENOISE)
    taken = before - (free_bytes(gpu) or 0)
    assert 0.9 * weights.bytes_of(Stage.DENOISE) <= taken <= 1.2 * weights.bytes_of(Stage.DENOISE)
    weights.unload(Stage.DENOISE)
    assert free_bytes(gpu) == before


def test_weights_that_come_halfway_are_not_there(models_dir: Path, gpu: str, fake_device: Any) -> None:
    gc.collect()
    memory = fake_device.memory
    before = memory.used
    _, weights = open_model(Catalog.load().get("tiny-wan"), models_dir, device=gpu)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "total", before + weights.bytes_of(Stage.DENOISE) // 2)
        with pytest.raises(torch.OutOfMemoryError):
            weights.load(Stage.DENOISE)
    assert weights.resident == ()
    assert memory.used == before
    weights.load(Stage.DENOISE)
    assert memory.used - before >= 0.9 * weights.bytes_of(Stage.DENOISE)


def test_what_does_not_fit_beside_others_takes_their_place(
    models_dir: Path, gpu: str, fake_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    memory, shelf = fake_device.memory, ModelShelf(Catalog.load(), models_dir, device=gpu)
    largest = max(Stage, key=lambda stage: shelf.bytes_of("tiny-sd3", stage))
    size = shelf.bytes_of("tiny-sd3", largest)
    monkeypatch.setattr(memory, "total", memory.used + size + (1 << 20))
    residency = Residency(shelf)
    for stage in Stage:
        residency.hold("tiny-sd3", stage)
    assert residency.newest == ("tiny-sd3", Stage.DECODE)
    assert len(residency.resident) < len(Stage)
    residency.release("tiny-sd3", largest)
    monkeypatch.setattr(memory, "total", size // 2)
    assert total_bytes(gpu) == size // 2
    with pytest.raises(GenServeError, match="stage_too_large"):
        residency.hold("tiny-sd3", largest)
