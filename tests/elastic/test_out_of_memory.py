"""A batch that does not fit is halved until it does, and what does not fit alone fails alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genserve.diffusion.catalog import Catalog
from genserve.domain.request import Media, Shape, Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.device import Device
from genserve.scheduling.faults import Faults
from genserve.scheduling.segments import Assignment, Revision, run_segment
from tests import fake_gpu
from tests.actors.cell import an_image
from tests.actors.fake_runner import FakeRunner
from tests.actors.test_segments import Inline
from tests.elastic.live import a_member, a_spec

ROOM = 2
IMAGE = {"model": "tiny-sd3", "media": Media.IMAGE, "shape": Shape(64, 64)}


def members(count: int, **changes: Any) -> tuple[p.Member, ...]:
    return tuple(p.Member(an_image(f"r{i}", **changes), 0, "actor") for i in range(1, count + 1))


def run(runner: Any, stage: Stage, batch: tuple[p.Member, ...], revision: Revision | None = None) -> list[p.AnyReport]:
    reports: list[p.AnyReport] = []
    spec = batch[0].spec
    steps = spec.steps if stage is Stage.DENOISE else 0
    command = p.RunSegment(1, "s1", stage, spec.model, batch, ("worker-0",), 0, steps)
    run_segment(runner, Assignment(command, revision or Revision(), {}), reports.append, Inline())
    return reports


def decoded(device: Device, members: tuple[p.Member, ...]) -> dict[str, Any]:
    """As a segment would: the stage is there before it is used."""
    device.hold(members[0].spec.model, Stage.DECODE)
    return device.decode(members)


def room_for(count: int, seen: list[int], *, at: int = 0) -> Callable[[str, tuple[p.Member, ...], int], None]:
    """A device on which no more than so many requests fit into a step, from step ``at`` on."""

    def hook(verb: str, batch: tuple[p.Member, ...], step: int) -> None:
        if verb == "step" and step >= at:
            if len(batch) > count:
                raise GenServeError("out_of_memory", f"{len(batch)} do not fit")
            seen.append(len(batch))

    return hook


@pytest.mark.parametrize("at", [0, 1])
def test_a_batch_that_does_not_fit_is_halved_and_every_member_ends(at: int) -> None:
    seen: list[int] = []
    reports = run(FakeRunner(room_for(ROOM, seen, at=at)), Stage.DENOISE, members(5))
    assert sorted(r.request_id for r in reports if isinstance(r, p.Ended)) == ["r1", "r2", "r3", "r4", "r5"]
    assert not [r for r in reports if isinstance(r, p.Failed)]
    assert seen[:3] == [2, 1, 2]


def test_every_member_of_a_halved_batch_has_taken_each_step_once() -> None:
    whole, halved = FakeRunner(), FakeRunner(room_for(ROOM, [], at=1))
    for runner in (whole, halved):
        run(runner, Stage.DENOISE, members(3))
    assert halved.decode(members(3)).keys() == whole.decode(members(3)).keys()


def test_a_request_that_does_not_fit_alone_fails_alone_with_the_devices_words() -> None:
    def hook(verb: str, batch: tuple[p.Member, ...], step: int) -> None:
        if verb == "step" and any(m.request_id == "r2" for m in batch):
            raise GenServeError("out_of_memory", "r2 wants too much")

    reports = run(FakeRunner(hook), Stage.DENOISE, members(3))
    failed = [r for r in reports if isinstance(r, p.Failed)]
    assert [(r.request_id, r.code, r.message) for r in failed] == [("r2", "out_of_memory", "r2 wants too much")]
    assert sorted(r.request_id for r in reports if isinstance(r, p.Ended)) == ["r1", "r3"]


def test_a_member_of_a_halved_batch_can_still_be_cancelled() -> None:
    revision = Revision()

    def hook(verb: str, batch: tuple[p.Member, ...], step: int) -> None:
        if verb == "step" and len(batch) > 1:
            raise GenServeError("out_of_memory", "one at a time")
        if verb == "step" and step == 1:
            revision.change(stop=False, drop=("r2",))

    reports = run(FakeRunner(hook), Stage.DENOISE, members(2), revision)
    assert [r.request_id for r in reports if isinstance(r, p.Dropped)] == ["r2"]
    assert [r.request_id for r in reports if isinstance(r, p.Ended)] == ["r1"]


@pytest.mark.models
def test_real_latents_survive_a_split_with_the_pixels_of_a_run_alone(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(Catalog.load(), models_dir, device="cpu", threads=1)
    model = device._models["tiny-wan"]
    batch = tuple(a_member(a_spec(f"r{i}", steps=4, seed=i)) for i in (1, 2))
    step, is_full = model.step, iter([False, True, True])

    def crowded(denoising: Any) -> None:
        if len(denoising.members) > 1 and next(is_full):
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(denoising)

    monkeypatch.setattr(model, "step", crowded)
    reports = run(device, Stage.DENOISE, batch)
    assert len([r for r in reports if isinstance(r, p.Ended)]) == 2
    made = decoded(device, batch)
    for member in batch:
        run(device, Stage.DENOISE, (member,))
        alone = decoded(device, (member,))[member.request_id].astype(int)
        assert abs(made[member.request_id].astype(int) - alone).max() <= 1
        assert np.ptp(alone) > 10


@pytest.fixture
def memory(fake_device: fake_gpu.GpuModule) -> fake_gpu.Memory:
    """Of the GPU that is not there, whose end can be set."""
    return fake_device.memory


@pytest.fixture(scope="module")
def on_gpu(models_dir: Path, gpu: str) -> Device:
    return Device(Catalog.load(), models_dir, device=gpu, threads=1)


def peak_of_a_step(device: Device, memory: fake_gpu.Memory, batch: tuple[p.Member, ...]) -> int:
    """Bytes that a step takes beside what was there before it."""
    begun = device.begin(batch)
    gc.collect()
    before = memory.peak = memory.used
    device.step(begun)
    for member in batch:
        device.forget(member.request_id)
    return memory.peak - before


@pytest.mark.models
def test_a_batch_too_large_for_a_gpu_takes_its_steps_in_halves(on_gpu: Device, memory: fake_gpu.Memory) -> None:
    batch = tuple(a_member(a_spec(f"r{i}", **IMAGE, steps=2, seed=i)) for i in range(4))
    four, two = (peak_of_a_step(on_gpu, memory, some) for some in (batch, batch[:2]))
    on_gpu.begin(batch)
    gc.collect()
    memory.total = memory.used + (four + two) // 2
    reports = run(on_gpu, Stage.DENOISE, batch)
    assert [type(r).__name__ for r in reports if isinstance(r, p.Ended | p.Failed)] == ["Ended"] * 4
    memory.total = fake_gpu.MEMORY_BYTES
    made = decoded(on_gpu, batch)
    run(on_gpu, Stage.DENOISE, batch)
    for request_id, frames in decoded(on_gpu, batch).items():
        assert abs(made[request_id].astype(int) - frames.astype(int)).max() <= 1


@pytest.mark.models
def test_nothing_of_a_failed_attempt_is_in_the_way_of_the_next_one(
    on_gpu: Device, memory: fake_gpu.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = on_gpu._models["tiny-wan"]
    member = a_member(a_spec("r1", steps=1))
    run(on_gpu, Stage.DENOISE, (member,))
    decode, used = model.decode, []

    def crowded(denoising: Any) -> Any:
        used.append(memory.used)
        if not model.pipeline.vae.use_tiling:
            activations = torch.empty(1 << 20, device=model.device)
            torch.empty(memory.total, device=activations.device)
        return decode(denoising)

    monkeypatch.setattr(model, "decode", crowded)
    on_gpu.release("tiny-wan", Stage.ENCODE)
    assert decoded(on_gpu, (member,))["r1"].shape == (5, 64, 64, 3)
    assert used[-1] <= used[0]


@pytest.mark.models
def test_a_decode_that_does_not_fit_in_one_piece_is_tiled(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(Catalog.load(), models_dir, device="cpu", threads=1)
    model = device._models["tiny-wan"]
    member = a_member(a_spec("r1", steps=1))
    run(device, Stage.DENOISE, (member,))
    decode = model.decode

    def crowded(denoising: Any) -> Any:
        if not model.pipeline.vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(denoising)

    monkeypatch.setattr(model, "decode", crowded)
    assert decoded(device, (member,))["r1"].shape == (5, 64, 64, 3)
    assert not model.pipeline.vae.use_tiling


@pytest.mark.models
def test_where_memory_ends_idle_weights_make_way(on_gpu: Device, memory: fake_gpu.Memory) -> None:
    """A decode, with no more room than the weights of the other stages take."""
    member = a_member(a_spec("r1", **IMAGE, steps=1))
    run(on_gpu, Stage.DENOISE, (member,))
    on_gpu.hold("tiny-sd3", Stage.DECODE)
    gc.collect()
    memory.total = memory.used + 1000
    assert decoded(on_gpu, (member,))["r1"].shape == (1, 64, 64, 3)
    assert on_gpu.resident == (("tiny-sd3", Stage.DECODE),)


@pytest.mark.models
def test_weights_that_were_on_a_group_leave_the_device(models_dir: Path) -> None:
    device = Device(Catalog.load(), models_dir, device="cpu", threads=1)
    batch = device.begin((a_member(a_spec("r1", **IMAGE)),))
    model = device._models["tiny-sd3"]
    device._peers.check(model, batch.denoising, 2)
    denoiser = weakref.ref(model.pipeline.transformer)
    device.release("tiny-sd3", Stage.DENOISE)
    assert denoiser() is None


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"])
def test_memory_that_ends_outside_of_torchs_own_is_memory_too(words: str) -> None:
    faults = Faults()

    def full() -> None:
        raise (torch.AcceleratorError if words.startswith("CUDA") else RuntimeError)(words)

    with pytest.raises(GenServeError, match="out_of_memory"):
        faults.run(full)
    assert not faults.is_lost


def test_other_errors_are_left_as_they_are() -> None:
    def wrong() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Faults().run(wrong)
