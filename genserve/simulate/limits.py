"""What the numbers of a simulation may be; not what they mean (see workloads, truth, admission)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genserve.errors import CallerError

LIMITS: dict[str, tuple[float, float]] = {
    "rate": (1e-3, 1e9),
    "sigma": (0, 1e6),
    "cv": (1e-3, 1e3),
    "requests": (1, 1e7),
    "duration_s": (0, 1e9),
    "gpus": (1, 1e5),
    "gpus_per_node": (1, 1e5),
    "switch_price": (-1e6, 1e6),
    "bias": (-0.99, 1e3),
    "spread": (0, 0.99),
    "noise": (0, 10),
    "admission": (0, 1),
    "verdict_within": (0, 1e9),
}
CHOICES = {"sizes": ("uniform", "skewed"), "arrivals": ("poisson", "bursty", "wave", "constant")}


def check_limits(given: Mapping[str, Any]) -> None:
    """Raise CallerError ``invalid_workload`` for the first option outside its limits; others are not looked at."""
    for name, (low, high) in LIMITS.items():
        if name in given and not low <= given[name] <= high:
            raise CallerError("invalid_workload", f"{name} is from {low:g} to {high:g}, not {given[name]}")
    for name, choices in CHOICES.items():
        if name in given and given[name] not in choices:
            raise CallerError("invalid_workload", f"{name} is one of {', '.join(choices)}, not {given[name]!r}")
