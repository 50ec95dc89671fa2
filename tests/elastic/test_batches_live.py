"""A whole cell on Ray whose planner makes batches: several images share steps, and each is as if made alone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from genserve.audit.replay import replay
from genserve.config import Settings
from genserve.diffusion.catalog import Catalog
from genserve.diffusion.load import load_model
from genserve.domain import events as e
from genserve.domain.costs import CostData, StageCost
from genserve.domain.request import RequestSpec, Shape, Stage
from genserve.scheduling.device import generation_of
from tests.actors.ray_cell import PATIENCE_S, RayCell, settings_of
from tests.actors.real_models import a_tiny_image

pytestmark = [pytest.mark.ray, pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(240)]

ONE_SHADE = 1
"""Matrix products round differently by batch, below half a shade; noise, text, guidance and decode are per request."""


def some_costs() -> CostData:
    """Steps of 20, 24 and 34 ms for one, two and four: both batches pay."""
    shape = Shape(64, 64)
    steps = {1: 20_000, 2: 24_000, 4: 34_000}
    rows = [StageCost("tiny-sd3", Stage.DENOISE, shape, us, 1, batch) for batch, us in steps.items()]
    rows += [StageCost("tiny-sd3", stage, shape, 10_000) for stage in (Stage.ENCODE, Stage.DECODE)]
    return CostData("batches that pay", tuple(rows))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    folder = tmp_path_factory.mktemp("cell")
    (folder / "costs.json").write_bytes(msgspec.json.encode(some_costs()))
    return settings_of(folder, models_dir, progress_every_ms=20, planner="save", costs=folder / "costs.json")


def pictures(name: str, count: int, *, steps: int) -> list[RequestSpec]:
    """Images of one shape and of prompts, seeds and guidance scales of their own."""
    now_us = time.time_ns() // 1000
    plain = [a_tiny_image(f"{name}-{n}", now_us, steps=steps) for n in range(count)]
    return [replace(s, prompt=f"fox number {n}", seed=n, guidance_scale=3.0 + n) for n, s in enumerate(plain)]


def denoised(cell: RayCell, request_id: str) -> list[e.StageStarted]:
    started = [event for event in cell.events(request_id) if isinstance(event, e.StageStarted)]
    return [s for s in started if s.stage is Stage.DENOISE]


def sizes_of_steps(cell: RayCell, request_id: str) -> list[int]:
    """How many shared each step, in order."""
    facts = [event for event in cell.events(request_id) if isinstance(event, e.StepsFinished)]
    return [f.batch for f in facts for _ in range(f.to_step - f.from_step)]


def stored(cell: RayCell, request_id: str) -> np.ndarray[Any, Any]:
    (artifact,) = [x.artifact for x in cell.events(request_id) if isinstance(x, e.ArtifactStored)]
    path = Path(artifact.uri.removeprefix("file://"))
    return np.asarray(Image.open(path).convert("RGB"))


def largest_difference(cell: RayCell, models_dir: Path, spec: RequestSpec) -> int:
    """Of any channel of any pixel, from a run in this process that nothing touches."""
    model = load_model(Catalog.load().get(spec.model), models_dir)
    generation = generation_of(spec)
    denoising = model.prepare([generation], model.encode([generation]))
    while not denoising.is_done:
        model.step(denoising)
    alone = model.decode(denoising)[0][0]
    assert np.ptp(alone) > 10
    return int(abs(stored(cell, spec.request_id).astype(int) - alone.astype(int)).max())


async def test_images_submitted_at_once_share_their_steps_and_keep_their_pixels(
    cell: RayCell, models_dir: Path
) -> None:
    specs = pictures("burst", 8, steps=12)
    ids = [s.request_id for s in specs]
    await cell.submit(*specs)
    await cell.finish(*ids)
    for spec in specs:
        assert isinstance(cell.events(spec.request_id)[-1], e.RequestCompleted), cell.events(spec.request_id)
        assert [s.batch for s in denoised(cell, spec.request_id)] == [4]
        assert sizes_of_steps(cell, spec.request_id) == [4] * 12
        assert largest_difference(cell, models_dir, spec) <= ONE_SHADE
    assert len({denoised(cell, r)[0].segment_id for r in ids}) == 2
    report = replay(cell.log())
    assert report.is_clean, f"{report.first} {report.violations}"


async def test_a_member_cancelled_between_steps_leaves_the_others_undisturbed(cell: RayCell, models_dir: Path) -> None:
    specs = pictures("four", 8, steps=60)
    ids = [s.request_id for s in specs]
    await cell.submit(*specs)
    async with asyncio.timeout(PATIENCE_S):
        async for recorded in cell.gateway.follow(ids[0], after=0):
            if isinstance(recorded.event, e.StepsFinished):
                break
    mates = {
        r for r in ids if denoised(cell, r) and denoised(cell, r)[0].segment_id == denoised(cell, ids[0])[0].segment_id
    }
    await cell.gateway.cancel(ids[0], "changed my mind")
    await cell.finish(*ids)
    assert isinstance(cell.events(ids[0])[-1], e.RequestCancelled)
    assert len(mates) == 4
    for spec in specs[1:]:
        assert len(denoised(cell, spec.request_id)) == 1
        assert largest_difference(cell, models_dir, spec) <= ONE_SHADE
    for request_id in mates - {ids[0]}:
        sizes = sizes_of_steps(cell, request_id)
        assert len(sizes) == 60
        assert (sizes[0], sizes[-1]) == (4, 3)
    report = replay(cell.log())
    assert report.is_clean, f"{report.first} {report.violations}"
