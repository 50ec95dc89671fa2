"""Loading a checkpoint folder into a model, the ordinary from_pretrained way; not for making one (see build)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.modular_pipelines import ModularPipeline

from genserve.diffusion.catalog import ModelEntry
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.quiet import quiet
from genserve.diffusion.stages import split_stages
from genserve.diffusion.wan import correct_stride
from genserve.diffusion.weights import Weights
from genserve.domain.request import Stage


def load_model(
    entry: ModelEntry,
    models_dir: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> DiffusionModel:
    """The whole model of that entry, on the device; ``dtype`` overrides the entry's.

    Raises CallerError ``checkpoint_not_found``, ``checkpoint_incomplete`` or ``unsupported_pipeline``.
    """
    model, weights = open_model(entry, models_dir, device=device, dtype=dtype)
    for stage in Stage:
        weights.load(stage)
    return model


def open_model(
    entry: ModelEntry,
    models_dir: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[DiffusionModel, Weights]:
    """The model without weights, and the means to load them stage by stage; raises as ``load_model`` does."""
    folder = entry.find_checkpoint(models_dir)
    with quiet():
        pipeline = _init_pipeline(entry, folder)
        correct_stride(pipeline)
    stages = split_stages(pipeline)
    weights = Weights(entry, pipeline, stages, device=device, dtype=dtype or getattr(torch, entry.dtype))
    model = DiffusionModel(entry, pipeline, stages, device=device, fingerprint=_fingerprint(folder))
    return model, weights


def _init_pipeline(entry: ModelEntry, folder: Path) -> Any:
    if entry.blocks:
        return getattr(diffusers, entry.blocks)().init_pipeline(str(folder))
    return ModularPipeline.from_pretrained(str(folder))


def _fingerprint(folder: Path) -> str:
    """SHA-256 over every file's name and size, and the contents of the configuration files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()
