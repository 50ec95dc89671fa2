"""The real runner on small checkpoints, on the host's processor and on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genserve.diffusion.catalog import Catalog
from genserve.domain.request import RequestSpec, Shape, Stage
from genserve.errors import GenServeError
from genserve.scheduling.runner import Runner
from tests.actors.cell import an_image
from tests.actors.runner_contract import RunnerContract

pytestmark = pytest.mark.models


def a_device(models_dir: Path, place: str) -> Runner:
    from genserve.scheduling.device import Device

    return Device(Catalog.load(), models_dir, device=place, threads=1)


@pytest.fixture(scope="module")
def on_host(models_dir: Path) -> Runner:
    return a_device(models_dir, "cpu")


@pytest.fixture(scope="module")
def on_gpu(models_dir: Path, gpu: str) -> Runner:
    return a_device(models_dir, gpu)


def with_nothing_held(device: Runner) -> Runner:
    for request_id in ("r1", "r2"):
        device.forget(request_id)
    return device


class TestDevice(RunnerContract):
    @pytest.fixture
    def runner(self, on_host: Runner) -> Runner:
        return with_nothing_held(on_host)

    @pytest.fixture(autouse=True)
    def in_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with latents of a real size."""
        from genserve.diffusion import parallel_buffers

        monkeypatch.setattr(parallel_buffers, "LARGE", 1 << 8)

    def spec(self, request_id: str, **changes: Any) -> RequestSpec:
        fields = {"model": "tiny-sd3", "shape": Shape(32, 32), "prompt": "a fox", "guidance_scale": 4.0}
        return an_image(request_id, **{**fields, **changes})


class TestDeviceOnGpu(TestDevice):
    @pytest.fixture
    def runner(self, on_gpu: Runner) -> Runner:
        return with_nothing_held(on_gpu)


def test_a_device_that_fails_is_lost_and_nothing_else_is(models_dir: Path, gpu: str, fake_device: Any) -> None:
    device, member = a_device(models_dir, gpu), TestDevice().member()
    batch = device.begin((member,))
    device.step(batch)
    assert not device.is_lost
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_device, "is_broken", True)
        with pytest.raises(GenServeError, match="device_lost"):
            device.step(batch)
    assert device.is_lost
    assert not a_device(models_dir, gpu).is_lost


def test_what_comes_before_the_weights_comes_to_the_gpu(models_dir: Path, gpu: str, on_gpu: Runner) -> None:
    from genserve.scheduling.device import Device

    late = Device(Catalog.load(), models_dir, device=gpu, threads=1, me="w", placement={"w": ("tiny-flux",)})
    contract = TestDevice()
    member = contract.member()
    embedded = with_nothing_held(on_gpu)
    embedded.encode((member,))
    offers = [embedded.offer("r1", 0)]
    batch = embedded.begin((member,))
    embedded.step(batch)
    embedded.end(batch)
    offers.append(embedded.offer("r1", 0))
    for offer in offers:
        late.release("tiny-sd3", Stage.DENOISE)
        late.restore(member, b"".join(offer()))
        late.hold("tiny-sd3", Stage.DENOISE)
        late.step(late.begin((member,)))
