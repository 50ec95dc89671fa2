"""Tensors of any dtype and shape laid out in a few buffers, to be moved in one piece each; not by whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import torch

from genserve.diffusion.wires import ALIGNMENT

LARGE = 1 << 16
"""Bytes from which on a host's tensor is a buffer of its own, sent from where it is: copying would take longer."""
SMALL = 0
"""The buffer of the host's other tensors: there is always one."""


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a parcel: where it is in which buffer, in bytes. All tensors of the device share one."""

    dtype: str
    shape: tuple[int, ...]
    buffer: int
    offset: int
    size: int
    is_on_host: bool


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def layouts_of(tensors: Sequence[torch.Tensor]) -> tuple[Layout, ...]:
    """Each tensor's place; an offset is aligned as memory of its own would be."""
    numbers: dict[str, int] = {"small": SMALL}
    ends: defaultdict[int, int] = defaultdict(int)
    layouts = []
    for index, tensor in enumerate(tensors):
        is_on_host = tensor.device.type == "cpu"
        kind = "device" if not is_on_host else "small" if tensor.nbytes < LARGE else f"large {index}"
        number = numbers.setdefault(kind, len(numbers))
        layouts.append(
            Layout(dtype_name(tensor.dtype), tuple(tensor.shape), number, ends[number], tensor.nbytes, is_on_host)
        )
        ends[number] += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(layouts)


def filled_buffers(layouts: Sequence[Layout], tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The buffers (uint8) with the tensors in them; a large one of the host is where it was."""
    placed: defaultdict[int, list[tuple[Layout, torch.Tensor]]] = defaultdict(list, {SMALL: []})
    for layout, tensor in zip(layouts, tensors, strict=True):
        placed[layout.buffer].append((layout, tensor))
    return tuple(_filled(placed[number]) for number in sorted(placed))


def empty_buffers(layouts: Sequence[Layout], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Buffers of this process for tensors that come."""
    places, ends = {SMALL: torch.device("cpu")}, defaultdict(int)
    for layout in layouts:
        places[layout.buffer] = torch.device("cpu") if layout.is_on_host else device
        ends[layout.buffer] = layout.offset + layout.size
    return tuple(torch.empty(ends[n], dtype=torch.uint8, device=places[n]) for n in sorted(places))


def views_of(layouts: Sequence[Layout], buffers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors inside the buffers, without copying."""
    return [_view(layout, buffers[layout.buffer]) for layout in layouts]


def _filled(placed: Sequence[tuple[Layout, torch.Tensor]]) -> torch.Tensor:
    if len(placed) == 1 and placed[0][0].is_on_host:
        return placed[0][1].contiguous().view(-1).view(torch.uint8)
    size = placed[-1][0].offset + placed[-1][0].size if placed else 0
    device = placed[0][1].device if placed else torch.device("cpu")
    buffer = torch.empty(size, dtype=torch.uint8, device=device)
    for layout, tensor in placed:
        _view(layout, buffer).copy_(tensor)
    return buffer


def _view(layout: Layout, buffer: torch.Tensor) -> torch.Tensor:
    dtype = getattr(torch, layout.dtype)
    if layout.is_on_host and layout.size:
        count = layout.size // dtype.itemsize
        flat = torch.frombuffer(buffer.numpy(), dtype=dtype, count=count, offset=layout.offset)
    else:
        flat = buffer.narrow(0, layout.offset, layout.size).view(dtype)
    return flat.view(layout.shape)
