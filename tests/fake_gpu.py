"""A GPU that is not there: a device of its own for torch, whose memory is the host's but closed to it.

It has what a real one has and the host's processor has not, so that code which forgets about it fails here too:
tensors of the device and of the host do not mix; the host cannot look into the device's memory; a copy into pinned
memory that nobody has waited for has not happened; one on a stream that has not waited for whoever made the tensor
brings rubbish; memory ends. Kernels are the CPU's and are done when they are called.

``torch.nn`` and diffusers see an ordinary device, by the mechanism that torch has for devices of other makers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from genserve.diffusion import parallel_world, process_groups
from tests.fake_gpu_module import MEMORY_BYTES, GpuModule, Memory, Stream, device

__all__ = ["MEMORY_BYTES", "NAME", "GpuModule", "GpuTensor", "Memory", "device", "present"]

NAME = "fakegpu"
COPYING = ("aten::_to_copy", "aten::copy_")
INDEXING = ("aten::index.Tensor", "aten::index_put_")
"""What may have tensors of both sides: copies, and positions that the host gives."""

RUBBISH = 0x7F
"""Every byte of what was copied too early."""

CPU = torch.device("cpu")
PINNED = "is_pinned_for_the_fake"
plain_empty = torch.empty


class _Hooks(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return device.is_here

    def has_primary_context(self, index: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


_setup_privateuseone_for_python_backend(NAME, backend_module=device, hook=_Hooks())


class GpuTensor(torch.Tensor):
    """``host`` is what is in the device's memory; only the device looks at it."""

    host: torch.Tensor
    made: int

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> GpuTensor:
        tensor: GpuTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.host, tensor.made = host, device.kernels
        device.memory.hold(tensor, host.untyped_storage())
        return tensor

    def __repr__(self, **_: Any) -> str:
        return f"GpuTensor({self.host!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def record_stream(self, stream: Stream) -> None:
        """Memory is not given to others while a copy out of it is to come: the copy holds it."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run_op(func: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(func, args, kwargs)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Any operation that has a tensor or a result on the device."""
    name = func.name()
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    strangers = [tensor for tensor in tensors if not isinstance(tensor, GpuTensor) and tensor.dim() > 0]
    if strangers and not _may_cross(name, tensors):
        raise RuntimeError(f"{name}: expected all tensors on one device, found {strangers[0].device} and {NAME}")
    place = torch.device(kwargs.get("device") or (CPU if strangers and name == "aten::_to_copy" else NAME))
    if _leaves(name, tensors, place):
        return _copy_out(func, args, kwargs)
    if device.is_broken:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    device.kernels += 1
    known = {id(tensor.host): tensor for tensor in tensors if isinstance(tensor, GpuTensor)}
    if "device" in kwargs and place.type == NAME:
        kwargs = {**kwargs, "device": CPU}
    if name == "_c10d_functional::_wrap_tensor_autograd":
        return args[0]  # a tensor that would be waited for at its first use
    result = func(*_opened(args), **_opened(kwargs))
    if place.type != NAME:
        return result
    if func.namespace == "_c10d_functional":
        result = tree_map_only(torch.Tensor, torch.ops._c10d_functional.wait_tensor, result)
    if any(tensor.shape != tensor.host.shape for tensor in known.values()):
        raise NotImplementedError(f"{name} changes a tensor's shape in place")
    return tree_map_only(torch.Tensor, lambda made: known[id(made)] if id(made) in known else GpuTensor(made), result)


def _opened(values: Any) -> Any:
    return tree_map_only(GpuTensor, lambda tensor: tensor.host, values)


def _may_cross(name: str, tensors: list[torch.Tensor]) -> bool:
    return name in COPYING or (name in INDEXING and isinstance(tensors[0], GpuTensor))


def _leaves(name: str, tensors: list[torch.Tensor], place: torch.device) -> bool:
    """Whether it is a copy from the device to the host."""
    if name == "aten::copy_":
        return not isinstance(tensors[0], GpuTensor)
    return name == "aten::_to_copy" and place.type == "cpu" and isinstance(tensors[0], GpuTensor)


def _copy_out(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """At once, after all that came before; later, where nobody wants to wait and the memory allows it."""
    stream = device.current_stream()
    is_copy = func.name() == "aten::copy_"
    tensor = args[1] if is_copy else args[0]
    host = args[0] if is_copy else plain_empty(tensor.shape, dtype=kwargs.get("dtype") or tensor.dtype)
    may_wait = kwargs.get("non_blocking", bool(is_copy and args[2:3] == (True,)))
    late = partial(_arrive, host, tensor, is_early=stream is not device.main and stream.seen < tensor.made)
    stream.late.append(late)
    if not (may_wait and (getattr(host, PINNED, False) or not is_copy)):
        stream.synchronize()
    return host


def _arrive(host: torch.Tensor, tensor: GpuTensor, *, is_early: bool) -> None:
    host.copy_(tensor.host)
    if is_early:
        host.view(torch.uint8).fill_(RUBBISH)


def _empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
    """Torch asks a device's driver for pinned memory, and here is none."""
    tensor = plain_empty(*args, **kwargs)
    if pin_memory:
        setattr(tensor, PINNED, True)
    return tensor


@contextlib.contextmanager
def present() -> Iterator[str]:
    """The device is there; its place."""
    with (
        mock.patch.object(device, "is_here", new=True),
        mock.patch.object(torch, "empty", _empty),
        mock.patch.object(parallel_world, "form", _form),
    ):
        yield f"{NAME}:0"


def _form(*args: Any, device: torch.device, **kwargs: Any) -> Any:
    """A group of such devices: gloo's, for what is in their memories."""
    return process_groups.form(*args, device=CPU, **kwargs)


_everything = torch.library.Library("_", "IMPL")
_everything.fallback(_run_op, "PrivateUse1")
_by_name = torch.library.Library("aten", "IMPL")
_arange = torch.ops.aten.arange
for _op in (torch.ops.aten.copy_.default, _arange.default, _arange.start, _arange.start_step):
    _by_name.impl(_op.name(), partial(_run_op, _op), "PrivateUse1")
"""``torch.tensor`` copies past ``__torch_dispatch__``, where torch wants a kernel of that very name; and ``arange``
would otherwise be made by resizing."""
