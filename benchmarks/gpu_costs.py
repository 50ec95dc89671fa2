"""What one model costs beside its stages: memory, checkpoints, and our loop against the plain one."""

from __future__ import annotations

import inspect
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch

from genserve.diffusion.accelerator import is_accelerator, module_of
from genserve.diffusion.denoising import Denoising
from genserve.diffusion.generation import Generation
from genserve.diffusion.latents import snapshot
from genserve.diffusion.model import DiffusionModel
from genserve.domain.request import Shape, Stage
from genserve.scheduling.files import write_durably

ROUNDS, STEPS = 2, 6
PROMPT = "a lighthouse at dusk"


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────


def weights(model: DiffusionModel) -> dict[str, int]:
    """Bytes of each stage's modules; one that two stages use counts in both."""
    stages = model._stages
    parts = {name: c for name, c in model.pipeline.components.items() if isinstance(c, torch.nn.Module)}
    sizes = {
        name: sum(t.numel() * t.itemsize for t in (*module.parameters(), *module.buffers()))
        for name, module in parts.items()
    }
    return {
        f"{model.entry.name}/{stage}": sum(sizes[name] for name in stages.names_of(stage) if name in sizes)
        for stage in Stage
    }


def peaks(model: DiffusionModel, shape: Shape) -> dict[str, int]:
    """What a device has allocated at most during each stage, all weights included; nothing for a CPU."""
    if not is_accelerator(model.device):
        return {}
    generation = _generation(shape, steps=2)
    peaks = {}
    memory = module_of(model.device)
    memory.reset_peak_memory_stats(model.device)

    def note(stage: Stage) -> None:
        model.synchronize()
        peaks[str(stage)] = int(memory.max_memory_allocated(model.device))
        memory.reset_peak_memory_stats(model.device)

    conditioning = model.encode([generation])
    note(Stage.ENCODE)
    batch = model.prepare([generation], conditioning)
    while not batch.is_done:
        model.step(batch)
    note(Stage.DENOISE)
    model.decode(batch)
    note(Stage.DECODE)
    return peaks


# ── copies to the host ───────────────────────────────────────────────────────────────────────────────────────


def copies(model: DiffusionModel, shape: Shape) -> dict[str, int]:
    """What a checkpoint costs: to take it, until it is on the host, in bytes, on disk; and what it costs a step.

    The step is timed with and without a checkpoint taken behind it and written on another thread, in turns.
    """
    batch = _begun(model, shape, steps=2 * 2 * STEPS + 2)
    model.step(batch)
    taken, arrived, made, written = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as files:
        path = Path(folder) / "checkpoint"
        for _ in range(STEPS):
            model.synchronize()
            marks = [time.perf_counter_ns()]
            held = snapshot(model, batch)
            marks.append(time.perf_counter_ns())
            held.copy.wait()
            marks.append(time.perf_counter_ns())
            content = held.to_bytes()
            marks.append(time.perf_counter_ns())
            write_durably(path, content)
            marks.append(time.perf_counter_ns())
            for times, (before, after) in zip((taken, arrived, made, written), pairwise(marks), strict=True):
                times.append((after - before) // 1000)
        plain, saving = [], []
        for _ in range(2 * STEPS):
            plain.append(_timed_step(model, batch))
            saving.append(_timed_step(model, batch, before=lambda: _save_aside(model, batch, files, path)))
    return {
        "take": round(statistics.median(taken)),
        "arrive": round(statistics.median(arrived)),
        "bytes": round(statistics.median(made)),
        "write": round(statistics.median(written)),
        "size_bytes": len(content),
        "step": low(plain),
        "step_with_checkpoint": low(saving),
    }


def _save_aside(model: DiffusionModel, batch: Denoising, files: ThreadPoolExecutor, path: Path) -> None:
    held = snapshot(model, batch)
    files.submit(lambda: write_durably(path, held.to_bytes()))


def _timed_step(model: DiffusionModel, batch: Denoising, before: Callable[[], None] = lambda: None) -> int:
    began_ns = time.perf_counter_ns()
    before()
    model.step(batch)
    model.synchronize()
    return (time.perf_counter_ns() - began_ns) // 1000


# ── our loop against the plain one ───────────────────────────────────────────────────────────────────────────


def loops(model: DiffusionModel, shape: Shape) -> dict[str, int]:
    """A step of ours and of the plain diffusers pipeline with the same modules, in turns, guidance off.

    With it the two differ in arithmetic: the plain SD3 runs both halves as one batch.
    """
    plain_pipeline = _plain(model)
    ours: list[int] = []
    plain: list[int] = []
    for _ in range(ROUNDS):
        batch = _begun(model, shape, steps=STEPS + 1)
        model.step(batch)
        model.synchronize()
        ours += [_timed_step(model, batch) for _ in range(STEPS)]
        plain += _plain_steps(plain_pipeline, model, shape)
    return {"ours": low(ours), "plain": low(plain)}


def _plain(model: DiffusionModel) -> Any:
    kinds = {"sd3": "StableDiffusion3Pipeline", "flux": "FluxPipeline", "wan": "WanPipeline"}
    kind = getattr(diffusers, kinds[model.entry.family])
    have = model.pipeline.components
    parts = {name: have[name] for name in inspect.signature(kind.__init__).parameters if name in have}
    parts["scheduler"] = type(have["scheduler"]).from_config(have["scheduler"].config)
    pipeline = kind(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _plain_steps(pipeline: Any, model: DiffusionModel, shape: Shape) -> list[int]:
    marks: list[int] = []

    def note(_pipeline: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        model.synchronize()
        marks.append(time.perf_counter_ns())
        return values

    frames = {"num_frames": shape.frames} if model.entry.media == "video" else {}
    length = model.entry.max_sequence_length
    pipeline(
        prompt=PROMPT,
        width=shape.width,
        height=shape.height,
        num_inference_steps=STEPS + 1,
        guidance_scale=1.0,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=note,
        **({"max_sequence_length": length} if length else {}),
        **frames,
    )
    return [(after - before) // 1000 for before, after in pairwise(marks)]


def low(times: list[int]) -> int:
    """The lower quartile: other work on the machine only adds."""
    return sorted(times)[len(times) // 4]


def _begun(model: DiffusionModel, shape: Shape, *, steps: int) -> Denoising:
    generation = _generation(shape, steps=steps)
    return model.prepare([generation], model.encode([generation]))


def _generation(shape: Shape, *, steps: int) -> Generation:
    return Generation(
        prompt=PROMPT,
        width=shape.width,
        height=shape.height,
        frames=shape.frames,
        steps=steps,
        seed=0,
        guidance_scale=1.0,
    )
