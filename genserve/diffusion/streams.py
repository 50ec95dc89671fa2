"""Copies from a device to the host that steps don't wait for; not what is copied, nor why (see latents)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from genserve.diffusion.accelerator import module_of

Tensors = dict[str, torch.Tensor]


class HostCopy:
    """Tensors on their way to the host since this was made; the originals may be changed meanwhile.

    From a GPU they are copied on the device, which is fast, and from there on a stream of their own into pinned
    memory, so that the next step's kernels are neither behind the copy nor held up by it. May be made on one thread
    and waited for on another.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        own = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._ready: list[Any] = []
        self._host = {name: tensor for name, tensor in own.items() if tensor.device.type == "cpu"}
        for device in {tensor.device for tensor in own.values()} - {torch.device("cpu")}:
            self._start(device, {name: tensor for name, tensor in own.items() if tensor.device == device})

    def wait(self) -> Tensors:
        """The tensors on the host, contiguous; returns when they have arrived."""
        for event in self._ready:
            event.synchronize()
        return {name: tensor.contiguous() for name, tensor in self._host.items()}

    def _start(self, device: torch.device, tensors: Tensors) -> None:
        module = module_of(device)
        side = _side_stream(device)
        side.wait_stream(module.current_stream(device))
        with module.stream(side):
            for name, tensor in tensors.items():
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                self._host[name] = host.copy_(tensor, non_blocking=True)
                tensor.record_stream(side)
            event = module.Event()
            event.record(side)
        self._ready.append(event)


@cache
def _side_stream(device: torch.device) -> Any:
    return module_of(device).Stream(device)
