"""Run in a process of its own: finish every checkpoint in a folder, one latents file per checkpoint.

Arguments: the models directory, the folder. ``NAME.latents`` and ``NAME.json`` (model name and generation) are read,
``NAME.finished`` is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import safetensors.torch
import torch

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.generation import Generation
from genserve.diffusion.latents import load
from genserve.diffusion.load import load_model
from genserve.diffusion.model import DiffusionModel


def main(models_dir: str, folder: str) -> None:
    torch.set_num_threads(1)
    catalog, models = Catalog.load(), dict[str, DiffusionModel]()
    for path in sorted(Path(folder).glob("*.latents")):
        name, generation = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=tuple[str, Generation])
        model = models.setdefault(name, None) or load_model(catalog.get(name), models_dir)  # type: ignore[arg-type]
        models[name] = model
        denoising = load(model, generation, path.read_bytes())
        while not denoising.is_done:
            model.step(denoising)
        path.with_suffix(".finished").write_bytes(safetensors.torch.save({"latents": denoising.latents}))


if __name__ == "__main__":
    main(*sys.argv[1:])
