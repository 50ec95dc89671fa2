"""What passes on a worker's step thread between the last step of a segment and the first of the next queued one.

A real worker with a real device runs in this process; only the clock is put around the device's steps. Encode and
decode are left out: both segments denoise, of one request or of two. A pause of measuring is not in it: the second
segment is in the queue before the first one ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.framework.local_runtime import LocalRuntime
from actors.outbox import CLOSING
from actors.worker import Worker
from genserve.diffusion.catalog import Catalog
from genserve.domain.request import Media, RequestSpec, Shape, Stage
from genserve.scheduling import protocol as p
from genserve.scheduling.device import Device

WORKER, EAR = "worker-0", "ear"


class ClockedDevice(Device):
    """A device that writes down when its steps begin and end."""

    steps_ns: list[tuple[int, int]]

    def step(self, batch: Any) -> None:
        began_ns = time.perf_counter_ns()
        super().step(batch)
        self.steps_ns.append((began_ns, time.perf_counter_ns()))


class Ear:
    """Acknowledges every report and lets whoever waits know when a segment has ended."""

    def __init__(self) -> None:
        self._ended: dict[str, asyncio.Event] = {}

    async def report(self, request_id: str, reports: Sequence[p.AnyReport]) -> None:
        for report in reports:
            if isinstance(report, p.Failed):
                raise RuntimeError(f"{request_id}: {report.code} {report.message}")
            if isinstance(report, CLOSING):
                self._of(report.segment_id).set()

    async def end_of(self, segment_id: str) -> None:
        await self._of(segment_id).wait()

    def _of(self, segment_id: str) -> asyncio.Event:
        return self._ended.setdefault(segment_id, asyncio.Event())


def measure_bubbles(models_dir: Path, model: str, shape: Shape, *, steps: int, rounds: int) -> dict[str, list[int]]:
    """Gaps in microseconds, ``same request`` and ``another request``; ``step`` are the steps around them."""
    return asyncio.run(_Bubbles(models_dir, model, shape, steps).measured(rounds))


class _Bubbles:
    def __init__(self, models_dir: Path, model: str, shape: Shape, steps: int) -> None:
        self._models_dir = models_dir
        self._model = model
        self._shape = shape
        self._steps = steps
        self._count = 0
        self._runtime = LocalRuntime()
        self._clock: list[tuple[int, int]] = []

    async def measured(self, rounds: int) -> dict[str, list[int]]:
        await self._runtime.spawn(EAR, lambda _: Ear())
        self._worker = await self._runtime.spawn(WORKER, lambda runtime: Worker(runtime, WORKER, self._device))
        await self._worker.ask("hello", 1, 0)
        gaps: dict[str, list[int]] = {"same request": [], "another request": [], "step": []}
        for number in range(rounds):
            one, two = (self._member(f"{name}{number}", seed) for seed, name in enumerate("ab"))
            half = self._steps // 2
            await self._run((one, Stage.ENCODE, 0, 0), (two, Stage.ENCODE, 0, 0))
            self._clock.clear()
            whole = (one, Stage.DENOISE, half, self._steps)
            await self._run((one, Stage.DENOISE, 0, half), whole, (two, Stage.DENOISE, 0, self._steps))
            gaps["same request"].append(self._gap(half))
            gaps["another request"].append(self._gap(self._steps))
            gaps["step"] += [(after - before) // 1000 for before, after in self._clock]
        return gaps

    def _device(self) -> ClockedDevice:
        device = ClockedDevice(Catalog.load(), self._models_dir, device="auto", threads=1)
        device.steps_ns = self._clock
        return device

    def _gap(self, step: int) -> int:
        return (self._clock[step][0] - self._clock[step - 1][1]) // 1000

    async def _run(self, *segments: tuple[p.Member, Stage, int, int]) -> None:
        """Queue all of them at once and wait for the last one's end."""
        commands = tuple(self._command(*segment) for segment in segments)
        for answer in await self._worker.ask("obey", commands):
            if answer.refusal:
                raise RuntimeError(f"{answer.refusal}: {answer.message}")
        await self._runtime.find(EAR).ask("end_of", commands[-1].segment_id)

    def _command(self, member: p.Member, stage: Stage, from_step: int, to_step: int) -> p.RunSegment:
        self._count += 1
        return p.RunSegment(1, f"s{self._count}", stage, self._model, (member,), (WORKER,), from_step, to_step)

    def _member(self, request_id: str, seed: int) -> p.Member:
        media = Catalog.load().get(self._model).media
        spec = RequestSpec(
            request_id,
            model=self._model,
            media=Media(media),
            shape=self._shape,
            steps=self._steps,
            arrival_us=0,
            deadline_us=0,
            prompt="a lighthouse at dusk",
            guidance_scale=5.0,
            seed=seed,
        )
        return p.Member(spec, 0, EAR, WORKER)
