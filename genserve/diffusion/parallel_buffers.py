"""Tensors of any dtype and shape laid out in one buffer per kind of device, to be moved in one piece; not by whom."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch

ALIGNMENT = 64
"""Bytes: a tensor inside a buffer starts where one with memory of its own would, because kernels may care."""


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a parcel; ``offset`` is in bytes, in the host's buffer or in the device's."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    is_on_host: bool


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def layouts_of(tensors: Sequence[torch.Tensor]) -> tuple[Layout, ...]:
    """Each tensor's place in the buffer of its kind of device."""
    ends = {True: 0, False: 0}
    layouts = []
    for tensor in tensors:
        is_on_host = tensor.device.type == "cpu"
        layouts.append(
            Layout(dtype_name(tensor.dtype), tuple(tensor.shape), ends[is_on_host], tensor.nbytes, is_on_host)
        )
        ends[is_on_host] += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(layouts)


def empty_buffers(layouts: Sequence[Layout], device: torch.device) -> tuple[torch.Tensor, ...]:
    """The host's buffer, and the device's if anything is in it."""
    sizes = [
        max((entry.offset + entry.size for entry in layouts if entry.is_on_host == is_on_host), default=0)
        for is_on_host in (True, False)
    ]
    places = (torch.device("cpu"), device)
    return tuple(torch.empty(size, dtype=torch.uint8, device=p) for size, p in zip(sizes, places, strict=True) if size)


def filled_buffers(layouts: Sequence[Layout], tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))
    buffers = empty_buffers(layouts, device)
    for view, tensor in zip(views_of(layouts, buffers), tensors, strict=True):
        view.copy_(tensor)
    return buffers


def views_of(layouts: Sequence[Layout], buffers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors inside the buffers, without copying."""
    return [
        buffers[0 if entry.is_on_host else -1]
        .narrow(0, entry.offset, entry.size)
        .view(getattr(torch, entry.dtype))
        .view(entry.shape)
        for entry in layouts
    ]
