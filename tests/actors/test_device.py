"""The real runner on small checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genserve.diffusion.catalog import Catalog
from genserve.domain.request import RequestSpec, Shape
from genserve.scheduling.runner import Runner
from tests.actors.cell import an_image
from tests.actors.runner_contract import RunnerContract

pytestmark = pytest.mark.models


@pytest.fixture(scope="session")
def device(models_dir: Path) -> Runner:
    from genserve.scheduling.device import Device

    return Device(Catalog.load(), models_dir, device="cpu", threads=1)


class TestDevice(RunnerContract):
    @pytest.fixture
    def runner(self, device: Runner) -> Runner:
        for request_id in ("r1", "r2"):
            device.forget(request_id)
        return device

    @pytest.fixture(autouse=True)
    def in_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with latents of a real size."""
        from genserve.diffusion import parallel_buffers

        monkeypatch.setattr(parallel_buffers, "LARGE", 1 << 8)

    def spec(self, request_id: str, **changes: Any) -> RequestSpec:
        fields = {"model": "tiny-sd3", "shape": Shape(32, 32), "prompt": "a fox", "guidance_scale": 4.0}
        return an_image(request_id, **{**fields, **changes})
