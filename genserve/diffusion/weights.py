"""Which stages of a model have their weights on the device, loaded and dropped one by one; not when (see residency).

On a CPU weights are private memory maps of the checkpoint's safetensors, which is how ``from_pretrained`` reads them
where the file has the wanted dtype: all processes of a node share one copy in the page cache. Another dtype costs a
copy per process. To a GPU they are copied from the map.
"""

from __future__ import annotations

import gc
from collections.abc import Collection
from typing import Any

import torch

from genserve.diffusion.accelerator import give_back
from genserve.diffusion.catalog import ModelEntry
from genserve.diffusion.quiet import quiet
from genserve.diffusion.stages import Stages
from genserve.diffusion.tuning import tune
from genserve.domain.request import Stage
from genserve.errors import CallerError, GenServeError


class Weights:
    """A pipeline's modules by stage. One thread at a time; a module that several stages use is loaded once.

    Blocks of one stage read the configuration of another's module (the autoencoder's stride, say), so a module without
    weights leaves its outline behind, which answers such questions and nothing else.
    """

    def __init__(
        self, entry: ModelEntry, pipeline: Any, stages: Stages, *, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self._entry = entry
        self._pipeline = pipeline
        self._device = device
        self._dtypes = {"default": dtype, "vae": getattr(torch, entry.vae_dtype) if entry.vae_dtype else dtype}
        used = [n for n in pipeline.pretrained_component_names if n in stages.component_names]
        modules = {name for name in used if _is_module(pipeline, name)}
        self._names = {stage: stages.names_of(stage) & modules for stage in Stage}
        self._outlines: dict[str, Any] = {name: self._outline(name) for name in sorted(modules)}
        self._resident: set[Stage] = set()
        with quiet():
            self._load([name for name in used if name not in modules])
        for name, outline in self._outlines.items():
            setattr(pipeline, name, outline)

    @property
    def resident(self) -> tuple[Stage, ...]:
        return tuple(stage for stage in Stage if stage in self._resident)

    def bytes_of(self, stage: Stage) -> int:
        """Memory of the stage's weights once loaded; known before they are."""
        return sum(self._outlines[name].size_bytes for name in self._names[stage])

    def load(self, stage: Stage) -> None:
        """Bring in what the stage lacks, or nothing; raises CallerError ``checkpoint_incomplete``."""
        if stage not in self._resident:
            missing = [name for name in sorted(self._names[stage]) if isinstance(self._component(name), Outline)]
            try:
                with quiet():
                    self._load(missing)
                for name in missing:
                    self._component(name).to(self._device)
                    tune(name, self._component(name), self._entry)
            except BaseException:
                self._drop(missing)
                raise
            self._resident.add(stage)

    def unload(self, stage: Stage) -> None:
        """Free what no other loaded stage uses."""
        self._resident.discard(stage)
        kept = {name for other in self._resident for name in self._names[other]}
        self._drop(self._names[stage] - kept)

    def _drop(self, names: Collection[str]) -> None:
        for name in names:
            setattr(self._pipeline, name, self._outlines[name])
        gc.collect()
        give_back(self._device)

    def _component(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def _load(self, names: Collection[str]) -> None:
        self._pipeline.load_components(names=list(names), dtype=self._dtypes)
        absent = [name for name in names if getattr(self._pipeline, name, None) in (None, self._outlines.get(name))]
        if absent:
            message = f"{self._entry.name}: {', '.join(absent)} of the checkpoint could not be loaded"
            raise CallerError("checkpoint_incomplete", message, "model")

    def _outline(self, name: str) -> Outline:
        spec = self._pipeline.get_component_spec(name)
        dtype = self._dtypes.get(name, self._dtypes["default"])
        try:
            return Outline(name, _on_nothing(spec.type_hint, spec.pretrained_model_name_or_path, spec.subfolder), dtype)
        except OSError as error:
            message = f"{self._entry.name}: {name} of the checkpoint could not be loaded: {error}"
            raise CallerError("checkpoint_incomplete", message, "model") from error


class Outline:
    """A module without weights: its configuration and structure can be asked, but it cannot be run.

    Not a torch module itself, so that a pipeline does not take its device, which is none, for its own.
    """

    def __init__(self, name: str, module: torch.nn.Module, dtype: torch.dtype) -> None:
        self.name = name
        self.size_bytes = sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers())) * dtype.itemsize
        self.dtype = dtype
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise GenServeError("stage_not_resident", f"{self.name} was asked to run, but its weights are not loaded")


def _is_module(pipeline: Any, name: str) -> bool:
    hint = pipeline.get_component_spec(name).type_hint
    return isinstance(hint, type) and issubclass(hint, torch.nn.Module)


def _on_nothing(kind: Any, folder: str, subfolder: str) -> torch.nn.Module:
    """The module of that configuration on the meta device: no memory, no values."""
    with quiet(), torch.device("meta"):
        if hasattr(kind, "load_config"):
            module = kind.from_config(kind.load_config(folder, subfolder=subfolder))
        else:
            module = kind(kind.config_class.from_pretrained(folder, subfolder=subfolder))
    return module  # type: ignore[no-any-return]
