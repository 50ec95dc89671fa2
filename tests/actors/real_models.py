"""Small real requests, and their pixels as the models alone make them, in this process and without interruption."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from genserve.diffusion.catalog import Catalog
from genserve.domain.request import Media, RequestSpec, Shape
from genserve.scheduling import protocol as p
from genserve.scheduling.results import encode_results

HOUR_US = 3_600_000_000


def a_tiny_image(request_id: str, now_us: int, *, steps: int = 40) -> RequestSpec:
    return RequestSpec(
        request_id=request_id,
        model="tiny-sd3",
        media=Media.IMAGE,
        shape=Shape(64, 64),
        steps=steps,
        arrival_us=now_us,
        deadline_us=now_us + HOUR_US,
        prompt="a fox in the snow",
        guidance_scale=4.0,
        seed=11,
    )


def a_tiny_video(request_id: str, now_us: int, *, steps: int = 60) -> RequestSpec:
    return RequestSpec(
        request_id=request_id,
        model="tiny-wan",
        media=Media.VIDEO,
        shape=Shape(64, 64, 9),
        steps=steps,
        arrival_us=now_us,
        deadline_us=now_us + HOUR_US,
        prompt="a fox runs",
        guidance_scale=4.0,
        seed=12,
        fps=8,
    )


def expected_pixels(models_dir: Path, spec: RequestSpec) -> tuple[str, ...]:
    """Hashes of the files that an uninterrupted run stores."""
    return _made(models_dir, spec.model, spec.steps)


@cache
def _made(models_dir: Path, model: str, steps: int) -> tuple[str, ...]:
    from genserve.scheduling.device import Device

    spec = a_tiny_image("x", 0, steps=steps) if model == "tiny-sd3" else a_tiny_video("x", 0, steps=steps)
    device = Device(Catalog.load(), models_dir, device="cpu", threads=1)
    member = p.Member(spec, 0, "")
    device.encode((member,))
    batch = device.begin((member,))
    for _ in range(spec.steps):
        device.step(batch)
    device.end(batch)
    frames = device.decode((member,))["x"]
    return tuple(hashlib.sha256(result.content).hexdigest() for result in encode_results(spec, frames))
