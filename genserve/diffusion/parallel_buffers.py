"""Tensors of any dtype and shape laid out in one buffer per kind of device, to be moved in one piece; not by whom."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch

from genserve.diffusion.wires import ALIGNMENT

LARGE = 1 << 16
"""Bytes from which on a tensor is sent from where it is: it would take longer to copy it to its neighbours."""


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a parcel; ``offset`` is in bytes, in the host's buffer or in the device's."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    is_on_host: bool

    @property
    def end(self) -> int:
        return self.offset + self.size


Placed = tuple[Layout, torch.Tensor]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def is_aligned(tensor: torch.Tensor) -> bool:
    return tensor.data_ptr() % ALIGNMENT == 0


def layouts_of(tensors: Sequence[torch.Tensor]) -> tuple[Layout, ...]:
    """Each tensor's place in the buffer of its kind of device."""
    ends = {True: 0, False: 0}
    layouts = []
    for tensor in tensors:
        is_on_host = tensor.device.type == "cpu"
        layouts.append(
            Layout(dtype_name(tensor.dtype), tuple(tensor.shape), ends[is_on_host], tensor.nbytes, is_on_host)
        )
        ends[is_on_host] += aligned(tensor.nbytes)
    return tuple(layouts)


def empty_buffers(layouts: Sequence[Layout], device: torch.device) -> tuple[torch.Tensor, ...]:
    """The host's buffer, and the device's if anything is in it."""
    sizes = [(torch.device("cpu"), _size(layouts, is_on_host=True)), (device, _size(layouts, is_on_host=False))]
    return tuple(torch.empty(size, dtype=torch.uint8, device=place) for place, size in sizes if size)


def pieces_of(layouts: Sequence[Layout], tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The buffers' bytes in order, in pieces: large tensors of the host are where they were, all others are copies."""
    host: list[Placed] = []
    device: list[Placed] = []
    for entry, tensor in zip(layouts, tensors, strict=True):
        (host if entry.is_on_host else device).append((entry, tensor))
    pieces, small, begin = [], [], 0
    for entry, tensor in host:
        if entry.size < LARGE or not tensor.is_contiguous():
            small.append((entry, tensor))
            continue
        pieces += [_filled(small, begin, entry.offset), tensor.view(-1).view(torch.uint8)]
        small, begin = [], entry.end
    pieces.append(_filled(small, begin, _size(layouts, is_on_host=True)))
    pieces.append(_filled(device, 0, _size(layouts, is_on_host=False)))
    return tuple(piece for piece in pieces if len(piece))


def views_of(layouts: Sequence[Layout], buffers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors inside the buffers, without copying."""
    return [_view(entry, buffers[0 if entry.is_on_host else -1], 0) for entry in layouts]


def _filled(placed: Sequence[Placed], begin: int, end: int) -> torch.Tensor:
    """The part of a buffer with those tensors in it."""
    device = placed[0][1].device if placed else torch.device("cpu")
    buffer = torch.empty(end - begin, dtype=torch.uint8, device=device)
    for entry, tensor in placed:
        _view(entry, buffer, begin).copy_(tensor)
    return buffer


def _view(entry: Layout, buffer: torch.Tensor, begin: int) -> torch.Tensor:
    part = buffer.narrow(0, entry.offset - begin, entry.size)
    return part.view(getattr(torch, entry.dtype)).view(entry.shape)


def _size(layouts: Sequence[Layout], *, is_on_host: bool) -> int:
    return max((entry.end for entry in layouts if entry.is_on_host == is_on_host), default=0)
