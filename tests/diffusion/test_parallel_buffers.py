"""Tensors in buffers: they come out as they went in, small ones together, large ones from where they are."""

from __future__ import annotations

import pytest
import torch

from genserve.diffusion.parallel_buffers import (
    LARGE,
    SMALL,
    empty_buffers,
    filled_buffers,
    layouts_of,
    views_of,
)
from genserve.diffusion.wires import ALIGNMENT

CPU = torch.device("cpu")
TENSORS = (
    torch.tensor(3.5),
    torch.zeros(0, 3),
    torch.arange(7, dtype=torch.int64).expand(3, 7),
    torch.arange(LARGE, dtype=torch.bfloat16),
    torch.tensor([True, False]),
    torch.arange(300.0 * 300).view(300, 300).t(),
)


def test_every_tensor_comes_out_as_it_went_in() -> None:
    layouts = layouts_of(TENSORS)
    buffers = empty_buffers(layouts, CPU)
    for ours, theirs in zip(buffers, filled_buffers(layouts, TENSORS), strict=True):
        ours.copy_(theirs)
    for before, after in zip(TENSORS, views_of(layouts, buffers), strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert torch.equal(before, after)
        assert after.data_ptr() % ALIGNMENT == 0 or after.numel() == 0


def test_a_large_tensor_is_sent_from_where_it_is_and_small_ones_share_a_buffer() -> None:
    layouts = layouts_of(TENSORS)
    assert [layout.buffer for layout in layouts] == [SMALL, SMALL, SMALL, 1, SMALL, 2]
    _, large, not_contiguous = filled_buffers(layouts, TENSORS)
    assert large.data_ptr() == TENSORS[3].data_ptr()
    assert not_contiguous.data_ptr() != TENSORS[5].data_ptr()


@pytest.mark.parametrize("tensors", [(), (torch.zeros(LARGE),)])
def test_there_is_always_a_buffer_for_small_ones(tensors: tuple[torch.Tensor, ...]) -> None:
    layouts = layouts_of(tensors)
    assert len(filled_buffers(layouts, tensors)[SMALL]) == len(empty_buffers(layouts, CPU)[SMALL]) == 0


def test_tensors_of_the_device_share_one_buffer_there_whatever_their_size() -> None:
    meta = torch.device("meta")
    tensors = (torch.zeros(3), torch.zeros(LARGE, device=meta), torch.zeros(5, device=meta))
    layouts = layouts_of(tensors)
    assert [(layout.buffer, layout.offset) for layout in layouts] == [(SMALL, 0), (1, 0), (1, 4 * LARGE)]
    for buffers in (filled_buffers(layouts, tensors), empty_buffers(layouts, meta)):
        assert [(buffer.device, len(buffer)) for buffer in buffers] == [(CPU, 12), (meta, 4 * LARGE + 20)]
