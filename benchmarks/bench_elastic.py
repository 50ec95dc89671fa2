"""Groups against plain diffusers at the same degree, and what changing course costs: ratios of one run.

    python -m benchmarks.bench_elastic [--models DIR] [--size 256] [--frames 17] [--steps 6]

The plain side is what a user would write: two processes, the global process group, diffusers' own configuration on a
device mesh, one Wan pipeline, steps timed by its callback. Ours are the measuring processes of ``genserve profile``,
whose steps are those of a worker, plus the leader's word, timed apart. The two sides take turns. Bubbles, the time that
passes on a worker's step thread between two queued segments, are taken from a worker of its own, and what a change of
course costs a running video from two workers on Ray, by their clocks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.bubbles import measure_bubbles
from benchmarks.changes import measure_changes
from genserve.diffusion.build import build_models
from genserve.diffusion.catalog import Catalog
from genserve.domain.request import Shape, Stage
from genserve.profile.run import Meters
from genserve.profile.table import Task

MODEL = "tiny-wan"
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("var/models"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    catalog = Catalog.load()
    build_models(options.models, catalog)
    shape = Shape(options.size, options.size, options.frames)
    ours, plain = {1: [], 2: []}, {1: [], 2: []}
    alone = Task(MODEL, Stage.DENOISE, shape)
    with Meters(2, catalog, options.models, device="cpu", threads=1) as meters:
        for _ in range(ROUNDS):
            for degree in (1, 2):
                task, members = Task(MODEL, Stage.DENOISE, shape, degree), meters.names[:degree]
                ours[degree] += meters.ask(members, "time", task, members, options.steps)[0]
                plain[degree] += run_plain(options.models / MODEL, shape, degree, options.steps)
        words = meters.ask(meters.names, "time_words", meters.names, 200)[0]
        prices = meters.ask(meters.names[:1], "time_prices", alone, meters.names[:1], 15)[0]
        widen, narrow = zip(*meters.ask(meters.names, "time_changes", alone, meters.names, 31)[0], strict=True)
    prices |= {"widen": round(statistics.median(widen)), "narrow": round(statistics.median(narrow))}
    report(ours, plain, statistics.median(words), prices)
    report_bubbles(measure_bubbles(options.models, MODEL, shape, steps=options.steps, rounds=ROUNDS * 2))
    for name, gaps in measure_changes(options.models, MODEL, shape, rounds=ROUNDS * 3).items():
        middle, worst = statistics.median(gaps) / 1e3, max(gaps) / 1e3
        print(f"a running video {name}: {middle:.2f} ms; worst of {len(gaps)} {worst:.2f}")


def report(ours: dict[int, list[int]], plain: dict[int, list[int]], word_us: float, prices: dict[str, int]) -> None:
    """Ratios of lower quartiles: the machine's other work only adds."""
    step = {degree: low(times) for degree, times in ours.items()}
    raw = {degree: low(times) for degree, times in plain.items()}
    print(f"step, degree 1 {step[1] / 1e3:8.1f} ms   plain {raw[1] / 1e3:8.1f} ms   ratio {step[1] / raw[1]:.3f}")
    both = step[2] + word_us
    print(f"step, degree 2 {both / 1e3:8.1f} ms   plain {raw[2] / 1e3:8.1f} ms   ratio {both / raw[2]:.3f}")
    print(f"degree 2 over degree 1: {step[1] / both:.2f}x, plain {raw[1] / raw[2]:.2f}x")
    print(f"the leader's word {word_us / 1e3:.2f} ms, {word_us / step[1]:.2%} of a step")
    for name, us in sorted(prices.items()):
        print(f"{name.removesuffix('_us'):<8} {us / 1e3:8.2f} ms, {us / step[1]:7.2%} of a step")


def report_bubbles(gaps: dict[str, list[int]]) -> None:
    """Medians and the worst, as shares of the median step."""
    step = statistics.median(gaps.pop("step"))
    for name, us in gaps.items():
        middle, worst = statistics.median(us), max(us) / step
        print(f"bubble, {name}: {middle / 1e3:.2f} ms, {middle / step:.2%} of a step; worst of {len(us)} {worst:.2%}")


def low(times: list[int]) -> int:
    return sorted(times)[len(times) // 4]


def run_plain(folder: Path, shape: Shape, degree: int, steps: int) -> list[int]:
    """Microseconds per step of an ordinary pipeline on so many processes; the first step is left out."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers = context.Queue()
    processes = [
        context.Process(target=_plain_rank, args=(rank, (degree, port), (str(folder), shape, steps), answers))
        for rank in range(degree)
    ]
    for process in processes:
        process.start()
    times: list[int] = answers.get(timeout=300)
    for process in processes:
        process.join()
    return times


def _plain_rank(rank: int, world: tuple[int, int], job: tuple[str, Shape, int], answers: Any) -> None:
    import diffusers
    import torch
    from diffusers import WanPipeline

    (degree, port), (folder, shape, steps) = world, job
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pipeline: Any = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if degree > 1:
        _enable(pipeline.transformer, rank, degree, port)
    marks: list[int] = []

    def note(_pipeline: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        marks.append(time.perf_counter_ns())
        return values

    pipeline(
        prompt="a lighthouse at dusk",
        width=shape.width,
        height=shape.height,
        num_frames=shape.frames,
        num_inference_steps=steps + 1,
        max_sequence_length=64,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=note,
    )
    if rank == 0:
        answers.put([(after - before) // 1000 for before, after in pairwise(marks)])


def _enable(transformer: Any, rank: int, degree: int, port: int) -> None:
    """What ``enable_parallelism`` does, which insists on an accelerator."""
    import torch
    import torch.distributed as dist
    from diffusers.hooks.context_parallel import apply_context_parallel
    from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
    from diffusers.models.attention import AttentionModuleMixin

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=degree)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1, degree), mesh_dim_names=("ring", "ulysses"))
    inner = ContextParallelConfig(ulysses_degree=degree)
    inner.setup(rank, degree, torch.device("cpu"), mesh)
    config = ParallelConfig(context_parallel_config=inner)
    for module in transformer.modules():
        if isinstance(module, AttentionModuleMixin):
            module.processor._parallel_config = config
    apply_context_parallel(transformer, inner, transformer._cp_plan)


if __name__ == "__main__":
    main()
