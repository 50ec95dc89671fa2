"""Text embeddings on their way from the worker that made them to the one that denoises; latents travel as parcels.

Between processes of one cell and of one version only, never stored: the worker they come to needs no text encoder.
"""

from __future__ import annotations

from typing import Any

import msgspec
import safetensors.torch
import torch

from genserve.diffusion.denoising import Conditioning
from genserve.diffusion.wires import Buffer

MAGIC = b"genserve-embeddings-1"


class _Packed(msgspec.Struct, frozen=True):
    """``plain`` are the values that are no tensors, ``lists`` the lengths of those that are lists of tensors."""

    kinds: dict[str, list[str]]
    plain: dict[str, Any]
    lists: dict[str, int]
    tensors: bytes


def are_embeddings(content: Buffer) -> bool:
    """Whether bytes are packed embeddings rather than latents."""
    return content[: len(MAGIC)] == MAGIC


def pack_embeddings(conditioning: Conditioning) -> bytes:
    """The bytes of one request's embeddings; the tensors' bits stay as they are."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    lists: dict[str, int] = {}
    for name, value in conditioning.values.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = _on_host(value)
        elif isinstance(value, list) and all(isinstance(item, torch.Tensor) for item in value):
            lists[name] = len(value)
            tensors |= {f"{name}/{index}": _on_host(item) for index, item in enumerate(value)}
        else:
            plain[name] = value
    kinds = {kind: list(names) for kind, names in conditioning.kinds.items()}
    return MAGIC + msgspec.msgpack.encode(_Packed(kinds, plain, lists, safetensors.torch.save(tensors)))


def unpack_embeddings(content: Buffer, device: torch.device | str) -> Conditioning:
    """The same embeddings on that device."""
    packed = msgspec.msgpack.decode(content[len(MAGIC) :], type=_Packed)
    tensors = {name: tensor.to(device) for name, tensor in safetensors.torch.load(packed.tensors).items()}
    lists = {n: [tensors.pop(f"{n}/{index}") for index in range(length)] for n, length in packed.lists.items()}
    return Conditioning({**packed.plain, **lists, **tensors}, packed.kinds)


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with memory of its own: a file of tensors may not name the same memory twice."""
    return tensor.detach().to("cpu", copy=True).contiguous()
