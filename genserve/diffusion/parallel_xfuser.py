"""The place of xfuser's USP (Ulysses and ring together) behind the seam; today it only says why it is not there."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from genserve.errors import CallerError


def require_xfuser(pipeline: Any) -> None:
    """Raises CallerError ``backend_unavailable`` that says what is missing, before xfuser is imported."""
    if not torch.accelerator.is_available() or pipeline.device.type == "cpu":
        missing = "xfuser runs on accelerators only, and this process has none"
    elif importlib.util.find_spec("xfuser") is None:
        missing = "xfuser is not installed: it comes with genserve[gpu]"
    else:
        missing = "xfuser's attention is not connected to groups that change between steps yet"
    raise CallerError("backend_unavailable", f"{missing}; use the backend ulysses")
