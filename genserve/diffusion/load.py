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
from genserve.errors import CallerError


def load_model(
    entry: ModelEntry,
    models_dir: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> DiffusionModel:
    """The model of that entry, on the device; ``dtype`` overrides the entry's.

    Raises CallerError ``checkpoint_not_found``, ``checkpoint_incomplete`` or ``unsupported_pipeline``.
    """
    folder = entry.folder(models_dir)
    if not any((folder / index).is_file() for index in ("model_index.json", "modular_model_index.json")):
        message = f"no checkpoint of {entry.name} in {folder}; small ones are made by `genserve models build`"
        raise CallerError("checkpoint_not_found", message, "model")
    with quiet():
        pipeline = _init_pipeline(entry, folder)
        stages = split_stages(pipeline)
        _load_components(entry, pipeline, stages.component_names, dtype=dtype or getattr(torch, entry.dtype))
        pipeline.to(device)
    return DiffusionModel(entry, pipeline, stages, fingerprint=_fingerprint(folder))


def _init_pipeline(entry: ModelEntry, folder: Path) -> Any:
    if entry.blocks:
        return getattr(diffusers, entry.blocks)().init_pipeline(str(folder))
    return ModularPipeline.from_pretrained(str(folder))


def _load_components(entry: ModelEntry, pipeline: Any, used: frozenset[str], *, dtype: torch.dtype) -> None:
    names = [name for name in pipeline.pretrained_component_names if name in used]
    dtypes = {"default": dtype, "vae": getattr(torch, entry.vae_dtype) if entry.vae_dtype else dtype}
    pipeline.load_components(names=names, dtype=dtypes)
    absent = [name for name in names if getattr(pipeline, name, None) is None]
    if absent:
        message = f"{entry.name}: {', '.join(absent)} of the checkpoint could not be loaded"
        raise CallerError("checkpoint_incomplete", message, "model")


def _fingerprint(folder: Path) -> str:
    """SHA-256 over every file's name and size, and the contents of the configuration files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()
