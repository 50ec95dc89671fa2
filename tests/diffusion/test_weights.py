"""Weights by stage: each alone gives the same pixels, and processes of a node share them as maps of the same files."""

from __future__ import annotations

import gc
import multiprocessing
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.generation import Generation
from genserve.diffusion.load import open_model
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.parallel_state import from_bytes, pack, to_parts
from genserve.diffusion.transfer import are_embeddings, pack_embeddings, unpack_embeddings
from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling.shelf import ModelShelf

pytestmark = pytest.mark.models


def a_generation(model: DiffusionModel) -> Generation:
    frames = 5 if model.entry.media == "video" else 1
    return model.entry.generation("a fox", width=64, height=64, frames=frames, steps=3, seed=1)


def pixels(model: DiffusionModel) -> np.ndarray:
    generation = a_generation(model)
    denoising = model.prepare([generation], model.encode([generation]))
    while not denoising.is_done:
        model.step(denoising)
    return model.decode(denoising)[0]


def holding(name: str, models_dir: Path, stage: Stage) -> DiffusionModel:
    model, weights = open_model(Catalog.load().get(name), models_dir)
    weights.load(stage)
    assert weights.resident == (stage,)
    return model


def test_collecting_dropped_weights_passes_over_the_libraries(models_dir: Path) -> None:
    gc.unfreeze()
    ModelShelf(Catalog.load(), models_dir, device="cpu")
    assert gc.get_freeze_count() > 10 * len(gc.get_objects())


def test_three_devices_with_a_stage_each_make_the_pixels_of_one_with_all(
    model: DiffusionModel, models_dir: Path
) -> None:
    encoder, denoiser, decoder = (holding(model.entry.name, models_dir, stage) for stage in Stage)
    generation = a_generation(model)
    embeddings = pack_embeddings(encoder.encode([generation])[0])
    assert are_embeddings(embeddings)
    batch = denoiser.prepare([generation], [unpack_embeddings(embeddings, denoiser.device)])
    while not batch.is_done:
        denoiser.step(batch)
    moved = from_bytes(decoder, b"".join(to_parts(pack(denoiser, batch))))
    assert np.array_equal(decoder.decode(moved)[0], pixels(model))


def test_a_stage_without_weights_says_so_instead_of_running(models_dir: Path) -> None:
    model = holding("tiny-sd3", models_dir, Stage.DENOISE)
    with pytest.raises(GenServeError) as caught:
        model.encode([a_generation(model)])
    assert caught.value.code == "stage_not_resident"


def test_unloading_frees_the_weights_and_loading_again_makes_the_same_pixels(models_dir: Path) -> None:
    model, weights = open_model(Catalog.load().get("tiny-wan"), models_dir)
    for stage in Stage:
        weights.load(stage)
    before = pixels(model)
    parameter = weakref.ref(next(model.pipeline.transformer.parameters()))
    weights.unload(Stage.DENOISE)
    gc.collect()
    assert parameter() is None
    weights.load(Stage.DENOISE)
    assert np.array_equal(pixels(model), before)


def test_the_size_of_a_stage_is_known_before_it_is_loaded(model: DiffusionModel, models_dir: Path) -> None:
    _, weights = open_model(model.entry, models_dir)
    denoiser = model.pipeline.transformer
    weighed = sum(tensor.nbytes for tensor in (*denoiser.parameters(), *denoiser.buffers()))
    assert 0.9 * weighed <= weights.bytes_of(Stage.DENOISE) <= weighed
    assert weights.resident == ()


def test_every_loaded_weight_has_the_bits_of_its_file(model: DiffusionModel, models_dir: Path) -> None:
    folder = model.entry.folder(models_dir)
    for name in ("transformer", "vae"):
        (path,) = (folder / name).glob("*.safetensors")
        loaded = getattr(model.pipeline, name).state_dict()
        for key, stored in safetensors.torch.load_file(path).items():
            assert torch.equal(loaded[key], stored), f"{name}.{key}"


# ── sharing ──────────────────────────────────────────────────────────────────────────────────────────────


class Mapping:
    """One line of /proc/self/smaps with its counts, in kilobytes."""

    def __init__(self, head: str) -> None:
        span, *fields = head.split()
        self.low, self.high = (int(edge, 16) for edge in span.split("-"))
        self.path = fields[4] if len(fields) > 4 else ""
        self.kb: dict[str, int] = {}


def mappings() -> list[Mapping]:
    found: list[Mapping] = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            found.append(Mapping(line))
        elif line.endswith(" kB"):
            found[-1].kb[word[:-1]] = int(line.split()[1])
    return found


def weigh(model: DiffusionModel) -> dict[str, int]:
    """Bytes of parameters, those of them in maps of safetensors, and what those maps share or have of their own."""
    modules = [c for c in model.pipeline.components.values() if isinstance(c, torch.nn.Module)]
    parameters = [p for module in modules for p in module.parameters()]
    maps = [m for m in mappings() if m.path.endswith(".safetensors")]
    mapped = [p for p in parameters if any(m.low <= p.data_ptr() < m.high for m in maps)]
    return {
        "all": sum(p.nbytes for p in parameters),
        "mapped": sum(p.nbytes for p in mapped),
        "shared": sum(m.kb["Shared_Clean"] for m in maps) * 1024,
        "own": sum(m.kb["Private_Dirty"] for m in maps) * 1024,
    }


def hold(connection: Connection, name: str, models_dir: Path) -> None:
    """Load and use a model, then weigh it whenever asked, until the pipe is closed."""
    model, weights = open_model(Catalog.load().get(name), models_dir)
    for stage in Stage:
        weights.load(stage)
    pixels(model)
    connection.send("ready")
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        connection.send(weigh(model))


@contextmanager
def processes(target: Callable[..., None], *args: object) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    started = [context.Process(target=target, args=(theirs, *args), daemon=True) for _, theirs in pipes]
    for process in started:
        process.start()
    yield [ours for ours, _ in pipes]
    for process in started:
        process.kill()
        process.join()


@pytest.mark.timeout(180)
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells which pages are shared")
def test_two_processes_share_one_copy_of_the_weights(models_dir: Path) -> None:
    with processes(hold, "tiny-sd3", models_dir) as pipes:
        assert [pipe.recv() for pipe in pipes] == ["ready", "ready"]
        for pipe in pipes:
            pipe.send("weigh")
        for weighed in [pipe.recv() for pipe in pipes]:
            assert weighed["mapped"] == weighed["all"] > 20_000_000
            assert weighed["own"] == 0
            assert weighed["shared"] > 0.9 * weighed["all"]
