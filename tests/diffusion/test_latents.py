"""Checkpoints: a run paused anywhere and taken up anywhere comes to the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch

from genserve.diffusion.denoising import Denoising
from genserve.diffusion.latents import load as load_latents
from genserve.diffusion.latents import read_header, save, snapshot
from genserve.diffusion.load import load_model
from genserve.diffusion.model import DiffusionModel
from genserve.errors import CallerError
from tests.diffusion.generations import STEPS, a_generation, begun, finished, latents_alone

pytestmark = pytest.mark.models

Load = Callable[[str], DiffusionModel]
NAMES = ("tiny-sd3", "tiny-flux", "tiny-wan")


def test_a_run_paused_at_any_step_and_resumed_in_another_process_comes_to_the_same_bits(
    load: Load, models_dir: Path, tmp_path: Path
) -> None:
    for name in NAMES:
        model = load(name)
        for step in range(STEPS + 1):
            generation = a_generation(model.entry, seed=step)
            denoising = begun(model, generation, steps=step)
            begun(model, a_generation(model.entry, prompt="something else", seed=99), steps=1)
            (tmp_path / f"{name}-{step}.latents").write_bytes(save(model, denoising))
            (tmp_path / f"{name}-{step}.json").write_bytes(msgspec.json.encode((name, generation)))
    resume(models_dir, tmp_path)
    for name in NAMES:
        for step in range(STEPS + 1):
            finished_there = safetensors.torch.load((tmp_path / f"{name}-{step}.finished").read_bytes())["latents"]
            here = latents_alone(load(name), a_generation(load(name).entry, seed=step))
            assert torch.equal(finished_there, here), f"{name} paused after step {step}"


def resume(models_dir: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.diffusion.resume", str(models_dir), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=100, env=environment, cwd=Path(__file__).parents[2])


def test_loading_and_saving_again_gives_the_same_bytes(model: DiffusionModel) -> None:
    generation = a_generation(model.entry)
    content = save(model, begun(model, generation, steps=3))
    assert save(model, load_back(model, content)) == content


def load_back(model: DiffusionModel, content: bytes, **changes: object) -> Denoising:
    return load_latents(model, a_generation(model.entry, **changes), content)


def test_the_header_says_what_the_bytes_are(model: DiffusionModel) -> None:
    generation = a_generation(model.entry)
    header = read_header(save(model, begun(model, generation, steps=3)))
    assert (header.model, header.step_index, header.generation) == (model.entry.name, 3, generation.digest)


def test_a_snapshot_is_not_changed_by_the_steps_after_it(model: DiffusionModel) -> None:
    generation = a_generation(model.entry)
    denoising = begun(model, generation, steps=2)
    content = save(model, denoising)
    taken = snapshot(model, denoising)
    finished(model, denoising)
    assert taken.to_bytes() == content


def test_known_embeddings_spare_the_text_encoders(model: DiffusionModel) -> None:
    generation = a_generation(model.entry)
    content = save(model, begun(model, generation, steps=2))
    conditioning = model.encode([generation])[0]
    resumed = load_latents(model, generation, content, conditioning=conditioning)
    assert resumed.members[0].conditioning is conditioning
    assert torch.equal(finished(model, resumed).latents, latents_alone(model, generation))


def test_any_altered_byte_and_any_truncation_is_refused(load: Load) -> None:
    model = load("tiny-wan")
    content = save(model, begun(model, a_generation(model.entry), steps=2))
    places = [*range(0, 2000, 97), *range(2000, len(content), 1009), len(content) - 1]
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 0x20
        with pytest.raises(CallerError, match=r"checkpoint_corrupt|checkpoint_mismatch"):
            load_back(model, bytes(altered))
    for length in (0, 1, 7, 8, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(CallerError, match="checkpoint_corrupt"):
            load_back(model, content[:length])
    with pytest.raises(CallerError, match="checkpoint_corrupt"):
        load_back(model, b"not a checkpoint at all, but long enough to look for a header in it")


def test_another_requests_checkpoint_is_refused(model: DiffusionModel) -> None:
    content = save(model, begun(model, a_generation(model.entry)))
    with pytest.raises(CallerError, match="checkpoint_mismatch: latents checkpoint is of generation"):
        load_back(model, content, seed=2)


def test_another_models_checkpoint_is_refused(load: Load) -> None:
    sd3, flux = load("tiny-sd3"), load("tiny-flux")
    content = save(sd3, begun(sd3, a_generation(sd3.entry)))
    with pytest.raises(CallerError, match=r"checkpoint_mismatch.*is of model tiny-sd3, not tiny-flux"):
        load_latents(flux, a_generation(sd3.entry), content)


def test_a_checkpoint_of_other_weights_or_another_precision_is_refused(load: Load, models_dir: Path) -> None:
    flux = load("tiny-flux")
    generation = a_generation(flux.entry)
    content = save(flux, begun(flux, generation))
    half = load_model(msgspec.structs.replace(flux.entry, dtype="bfloat16"), models_dir)
    with pytest.raises(CallerError, match="checkpoint_mismatch: latents checkpoint is of latents float32"):
        load_latents(half, generation, content)
    half.fingerprint = "other weights"
    with pytest.raises(CallerError, match="checkpoint_mismatch: latents checkpoint is of weights"):
        load_latents(half, generation, content)
