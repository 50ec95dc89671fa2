"""All models of a catalog on one device, their weights loaded stage by stage; not which are to be there (residency)."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

from genserve.diffusion.accelerator import free_bytes, total_bytes
from genserve.diffusion.catalog import Catalog
from genserve.diffusion.load import open_model
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.weights import Weights
from genserve.domain.request import Stage


class ModelShelf:
    """The models whose checkpoints are there; none has weights at first."""

    def __init__(
        self,
        catalog: Catalog,
        models_dir: Path,
        *,
        device: str,
        leaving: Callable[[str, Stage], None] = lambda *_: None,
    ) -> None:
        self._device = device
        self._leaving = leaving
        """Told before a stage is unloaded: whoever else knows its modules is to forget them."""
        self.models: dict[str, DiffusionModel] = {}
        self._weights: dict[str, Weights] = {}
        for entry in catalog.models:
            if entry.folder(models_dir).is_dir():
                self.models[entry.name], self._weights[entry.name] = open_model(entry, models_dir, device=device)
        _look_only_at_weights()

    def bytes_of(self, model: str, stage: Stage) -> int:
        return self._weights[model].bytes_of(stage)

    def total_bytes(self) -> int | None:
        return total_bytes(self._device)

    def free_bytes(self) -> int | None:
        return free_bytes(self._device)

    def load(self, model: str, stage: Stage) -> None:
        self._weights[model].load(stage)

    def unload(self, model: str, stage: Stage) -> None:
        self._leaving(model, stage)
        self._weights[model].unload(stage)


def _look_only_at_weights() -> None:
    """Dropping weights collects garbage, and half a million objects of libraries, which stay, are no part of that."""
    gc.collect()
    gc.freeze()
