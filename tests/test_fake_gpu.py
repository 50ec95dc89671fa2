"""What code may rely on a GPU for, and what a GPU does not forgive: the one that is not there as a real one."""

from __future__ import annotations

import gc

import pytest
import torch

from genserve.diffusion.accelerator import free_bytes, synchronize, total_bytes
from genserve.diffusion.streams import HostCopy
from tests.fake_gpu import GpuModule


def numbers(gpu: str) -> torch.Tensor:
    return torch.arange(6.0, device=gpu).reshape(2, 3)


def test_it_computes(gpu: str) -> None:
    x = numbers(gpu)
    y = torch.nn.Linear(3, 4).to(gpu)(x) @ torch.ones(4, 1, device=gpu)
    assert y.device == torch.device(gpu)
    assert (y.shape, x.sum().item(), x[[1]].tolist()) == ((2, 1), 15.0, [[3.0, 4.0, 5.0]])


def test_it_changes_tensors_in_place_and_views_show_it(gpu: str) -> None:
    x = numbers(gpu)
    row = x[1]
    assert x.mul_(2) is x
    assert row.tolist() == [6.0, 8.0, 10.0]


def test_tensors_of_host_and_device_do_not_mix(gpu: str) -> None:
    with pytest.raises(RuntimeError, match="device"):
        numbers(gpu) + torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="device"):
        torch.cat([numbers(gpu), torch.ones(2, 3)])


def test_numbers_of_the_host_do_mix(gpu: str) -> None:
    assert (numbers(gpu) * torch.tensor(2.0)).sum().item() == 30.0


def test_the_host_does_not_see_its_memory(gpu: str) -> None:
    with pytest.raises(TypeError, match="numpy"):
        numbers(gpu).numpy()
    assert numbers(gpu).cpu().numpy().sum() == 15.0


def test_a_copy_to_the_host_has_come_when_it_was_waited_for(gpu: str) -> None:
    assert torch.equal(HostCopy({"x": numbers(gpu)}).wait()["x"], numbers(gpu).cpu())


def test_what_was_asked_for_without_waiting_is_there_once_the_stream_is_done(gpu: str) -> None:
    host = torch.empty(2, 3, pin_memory=True)
    host.copy_(numbers(gpu), non_blocking=True)
    synchronize(gpu)
    assert host.sum() == 15.0


def test_memory_is_used_and_free_again(gpu: str) -> None:
    before = free_bytes(gpu)
    x = torch.zeros(1 << 20, device=gpu)
    view = x[:10]
    del x
    assert before is not None
    assert before - (free_bytes(gpu) or 0) >= 4 << 20
    del view
    gc.collect()
    assert free_bytes(gpu) == before
    assert (total_bytes(gpu) or 0) >= before


def test_memory_ends(gpu: str) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty((total_bytes(gpu) or 0) + 1, dtype=torch.uint8, device=gpu)


# ── what a real one does as well, but not every time ─────────────────────────────────────────────────────────


def test_a_copy_into_pinned_memory_has_not_happened_before_it_was_waited_for(gpu: str, fake_device: GpuModule) -> None:
    host = torch.empty(2, 3, pin_memory=True).zero_()
    host.copy_(numbers(gpu), non_blocking=True)
    assert host.sum() == 0.0


def test_a_stream_that_waits_for_nobody_copies_rubbish(gpu: str, fake_device: GpuModule) -> None:
    x, host, side = numbers(gpu), torch.empty(2, 3, pin_memory=True), fake_device.Stream()
    with fake_device.stream(side):
        host.copy_(x, non_blocking=True)
    side.synchronize()
    assert not torch.equal(host, numbers(gpu).cpu())
