"""What a device that is not the host's processor is asked for, by its place ("cuda:0"); nothing else asks.

It is asked through torch's module for its kind, so that a device of another kind than CUDA is only another name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from genserve.errors import GenServeError

Place = torch.device | str


def is_accelerator(place: Place) -> bool:
    return torch.device(place).type != "cpu"


def pick_place(wish: str) -> str:
    """``auto`` is this process's first GPU, or the CPU where there is none; a kind alone is the first of that kind.

    Raises GenServeError ``no_gpu`` for a GPU that cannot be used here, though the driver may have counted it.
    """
    place = torch.device(wish if wish != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if not is_accelerator(place):
        return place.type
    if not module_of(place).is_available():
        raise GenServeError("no_gpu", f"{wish}: PyTorch {torch.__version__} cannot use a GPU in this process")
    return f"{place.type}:{place.index or 0}"


def count_gpus() -> int:
    """Those that torch sees here."""
    return torch.cuda.device_count()


def module_of(place: Place) -> Any:
    """``torch.cuda``, or what stands in its place for another kind of device: streams, events, memory."""
    return torch.get_device_module(torch.device(place))


def total_bytes(place: Place) -> int | None:
    """Memory of the device; None on a CPU, where weights are maps of files that the host drops and reads again."""
    if not is_accelerator(place):
        return None
    _, total = module_of(place).mem_get_info(torch.device(place))
    return int(total)


def free_bytes(place: Place) -> int | None:
    """Free on the device, and what torch keeps of it for later; None on a CPU."""
    if not is_accelerator(place):
        return None
    module, device = module_of(place), torch.device(place)
    free, _ = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))


def give_back(place: Place) -> None:
    """Let others have the memory that torch keeps for later."""
    if is_accelerator(place):
        module_of(place).empty_cache()


def synchronize(place: Place) -> None:
    """Wait for what this thread has asked of the device; a CPU is always done. Copies on streams of their own go on."""
    if is_accelerator(place):
        module_of(place).current_stream(torch.device(place)).synchronize()


def mark(place: Place) -> Callable[[], bool]:
    """A question, to be asked again and again: is the accelerator done with what this thread asked of it so far?"""
    module = module_of(place)
    event = module.Event()
    event.record(module.current_stream(torch.device(place)))
    return event.query  # type: ignore[no-any-return]
