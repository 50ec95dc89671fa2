"""Full-size models with random weights, made on the device; to measure with, not to look at.

What they are is data: ``full_size.toml`` is their catalog, ``full_size.json`` holds the published configuration of
every component. Nothing large goes through the host or the disk: modules are laid out without memory and filled on
the device. The autoencoder of Wan 2.2 has neutral latent statistics: random weights have none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import diffusers
import msgspec
import torch
import transformers
from accelerate import init_empty_weights
from diffusers.schedulers import SchedulerMixin

from genserve.diffusion.catalog import Catalog, ModelEntry
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.quiet import quiet
from genserve.diffusion.stages import split_stages
from genserve.diffusion.tuning import tune
from genserve.diffusion.vocabulary import clip_tokenizer, t5_tokenizer
from genserve.diffusion.wan import correct_stride

SEED = 11
DEVIATION = 0.02
ONES = ("weight", "gamma", "scale")
"""Vectors of these names are gains of a norm."""


class Component(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A class of diffusers or transformers and its configuration."""

    kind: str
    config: dict[str, Any]

    @property
    def is_weightless(self) -> bool:
        return issubclass(_find(self.kind), SchedulerMixin)


def full_size_catalog() -> Catalog:
    """The full-size models' entries."""
    with resources.as_file(resources.files("genserve.diffusion").joinpath("full_size.toml")) as path:
        return Catalog.load(path)


def components_of(name: str) -> dict[str, Component]:
    """The components of one full-size model, by the name a pipeline has for them."""
    data = resources.files("genserve.diffusion").joinpath("full_size.json").read_bytes()
    return msgspec.json.decode(data, type=dict[str, dict[str, Component]])[name]


def build_full_size(entry: ModelEntry, device: torch.device | str) -> DiffusionModel:
    """A model of the full-size catalog on the device, in its entry's types, with seeded random weights."""
    torch.manual_seed(SEED)
    with quiet():
        pipeline = getattr(diffusers, entry.blocks)().init_pipeline()
        correct_stride(pipeline)
        parts = {name: _build(name, component, entry, device) for name, component in components_of(entry.name).items()}
        pipeline.update_components(**parts, **_tokenizers(parts))
    fingerprint = hashlib.sha256(msgspec.json.encode(components_of(entry.name), order="deterministic")).hexdigest()
    return DiffusionModel(entry, pipeline, split_stages(pipeline), device=device, fingerprint=fingerprint)


def lay_out(component: Component) -> Any:
    """The module with parameters on the meta device and buffers, which are computed, on the CPU."""
    kind = _find(component.kind)
    with init_empty_weights(include_buffers=False):
        if issubclass(kind, diffusers.ModelMixin):
            return kind.from_config(component.config).eval().requires_grad_(False)
        module = kind(kind.config_class(**component.config)).eval().requires_grad_(False)
    module.tie_weights()
    return module


def _find(kind: str) -> Any:
    return getattr(diffusers, kind, None) or getattr(transformers, kind)


def _build(name: str, component: Component, entry: ModelEntry, device: torch.device | str) -> Any:
    if component.is_weightless:
        return _find(component.kind).from_config(component.config)
    module = lay_out(component)
    wanted = entry.vae_dtype if name == "vae" and entry.vae_dtype else entry.dtype
    _fill(module, device, getattr(torch, wanted))
    tune(name, module, entry)
    return module


def _fill(module: Any, device: torch.device | str, dtype: torch.dtype) -> None:
    """Give every parameter memory and values; shared ones stay shared, and what has to stay float32 does."""
    is_ours = isinstance(module, diffusers.ModelMixin)
    precise = frozenset((is_ours and module._keep_in_fp32_modules) or ())
    filled: dict[int, torch.nn.Parameter] = {}
    for owner, name, path in _parameters(module):
        parameter = owner._parameters[name]
        if id(parameter) not in filled:
            own = torch.float32 if precise.intersection(path.split(".")) else dtype
            filled[id(parameter)] = torch.nn.Parameter(_values(name, parameter, own, device), requires_grad=False)
        owner._parameters[name] = filled[id(parameter)]
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            is_weight = name not in owner._non_persistent_buffers_set and buffer is not None
            is_cast = is_weight and buffer.is_floating_point()
            owner._buffers[name] = None if buffer is None else buffer.to(device, dtype if is_cast else None)


def _parameters(module: Any) -> Iterator[tuple[Any, str, str]]:
    for path, owner in module.named_modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                yield owner, name, f"{path}.{name}"


def _values(name: str, like: torch.Tensor, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    empty = torch.empty(like.shape, dtype=dtype, device=device)
    if name == "gamma" or (like.ndim == 1 and name in ONES):
        return empty.fill_(1.0)
    return empty.zero_() if like.ndim == 1 else empty.normal_(0.0, DEVIATION)


def _tokenizers(parts: dict[str, Any]) -> dict[str, Any]:
    """One for each text encoder, small ones of the right kind: a text's length decides the cost, not its words."""
    encoders = {name: part for name, part in parts.items() if name.startswith("text_encoder")}
    return {
        name.replace("text_encoder", "tokenizer"): clip_tokenizer() if "CLIP" in type(part).__name__ else t5_tokenizer()
        for name, part in encoders.items()
    }
