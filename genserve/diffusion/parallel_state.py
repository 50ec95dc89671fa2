"""A batch as bytes for the ranks that join it: what each member is, its embeddings, latents and sampler.

Only between processes of one cell and of one version: the bytes are a pickle, and never stored.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch

from genserve.diffusion.denoising import Conditioning, Denoising, join
from genserve.diffusion.generation import Generation
from genserve.diffusion.latents import load, save
from genserve.diffusion.model import DiffusionModel


def pack(model: DiffusionModel, denoising: Denoising) -> bytes:
    """The batch as it is now; it goes on undisturbed."""
    members = []
    for index, member in enumerate(denoising.members):
        values = {name: _to(value, torch.device("cpu")) for name, value in member.conditioning.values.items()}
        kinds = dict(member.conditioning.kinds)
        members.append((member.generation, values, kinds, save(model, denoising, index)))
    return pickle.dumps(members, protocol=5)


def unpack(model: DiffusionModel, data: bytes) -> Denoising:
    """The same batch on this process's model: its next steps have the same bits as the original's."""
    parts: list[tuple[Generation, dict[str, Any], dict[str, list[str]], bytes]] = pickle.loads(data)  # noqa: S301
    batch = []
    for generation, values, kinds, content in parts:
        on_device = {name: _to(value, model.device) for name, value in values.items()}
        batch.append(load(model, generation, content, conditioning=Conditioning(on_device, kinds)))
    return join(batch)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return [_to(item, device) for item in value] if isinstance(value, list) else value
