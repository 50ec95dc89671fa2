"""Two real workers on Ray and the ear of a request actor, driven segment by segment; for benchmarks and tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors.framework.ray_runtime import RayRuntime
from actors.framework.runtime import Ref, Runtime, UnreachableError
from actors.outbox import CLOSING
from actors.plant import make_worker
from actors.worlds import Worlds
from genserve.config import Cluster, Settings
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p

WORKERS = ("worker-0", "worker-1")
PATIENCE_S = 60


class Ear:
    """Keeps every report; ``first`` waits for one."""

    def __init__(self, runtime: Runtime) -> None:
        self._heard: list[p.AnyReport] = []
        self._news = asyncio.Condition()

    async def report(self, request_id: str, reports: Sequence[p.AnyReport]) -> None:
        async with self._news:
            self._heard += [r for r in reports if r not in self._heard or not isinstance(r, p.Stepped)]
            self._news.notify_all()

    async def first(self, kinds: tuple[type, ...], segment_id: str, request_id: str) -> p.AnyReport:
        """The first report of those kinds, once it has come."""
        async with self._news:
            while True:
                for report in self._heard:
                    if isinstance(report, kinds) and (report.segment_id, report.request_id) == (segment_id, request_id):
                        return report
                await self._news.wait()

    async def steps(self, segment_id: str) -> list[p.Stepped]:
        return [r for r in self._heard if isinstance(r, p.Stepped) and r.segment_id == segment_id]


class Bench:
    """``start`` and ``stop`` are a pair."""

    def __init__(self, models_dir: Path, folder: Path) -> None:
        self._settings = Settings(
            data_dir=folder, models_dir=models_dir, cluster=Cluster(device="cpu", threads_per_worker=1)
        )
        self._runtime = RayRuntime("bench")
        self._workers: dict[str, Ref] = {}
        self._count = 0

    async def start(self) -> Bench:
        ray.init(address="local", num_cpus=4, num_gpus=0, include_dashboard=False, log_to_driver=False)
        self.ear = await self._runtime.spawn("ear", Ear)
        for name in WORKERS:
            self._workers[name] = await self._runtime.spawn(name, make_worker, name, self._settings, threads=1)
        hellos = await asyncio.gather(*(w.ask("hello", 1, 0) for w in self._workers.values()))
        self.incarnations = {hello.worker_id: hello.incarnation for hello in hellos}
        self.nodes = {hello.worker_id: hello.node for hello in hellos}
        self.worlds = Worlds(self.ask, epoch=1)
        self.worlds.grow(self.nodes)
        return self

    async def greet(self, worker_id: str) -> None:
        """Say hello until it answers: it may be on its way back."""
        while True:
            try:
                await self.ask(worker_id, "hello", 1, 0)
            except UnreachableError:
                await asyncio.sleep(0.2)
            else:
                return

    async def stop(self) -> None:
        self.worlds.stop()
        await asyncio.to_thread(ray.shutdown)

    async def ask(self, worker_id: str, method: str, *args: object) -> Any:
        return await self._workers[worker_id].ask(method, *args)

    async def begin(
        self,
        stage: Stage,
        members: Sequence[p.Member],
        group: tuple[str, ...],
        steps: tuple[int | None, int] = (0, 0),
        *,
        after: str = "",
        after_on: str = "",
    ) -> str:
        """Queue a segment on every worker of its group."""
        self._count += 1
        command = p.RunSegment(
            epoch=1,
            segment_id=f"s{self._count}",
            stage=stage,
            model=members[0].spec.model,
            members=tuple(members),
            group=group,
            from_step=steps[0],
            to_step=steps[1],
            generation=self.worlds.generation,
            after=after,
            after_on=after_on,
            after_incarnation=self.incarnations[after_on] if after_on else 0,
        )
        for worker_id in group:
            (answer,) = await self.ask(worker_id, "obey", (command,))
            assert answer.refusal == "", answer
        return command.segment_id

    async def end(self, segment_id: str, member: p.Member) -> Any:
        return await asyncio.wait_for(self.ear.ask("first", CLOSING, segment_id, member.request_id), PATIENCE_S)

    async def start_of(self, segment_id: str, member: p.Member) -> p.Began:
        began: p.Began = await asyncio.wait_for(
            self.ear.ask("first", (p.Began,), segment_id, member.request_id), PATIENCE_S
        )
        return began

    async def run(
        self, stage: Stage, member: p.Member, group: tuple[str, ...], steps: tuple[int | None, int] = (0, 0)
    ) -> Any:
        """Run a segment to its end; the report that ends it, or its result where it is a decode."""
        segment_id = await self.begin(stage, (member,), group, steps)
        end = await self.end(segment_id, member)
        if stage is not Stage.DECODE or not isinstance(end, p.Ended):
            return end
        return await asyncio.wait_for(self.ear.ask("first", (p.Decoded,), segment_id, member.request_id), PATIENCE_S)

    async def pause(self, segment_id: str, leader: str) -> None:
        await self.ask(leader, "obey", (p.Revise(1, segment_id, stop=True),))
