"""What a change of course costs a running video: from its stop to its beginning anew, by the workers' clocks.

Two real workers on Ray; what the video goes on with is queued while the stop is under way, as the scheduler does it.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from benchmarks.driven_workers import WORKERS, Bench
from genserve.domain.request import Media, RequestSpec, Shape, Stage
from genserve.scheduling import protocol as p

ONE, OTHER = WORKERS
COURSE = (
    ("widened", WORKERS, ""),
    ("narrowed", (ONE,), ""),
    ("stopped and gone on", (ONE,), ""),
    ("moved", (OTHER,), ONE),
)
"""What happens to a video that begins on the first worker: its next group, and whom that has to wait for."""


def measure_changes(models_dir: Path, model: str, shape: Shape, *, rounds: int) -> dict[str, list[int]]:
    """Microseconds between a stop and what goes on from it, by kind of change; the first round warms up."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Bench(models_dir, Path(folder)), model, shape, rounds))


async def _measure(bench: Bench, model: str, shape: Shape, rounds: int) -> dict[str, list[int]]:
    await bench.start()
    try:
        found: dict[str, list[int]] = {name: [] for name, _, _ in COURSE}
        for number in range(rounds + 1):
            for name, us in (await _one_video(bench, _a_video(f"v{number}", model, shape))).items():
                found[name] += [us] if number else []
        return found
    finally:
        await bench.stop()


async def _one_video(bench: Bench, spec: RequestSpec) -> dict[str, int]:
    member = p.Member(spec, 0, "ear", ONE)
    await bench.run(Stage.ENCODE, member, (ONE,))
    running = await bench.begin(Stage.DENOISE, (member,), (ONE,), (0, spec.steps))
    gaps = {}
    for name, group, after_on in COURSE:
        await bench.ear.ask("first", (p.Stepped,), running, spec.request_id)
        before = running
        steps = (None, spec.steps)
        running = await bench.begin(Stage.DENOISE, (member,), group, steps, after=before, after_on=after_on)
        await bench.pause(before, ONE)
        stopped, began = await bench.end(before, member), await bench.start_of(running, member)
        gaps[name] = began.at_us - stopped.at_us
    await bench.pause(running, OTHER)
    await bench.end(running, member)
    return gaps


def _a_video(request_id: str, model: str, shape: Shape) -> RequestSpec:
    return RequestSpec(
        request_id,
        model=model,
        media=Media.VIDEO,
        shape=shape,
        steps=40,
        arrival_us=0,
        deadline_us=0,
        prompt="a lighthouse at dusk",
        guidance_scale=5.0,
        seed=1,
    )
