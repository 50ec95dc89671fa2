"""The whole system on one event loop: the real scheduler, workers and request actors, with fake models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from actors import request as request_module
from actors.framework.local_runtime import LocalRuntime
from actors.framework.runtime import Runtime
from actors.gateway import ClusterGateway
from actors.link import WorkerSlot
from actors.scheduler import NAME, Scheduler
from actors.worker import Worker
from genserve.config import Admission, Cluster, Durability, Limits, Settings
from genserve.domain import events as e
from genserve.domain.cluster import Request
from genserve.domain.costs import CostData, StageCost
from genserve.domain.ids import request_stream
from genserve.domain.laws import Violation, check_laws
from genserve.domain.request import RequestSpec, Shape, Stage, Status
from genserve.journal.contract import Group, Head, Storage, StorageAway
from genserve.journal.memory import MemoryStorage
from genserve.scheduling import protocol as p
from genserve.scheduling import segments
from genserve.scheduling.gateway import Submission
from tests.actors.fake_runner import FakeRunner, Hook
from tests.actors.virtual_time import START_US, CountedThread, VirtualLoop
from tests.builders import SECOND, a_request

STEP_S = 0.1
SMALL = Shape(8, 8)
CLIP = Shape(16, 16, 2)

OnCommit = Callable[[Group], None]


def an_image(request_id: str = "i1", **changes: Any) -> RequestSpec:
    """Three steps, due in ten seconds."""
    return a_request(request_id, **{"shape": SMALL, "steps": 3, "arrival_us": START_US, "seed": 1, **changes})


def a_video(request_id: str = "v1", **changes: Any) -> RequestSpec:
    """Six steps, due in a minute."""
    fields = {"steps": 6, "arrival_us": START_US, "deadline_us": START_US + 60 * SECOND, "seed": 2, "fps": 8}
    return a_request(request_id, **{"shape": CLIP, **fields, **changes})


def batching_costs(folder: Path) -> Path:
    """A table in which an image's steps of two and four cost little more than those of one."""
    steps = {1: 100_000, 2: 110_000, 4: 120_000}
    rows = [StageCost("t2i", Stage.DENOISE, SMALL, us, 1, size) for size, us in steps.items()]
    rows += [StageCost("t2i", stage, SMALL, 1_000) for stage in (Stage.ENCODE, Stage.DECODE)]
    path = folder / "costs.json"
    path.write_bytes(msgspec.json.encode(CostData("batches", tuple(rows))))
    return path


class WatchedStorage(MemoryStorage):
    """A log in memory that calls ``before`` and ``after`` around every commit, and goes away on demand."""

    def __init__(self, clock_us: Callable[[], int]) -> None:
        super().__init__(clock_us)
        self.before: OnCommit = lambda group: None
        self.after: OnCommit = lambda group: None
        self.is_away = False

    def head(self) -> Head:
        self._refuse_if_away()
        return super().head()

    def take_over(self, holder: str, lease_us: int) -> Head:
        self._refuse_if_away()
        return super().take_over(holder, lease_us)

    def renew_lease(self, holder: str, epoch: int, lease_us: int) -> int:
        self._refuse_if_away()
        return super().renew_lease(holder, epoch, lease_us)

    def _refuse_if_away(self) -> None:
        if self.is_away:
            raise StorageAway("the database was taken away")

    def commit(self, group: Group) -> bool:
        self._refuse_if_away()
        self.before(group)
        due = super().commit(group)
        self.after(group)
        return due


