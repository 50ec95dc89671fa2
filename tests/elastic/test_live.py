"""Real workers on Ray: a running video changes its group between steps, and not one pixel changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from benchmarks.driven_workers import WORKERS, Bench
from genserve.diffusion.catalog import Catalog
from genserve.diffusion.load import load_model
from genserve.domain.request import RequestSpec, Stage
from genserve.scheduling import protocol as p
from genserve.scheduling.device import generation_of
from tests.elastic.live import a_member, a_spec

pytestmark = [
    pytest.mark.ray,
    pytest.mark.models,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    bench = await Bench(models_dir, tmp_path_factory.mktemp("bench")).start()
    yield bench
    await bench.stop()


def undisturbed(models_dir: Path, spec: RequestSpec) -> np.ndarray:
    """The frames of a run in this process that nothing touches."""
    model = load_model(Catalog.load().get(spec.model), models_dir)
    generation = generation_of(spec)
    denoising = model.prepare([generation], model.encode([generation]))
    while not denoising.is_done:
        model.step(denoising)
    return model.decode(denoising)[0]


async def test_a_video_widened_narrowed_paused_and_moved_keeps_every_pixel(bench: Bench, models_dir: Path) -> None:
    spec = a_spec("moving")
    await bench.run(Stage.ENCODE, a_member(spec), ("worker-0",))
    await bench.run(Stage.DENOISE, a_member(spec, "worker-0"), ("worker-0",), (0, 2))
    await bench.run(Stage.DENOISE, a_member(spec, "worker-0"), WORKERS, (2, 4))
    await bench.run(Stage.DENOISE, a_member(spec, "worker-0"), ("worker-0",), (4, 5))
    running = await bench.begin(Stage.DENOISE, (a_member(spec, "worker-0"),), ("worker-1",), (5, 12))
    await bench.pause(running, "worker-1")
    paused = await bench.end(running, a_member(spec))
    assert isinstance(paused, p.Stopped)
    last = await bench.run(Stage.DENOISE, a_member(spec, "worker-1"), ("worker-1", "worker-0"), (paused.step, 12))
    assert isinstance(last, p.Ended), last
    made = await bench.run(Stage.DECODE, a_member(spec, "worker-1"), ("worker-1",))
    assert np.array_equal(made.frames, undisturbed(models_dir, spec))


async def test_a_video_goes_on_wider_narrower_and_elsewhere_from_its_own_stops(bench: Bench, models_dir: Path) -> None:
    spec = a_spec("going-on", seed=7, steps=40)
    member = a_member(spec, "worker-0")
    await bench.run(Stage.ENCODE, a_member(spec), ("worker-0",))
    segments = [await bench.begin(Stage.DENOISE, (member,), ("worker-0",), (0, 40))]
    ends: list[p.Stopped] = []
    for group, after_on in ((WORKERS, ""), (("worker-0",), ""), (("worker-1",), "worker-0")):
        await bench.ear.ask("first", (p.Stepped,), segments[-1], "going-on")
        after = segments[-1]
        segments.append(await bench.begin(Stage.DENOISE, (member,), group, (None, 40), after=after, after_on=after_on))
        await bench.pause(after, "worker-0")
        ends.append(await bench.end(after, member))
    assert 0 < ends[0].step < ends[1].step < ends[2].step < 40
    assert isinstance(await bench.end(segments[-1], member), p.Ended)
    made = await bench.run(Stage.DECODE, a_member(spec, "worker-1"), ("worker-1",))
    assert np.array_equal(made.frames, undisturbed(models_dir, spec))


async def test_a_member_without_the_weights_loads_them_before_it_takes_part(bench: Bench, models_dir: Path) -> None:
    spec = a_spec("loading", seed=6)
    await bench.ask("worker-1", "obey", (p.HoldStage(1, spec.model, Stage.DENOISE, False),))
    await bench.run(Stage.ENCODE, a_member(spec), ("worker-0",))
    last = await bench.run(Stage.DENOISE, a_member(spec, "worker-0"), WORKERS, (0, 12))
    assert isinstance(last, p.Ended), last
    made = await bench.run(Stage.DECODE, a_member(spec, "worker-0"), ("worker-0",))
    assert np.array_equal(made.frames, undisturbed(models_dir, spec))


async def test_a_group_told_to_pause_stops_at_one_boundary_and_goes_on_with_the_same_pixels(
    bench: Bench, models_dir: Path
) -> None:
    spec = a_spec("pausing", seed=2, steps=40)
    await bench.run(Stage.ENCODE, a_member(spec), ("worker-0",))
    running = await bench.begin(Stage.DENOISE, (a_member(spec, "worker-0"),), WORKERS, (0, 40))
    await bench.ear.ask("first", (p.Stepped,), running, "pausing")
    await bench.pause(running, "worker-0")
    paused = await bench.end(running, a_member(spec))
    assert isinstance(paused, p.Stopped)
    assert 0 < paused.step < 40
    await bench.run(Stage.DENOISE, a_member(spec, "worker-0"), WORKERS, (paused.step, 40))
    made = await bench.run(Stage.DECODE, a_member(spec, "worker-0"), ("worker-0",))
    assert np.array_equal(made.frames, undisturbed(models_dir, spec))


async def test_a_member_of_a_batch_is_cancelled_in_a_group_without_disturbing_the_other(
    bench: Bench, models_dir: Path
) -> None:
    stays, goes = a_spec("stays", seed=3, steps=30), a_spec("goes", seed=4, steps=30)
    members = [a_member(stays, "worker-0"), a_member(goes, "worker-0")]
    running = await bench.begin(Stage.ENCODE, members, ("worker-0",))
    await bench.end(running, members[0])
    running = await bench.begin(Stage.DENOISE, members, WORKERS, (0, 30))
    await bench.ear.ask("first", (p.Stepped,), running, "goes")
    await bench.ask("worker-0", "obey", (p.Revise(1, running, drop=("goes",)),))
    assert isinstance(await bench.end(running, members[1]), p.Dropped)
    assert isinstance(await bench.end(running, members[0]), p.Ended)
    made = await bench.run(Stage.DECODE, members[0], ("worker-0",))
    difference = made.frames.astype(int) - undisturbed(models_dir, stays).astype(int)
    assert abs(difference).max() <= 1, "a batch rounds differently in float32, by less than a shade"


async def test_a_worker_that_dies_while_it_gives_holds_up_nobody(bench: Bench, models_dir: Path) -> None:
    """Whether the video arrived or not, the other worker goes on with others, and nothing wrong comes of it."""
    spec, other = a_spec("given", seed=8, steps=40), a_spec("other", seed=9, steps=3)
    member = a_member(spec, "worker-0")
    await bench.run(Stage.ENCODE, a_member(spec), ("worker-0",))
    running = await bench.begin(Stage.DENOISE, (member,), ("worker-0",), (0, 40))
    await bench.ear.ask("first", (p.Stepped,), running, "given")
    moving = await bench.begin(Stage.DENOISE, (member,), ("worker-1",), (None, 40), after=running, after_on="worker-0")
    await bench.pause(running, "worker-0")
    with pytest.raises(Exception, match="worker-0"):
        await bench.ask("worker-0", "die")
    await bench.run(Stage.ENCODE, a_member(other), ("worker-1",))
    assert isinstance(await bench.run(Stage.DENOISE, a_member(other, "worker-1"), ("worker-1",), (0, 3)), p.Ended)
    if await bench.ear.ask("steps", moving):
        assert isinstance(await bench.end(moving, member), p.Ended)
        made = await bench.run(Stage.DECODE, a_member(spec, "worker-1"), ("worker-1",))
        assert np.array_equal(made.frames, undisturbed(models_dir, spec))
    await bench.greet("worker-0")
    bench.worlds.grow(bench.nodes)


async def test_a_worker_that_dies_mid_step_frees_the_other_and_comes_back_in_a_new_generation(
    bench: Bench, models_dir: Path
) -> None:
    spec = a_spec("orphan", seed=5, steps=60)
    await bench.run(Stage.ENCODE, a_member(spec), ("worker-0",))
    running = await bench.begin(Stage.DENOISE, (a_member(spec, "worker-0"),), WORKERS, (0, 60))
    await bench.ear.ask("first", (p.Stepped,), running, "orphan")
    with pytest.raises(Exception, match="worker-1"):
        await bench.ask("worker-1", "die")
    failed = await asyncio.wait_for(bench.end(running, a_member(spec)), 10)
    assert (failed.code, failed.retryable) == ("group_lost", True)
    alone = await bench.run(Stage.DENOISE, a_member(spec), ("worker-0",), (0, 3))
    assert isinstance(alone, p.Ended)
    busy = await bench.begin(Stage.DENOISE, (a_member(spec, "worker-0"),), ("worker-0",), (3, 50))
    await bench.greet("worker-1")
    bench.worlds.grow(bench.nodes)
    assert isinstance(await bench.end(busy, a_member(spec)), p.Ended)
    again = await bench.run(Stage.DENOISE, a_member(spec, "worker-0"), WORKERS, (50, 60))
    assert isinstance(again, p.Ended), again
    made = await bench.run(Stage.DECODE, a_member(spec, "worker-0"), ("worker-0",))
    assert np.array_equal(made.frames, undisturbed(models_dir, spec))
