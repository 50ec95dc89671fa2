"""Where sharing steps stops paying, and what joining a running batch would cost: ratios of one run.

    python -m benchmarks.bench_batches [--models DIR] [--rounds 5] [--side 64 --side 128]

First the time of a step for each request of a batch of 1, 2, 4 and 8, as a share of a step alone; "pays" is the largest
size that planners would use by these numbers. Then two requests at different steps in one batch, each row with a
timestep of its own, which the product does not do: how exact that is against runs alone and against a batch of two
that began together, and how fast.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from genserve.diffusion.build import build_models
from genserve.diffusion.catalog import Catalog
from genserve.diffusion.denoising import Denoising, join, split
from genserve.diffusion.generation import Generation
from genserve.diffusion.load import load_model
from genserve.diffusion.members import SamplerRows
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.stages import OwnComponents
from genserve.domain.costs import CostData, CostTable, StageCost
from genserve.domain.request import Shape, Stage
from genserve.planners.batching import paying_sizes

SIZES = (1, 2, 4, 8)
STEPS = 8
JOIN_AT = 3
FRAMES = 5
SIDES = (64, 128, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("var/models"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    catalog = Catalog.load()
    build_models(options.models, catalog)
    print(f"{'':<24}{'alone':>10}" + "".join(f"{f'x {size}':>8}" for size in SIZES[1:]) + f"{'pays':>8}")
    models = [load_model(entry, options.models) for entry in catalog.models]
    shapes = [
        (m, Shape(s, s, FRAMES if m.entry.media == "video" else 1)) for m in models for s in options.side or SIDES
    ]
    for model, shape in shapes:
        report_sizes(model, shape, options.rounds)
    print(f"\n{'joined at step ' + str(JOIN_AT):<24}{'against alone':>16}{'began together':>16}{'step':>8}")
    for model, shape in shapes:
        if shape.frames == 1:
            report_joining(model, shape, options.rounds)


def report_sizes(model: DiffusionModel, shape: Shape, rounds: int) -> None:
    batches = {size: begun(model, shape, range(size), steps=rounds + 1) for size in SIZES}
    times = in_turns([lambda b=b: model.step(b) for b in batches.values()], rounds)
    us = dict(zip(SIZES, times, strict=True))
    rows = tuple(StageCost(model.entry.name, Stage.DENOISE, shape, t, 1, size) for size, t in us.items())
    pays = paying_sizes(CostTable(CostData("measured", rows))).get((model.entry.name, shape), (1,))[-1]
    shares = "".join(f"{us[size] / size / us[1]:>8.2f}" for size in SIZES[1:])
    print(f"{model.entry.name + ' ' + str(shape):<24}{us[1] / 1e3:>7.1f} ms{shares}{pays:>8}")


def report_joining(model: DiffusionModel, shape: Shape, rounds: int) -> None:
    alone = [run(model, begun(model, shape, [seed])) for seed in (0, 1)]
    together = run(model, begun(model, shape, [0, 1]))
    mixed = joined_late(model, shape)
    late = max(largest(a, b) for a, b in zip(alone, mixed, strict=True))
    early = max(largest(a, together[row : row + 1]) for row, a in enumerate(alone))
    aligned = begun(model, shape, [0, 1], steps=rounds + 1)
    staggered = unaligned(model, shape, steps=rounds + 1 + JOIN_AT)
    times = in_turns([lambda: model.step(aligned), lambda: staggered.step(model)], rounds)
    name = f"{model.entry.name} {shape}"
    print(f"{name:<24}{late:>16.1e}{early:>16.1e}{times[1] / times[0]:>8.2f}")


def begun(model: DiffusionModel, shape: Shape, seeds: Sequence[int], *, steps: int = STEPS) -> Denoising:
    """A batch of one prompt and several seeds before its first step."""
    wanted = [
        Generation(
            prompt="a lighthouse at dusk",
            width=shape.width,
            height=shape.height,
            frames=shape.frames,
            steps=steps,
            seed=seed,
            guidance_scale=model.entry.default_guidance_scale,
        )
        for seed in seeds
    ]
    return model.prepare(wanted, model.encode(wanted))


def run(model: DiffusionModel, batch: Denoising) -> torch.Tensor:
    while not batch.is_done:
        model.step(batch)
    return batch.latents


class Staggered:
    """Two requests in one batch, the first JOIN_AT steps ahead; ``at`` is the step that each takes next."""

    def __init__(self, ahead: Denoising, behind: Denoising) -> None:
        self.at = [ahead.step_index, behind.step_index]
        behind.step_index = ahead.step_index
        for name in set(vars(ahead.state)) - set(vars(behind.state)):
            delattr(ahead.state, name)
        self.batch = join([ahead, behind])

    @torch.no_grad()
    def step(self, model: DiffusionModel) -> None:
        state = self.batch.state
        samplers = {
            name: _OwnTimes(own._samplers) if hasattr(own, "_samplers") else own
            for name, own in self.batch.components.items()
        }
        times = torch.stack([state.timesteps[index] for index in self.at])
        model._stages.loop.loop_step(OwnComponents(model.pipeline, samplers), state, i=self.at[0], t=times)
        self.at = [index + 1 for index in self.at]


class _OwnTimes(SamplerRows):
    """One sampler per row, each with its own timestep."""

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> tuple[Any]:
        options["return_dict"] = False
        rows = [
            sampler.step(model_output[row : row + 1], timestep[row], sample[row : row + 1], **options)[0]
            for row, sampler in enumerate(self._samplers)
        ]
        return (torch.cat(rows),)


def unaligned(model: DiffusionModel, shape: Shape, *, steps: int = STEPS) -> Staggered:
    ahead, behind = begun(model, shape, [0], steps=steps), begun(model, shape, [1], steps=steps)
    for _ in range(JOIN_AT):
        model.step(ahead)
    return Staggered(ahead, behind)


def joined_late(model: DiffusionModel, shape: Shape) -> list[torch.Tensor]:
    """Latents of both: together until the first is done, then the second alone."""
    both = unaligned(model, shape)
    while both.at[0] < STEPS:
        both.step(model)
    first, second = split(both.batch, [0]), split(both.batch, [1])
    second.step_index = both.at[1]
    return [first.latents, run(model, second)]


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def in_turns(works: Sequence[Callable[[], object]], rounds: int) -> list[int]:
    """Lower quartile of each work's microseconds; all take turns, and the first round is not counted."""
    times: list[list[int]] = [[] for _ in works]
    for _ in range(rounds + 1):
        for work, mine in zip(works, times, strict=True):
            began_ns = time.perf_counter_ns()
            work()
            mine.append((time.perf_counter_ns() - began_ns) // 1000)
    return [max(1, sorted(mine[1:])[rounds // 4]) for mine in times]


if __name__ == "__main__":
    main()
