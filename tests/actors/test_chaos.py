"""Random loads, random deaths, several in a row: client-side histories still add up. SEED=n repeats one soak run."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

from actors.leadership import LEASE_S
from genserve.audit.replay import replay
from genserve.domain import events as e
from genserve.domain.request import RequestSpec
from genserve.errors import Unavailable
from genserve.journal.contract import Group
from genserve.planners import registry
from genserve.scheduling import protocol as p
from tests.actors.cell import ENDED, STEP_S, LocalCell, WatchedStorage, a_video, an_image, batching_costs, told
from tests.actors.fake_runner import Hook
from tests.actors.late_runtime import LateRuntime
from tests.actors.test_crashes import VICTIMS
from tests.actors.virtual_time import START_US, run
from tests.builders import SECOND
from tests.wander import Wander, wander

__all__ = ["wander"]

SHORT = range(2)
SOAK = [int(os.environ["SEED"])] if "SEED" in os.environ else range(100, 160)
REQUESTS = 12
DEATHS = 5
POSITIONS = range(6, 150)
"""Where somebody dies, in a log of some 300."""
PLANNERS = tuple(registry._OURS)


class Chaos:
    """One run: what is sent, cancelled and killed follows from the seed."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        planners: Sequence[str] = PLANNERS,
        positions: range = POSITIONS,
        steps: Sequence[int] = range(1, 9),
        costs: Path | None = None,
    ) -> None:
        self.draw = random.Random(seed)
        self.planners = planners
        self.positions = positions
        self.steps = steps
        self.costs = costs
        self.folder = folder
        self.runtime = LateRuntime(seed)
        self.acknowledged: list[RequestSpec] = []
        self.cancelled: set[str] = set()

    async def main(self, monkeypatch: pytest.MonkeyPatch) -> LocalCell:
        planner, workers = self.draw.choice(self.planners), self.draw.randint(2, 4)
        cell = LocalCell(self.folder, planner=planner, workers=workers, runtime=self.runtime, costs=self.costs)
        cell.hook = self.take_time(cell)
        cell.measure_virtual_time(monkeypatch)
        await cell.start()
        assert isinstance(cell.storage, WatchedStorage)
        cell.storage.after = self.killer(cell)
        async with asyncio.timeout(3600):
            await asyncio.gather(*(self.client(cell, i) for i in range(REQUESTS)))
            await cell.finish(*(spec.request_id for spec in self.acknowledged))
        return cell

    def take_time(self, cell: LocalCell) -> Hook:
        """Encoding and decoding take up to some steps' time."""
        draw = random.Random(self.draw.random())

        def hook(verb: str, members: tuple[p.Member, ...], step: int) -> None:
            if verb in ("encode", "decode"):
                cell.loop.sleep_in_thread(draw.uniform(0, 4 * STEP_S))

        return hook

    def killer(self, cell: LocalCell) -> Callable[[Group], None]:
        """Somebody dies behind each of some random positions; sometimes again during the recovery."""
        positions = sorted(self.draw.sample(self.positions, DEATHS))

        def watch(group: Group) -> None:
            if positions and positions[0] <= group.last:
                positions.pop(0)
                self.draw.choice((*VICTIMS, self.take_database_away))(cell)

        return watch

    def take_database_away(self, cell: LocalCell) -> None:
        """For up to two leases."""
        storage = cell.storage
        assert isinstance(storage, WatchedStorage)
        storage.is_away = True
        away_s = self.draw.uniform(0, 2 * LEASE_S)
        cell.loop.call_soon_threadsafe(cell.loop.call_later, away_s, setattr, storage, "is_away", False)

    async def client(self, cell: LocalCell, index: int) -> None:
        draw = random.Random(self.draw.random())
        await asyncio.sleep(draw.uniform(0, 6))
        spec = self.spec(draw, index)
        await persist(lambda: cell.submit(spec))
        self.acknowledged.append(spec)
        if draw.random() < 0.25:
            await asyncio.sleep(draw.uniform(0, 2))
            await persist(lambda: cell.gateway.cancel(spec.request_id, "changed my mind"))
            self.cancelled.add(spec.request_id)

    def spec(self, draw: random.Random, index: int) -> RequestSpec:
        make = draw.choice((an_image, a_video))
        deadline_us = START_US + int(draw.uniform(1, 30) * SECOND)
        return make(f"r{index}", seed=draw.randrange(1000), deadline_us=deadline_us, steps=draw.choice(self.steps))


async def persist(call: Callable[[], object]) -> None:
    """As a client does: again, until somebody has answered."""
    while True:
        try:
            await call()  # type: ignore[misc]
        except Unavailable:
            await asyncio.sleep(0.5)
        else:
            return


@cache
def pixels_alone(spec: RequestSpec, folder: Path) -> tuple[str, ...]:
    """What the request gives when nothing else happens in the world."""

    async def main() -> tuple[str, ...]:
        cell = await LocalCell(folder / spec.request_id).start()
        await cell.submit(spec)
        await cell.finish(spec.request_id)
        return cell.pixels(spec.request_id)[spec.request_id]

    return run(main())


def check(chaos: Chaos, cell: LocalCell) -> None:
    log = cell.log
    assert cell.violations() == [], told(log)
    assert not any(event.reason for event in cell.all_events(e.PlannerChanged)), told(log)
    report = replay(log)
    assert report.is_clean, str(report.first)
    assert {spec.request_id for spec in chaos.acknowledged} == {f"r{i}" for i in range(REQUESTS)}
    for spec in chaos.acknowledged:
        status = cell.status(spec.request_id)
        assert status in ENDED
        assert status == "completed" or spec.request_id in chaos.cancelled, told(log)
        if status == "completed":
            alone = pixels_alone(spec, chaos.folder / "alone")
            assert cell.pixels(spec.request_id)[spec.request_id] == alone
            story = cell.story(spec.request_id)
            assert story.count("RequestCompleted") == 1
            assert "CancelRequested" not in story[: story.index("RequestCompleted")]
    assert len({r.event_id for r in log if isinstance(r.event, e.RequestSubmitted)}) == REQUESTS


@pytest.fixture(params=["planners", "wandering", "batches"])
def begin(request: pytest.FixtureRequest, wander: Wander, tmp_path: Path) -> Callable[[int], Chaos]:
    """What is disturbed: any planner, requests that go on from their own stops, or images that share their steps."""
    if request.param == "wandering":  # its log is three times as long; closer deaths would use up a request's attempts
        return lambda seed: Chaos(seed, tmp_path, planners=[Wander.title], positions=range(6, 450))
    if request.param == "batches":
        costs = batching_costs(tmp_path)
        return lambda seed: Chaos(seed, tmp_path, planners=["save", "genserve"], steps=(4, 8), costs=costs)
    return lambda seed: Chaos(seed, tmp_path)


def run_chaos(chaos: Chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    check(chaos, run(chaos.main(monkeypatch)))


@pytest.mark.parametrize("seed", SHORT)
def test_a_short_run_of_random_deaths_loses_nothing(
    seed: int, begin: Callable[[int], Chaos], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_chaos(begin(seed), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SOAK)
def test_a_soak_of_random_deaths_loses_nothing(
    seed: int, begin: Callable[[int], Chaos], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_chaos(begin(seed), monkeypatch)