class LocalCell:
    """Created inside a running VirtualLoop; ``hook`` is called by every worker's runner, after the step's time."""

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        request_actors: int = 2,
        storage: Storage | None = None,
        open_storage: Callable[[], Storage] | None = None,
        planner: str = "edf",
        checkpoint_every: int = 2,
        max_queued: int = 100,
        admission: Admission | None = None,
        costs: Path | None = None,
        hook: Hook = lambda verb, members, step: None,
        runtime: LocalRuntime | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.runtime = runtime or LocalRuntime()
        self.settings = Settings(
            data_dir=folder,
            planner=planner,
            cluster=Cluster(workers=workers, request_actors=request_actors),
            durability=Durability(checkpoint_every_steps=checkpoint_every),
            limits=Limits(max_queued=max_queued),
            admission=admission or Admission(),
            costs=costs,
        )
        self.storage = storage or (open_storage() if open_storage else WatchedStorage(loop.clock_us))
        self.open_storage = open_storage or (lambda: self.storage)
        self.reader = self.storage.reader()
        self.hook = hook
        self.workers = tuple(f"worker-{i}" for i in range(workers))
        self.gateway = ClusterGateway(self.runtime.find(NAME), self.reader)

    # ── composition ──────────────────────────────────────────────────────────────────────────────────────

    async def start(self, *, holder: str = "holder") -> LocalCell:
        scheduler = await self.runtime.spawn(NAME, self._make_scheduler, holder)
        await scheduler.ask("start")
        return self

    def _make_scheduler(self, runtime: Runtime, holder: str) -> Scheduler:
        slots = tuple(WorkerSlot(w, partial(runtime.spawn, w, self._make_worker, w)) for w in self.workers)
        return Scheduler(
            runtime,
            self.settings,
            slots=slots,
            holder=holder,
            storage=self.open_storage(),
            resign=lambda: self.runtime.crash(NAME),
            clock_us=self.loop.clock_us,
        )

    def _make_worker(self, runtime: Runtime, worker_id: str) -> Worker:
        worker = Worker(
            runtime,
            worker_id,
            lambda: FakeRunner(self._take_time),
            resign=lambda: self.runtime.crash(worker_id),
        )
        worker._files = CountedThread(self.loop)
        return worker

    def _take_time(self, verb: str, members: tuple[p.Member, ...], step: int) -> None:
        if verb == "step":
            self.loop.sleep_in_thread(STEP_S)
        self.hook(verb, members, step)

    def measure_virtual_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers report how long their steps take on the cell's clock, not on this machine's."""
        clock = SimpleNamespace(
            perf_counter_ns=lambda: int(self.loop.time() * 1e9), time_ns=lambda: self.loop.clock_us() * 1000
        )
        monkeypatch.setattr(segments, "time", clock)

    def hold_results(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on decoded frames are not encoded until ``release_results``."""
        encode = request_module.encode_results
        gate = self._results = threading.Event()

        def wait_and_encode(spec: RequestSpec, frames: Any) -> Any:
            self.loop.wait_in_thread(gate)
            return encode(spec, frames)

        monkeypatch.setattr(request_module, "encode_results", wait_and_encode)

    def release_results(self) -> None:
        self._results.set()

    @property
    def scheduler(self) -> Scheduler:
        found: Scheduler = self.runtime.actor(NAME)
        return found

    # ── use ──────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, *specs: RequestSpec, **fields: Any) -> tuple[str, ...]:
        return await self.gateway.submit(Submission(specs, **fields))

    async def finish(self, *request_ids: str) -> None:
        """Wait until all have ended."""
        for request_id in request_ids:
            async for _ in self.gateway.follow(request_id, after=0):
                pass

    async def wait_for(self, request_id: str, kind: type[e.Event], **fields: Any) -> e.Recorded:
        """The request's first fact of that type with those fields."""
        async for recorded in self.gateway.follow(request_id, after=0):
            event = recorded.event
            if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items()):
                return recorded
        raise AssertionError(f"{request_id} ended without {kind.__name__} {fields}")

    # ── what happened ────────────────────────────────────────────────────────────────────────────────────

    @property
    def log(self) -> list[e.Recorded]:
        return self.reader.read(0, 100_000)

    def events(self, request_id: str, kind: type[e.Event] = e.Event) -> list[Any]:
        stream = request_stream(request_id)
        return [r.event for r in self.log if r.stream == stream and isinstance(r.event, kind)]

    def all_events(self, kind: type[e.Event]) -> list[Any]:
        return [r.event for r in self.log if isinstance(r.event, kind)]

    def story(self, request_id: str) -> list[str]:
        return [type(event).__name__ for event in self.events(request_id)]

    def status(self, request_id: str) -> str:
        row = self.reader.find_request(request_id)
        return "" if row is None else row.status

    def live(self, request_id: str) -> Request | None:
        return self.scheduler._loop.state.requests.get(request_id)

    def pixels(self, *request_ids: str) -> dict[str, tuple[str, ...]]:
        """SHA-256 of every file of each result, previews not included."""
        return {r: self._files(r) for r in request_ids}

    def _files(self, request_id: str) -> tuple[str, ...]:
        stored = (event.artifact for event in self.events(request_id, e.ArtifactStored))
        return tuple(artifact.sha256 for artifact in stored if artifact.kind != "partial")

    def violations(self) -> list[Violation]:
        return check_laws(self.log)


def told(log: Sequence[e.Recorded]) -> str:
    """The log for people, for the message of a failed assertion."""
    return "\n".join(f"{r.position:4} {r.stream:14} {_told(r.event)}" for r in log)


def _told(event: e.AnyEvent) -> str:
    if isinstance(event, e.PlanDecided):
        return "PlanDecided " + "; ".join(str(msgspec.to_builtins(a)) for a in event.actions)
    return f"{type(event).__name__} " + str(msgspec.to_builtins(event))[:200]


ENDED = {Status.COMPLETED, Status.CANCELLED, Status.FAILED}
