"""DiffServe's published tables as values, and its cascades by number; not the allocation."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from genserve.planners.diffserve_allocation import Cascade


def paper_data(name: str) -> Any:
    """A data file of the papers, as shipped."""
    return json.loads((resources.files("genserve.simulate") / "data" / "papers" / f"{name}.json").read_text())


_NAMES = {1: ("SD-Turbo", "SDv1.5"), 2: ("SDXS", "SDv1.5"), 3: ("SDXL-Lightning", "SDXL")}


def load_cascade(number: int) -> Cascade:
    """Cascade 1, 2 or 3 of the release."""
    costs, workload = paper_data("diffserve_costs"), paper_data("diffserve_workload")
    light, heavy = _NAMES[number]
    batches = costs["batch_latency_ms"]["batch"]
    curve = costs["heavy_share_at_threshold"][light]
    return Cascade(
        light_ms=_latencies(batches, costs["batch_latency_ms"][light]),
        heavy_ms=_latencies(batches, costs["batch_latency_ms"][heavy]),
        deferral=tuple(zip(curve["t"], curve["f"], strict=True)),
        fid=tuple(zip(costs["fid_vs_light_share"]["light_share"], _fids(costs, light, heavy), strict=True)),
        slo_s=next(c["slo"] for c in workload["cascades"] if c["id"] == number),
    )


def _latencies(batches: list[int], values: list[float | None]) -> dict[int, float]:
    return {b: v for b, v in zip(batches, values, strict=True) if v is not None}


def _fids(costs: dict[str, dict[str, list[float]]], light: str, heavy: str) -> list[float]:
    return costs["fid_vs_light_share"][f"{light} + {heavy}"]
