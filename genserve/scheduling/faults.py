"""What a device raises, as errors of ours with a code; not what becomes of them (see fitting and the worker)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from genserve.errors import GenServeError
from genserve.scheduling.runner import DEVICE_LOST, OUT_OF_MEMORY

NO_MEMORY = ("out of memory", "ALLOC_FAILED")

P = ParamSpec("P")
T = TypeVar("T")


class Faults:
    """``is_lost`` once the device itself has failed: whatever is asked of it in this process then fails too."""

    def __init__(self) -> None:
        self.is_lost = False

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work; raises GenServeError ``out_of_memory`` or ``device_lost``, and whatever else it raises.

        What a failed attempt had allocated is let go at once: whoever hears of it tries again with less, in that very
        memory, while the error, and with it every frame of the attempt, is still being handled.
        """
        try:
            return work(*args, **kwargs)
        except RuntimeError as error:
            if _is_about_memory(error):
                traceback.clear_frames(error.__traceback__)
                raise GenServeError(OUT_OF_MEMORY, str(error)) from error
            if isinstance(error, torch.AcceleratorError):
                self.is_lost = True
                raise GenServeError(DEVICE_LOST, str(error)) from error
            raise


def _is_about_memory(error: RuntimeError) -> bool:
    """Torch's own allocator has an error of its own; the driver's and the libraries' only say it."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in NO_MEMORY)
