"""Whatever happens to a batch between two steps, its latents end as if nothing had."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.generation import Generation
from genserve.diffusion.load import load_model
from tests.diffusion.generations import a_generation, begun, finished, largest_difference
from tests.elastic.ranks import Ranks
from tests.elastic.schedules import GROUPS, STEPS, After, Run, Schedule, Segment, Way, schedules
from tests.elastic.test_degrees import FAMILIES, TOLERANCE

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

ALONE = tuple(group for group in GROUPS if len(group) == 1)
EASY = settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
LONG = settings(EASY, max_examples=100)


class Undisturbed:
    """Latents of batches that run in this process from the first step to the last, each made once."""

    def __init__(self, models_dir: Path, place: str = "cpu") -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._of = cache(lambda name: load_model(Catalog.load().get(name), models_dir, device=place))
        self.latents = cache(self._latents)
        self.restore = lambda: torch.set_num_threads(threads)

    def _latents(self, name: str, generations: tuple[Generation, ...]) -> torch.Tensor:
        model = self._of(name)
        return finished(model, begun(model, *generations)).latents.to("cpu", copy=True)


@pytest.fixture(scope="module")
def undisturbed(models_dir: Path) -> Iterator[Undisturbed]:
    runs = Undisturbed(models_dir)
    yield runs
    runs.restore()


def generations_of(name: str, schedule: Schedule) -> tuple[Generation, ...]:
    entry = Catalog.load().get(name)
    return tuple(a_generation(entry, steps=STEPS, seed=seed, width=schedule.width) for seed in schedule.seeds)


def difference(
    ranks: Ranks, undisturbed: Undisturbed, name: str, schedule: Schedule, *, is_deadly: bool = False
) -> float:
    """The largest one between the latents of that schedule and those of the undisturbed batch."""
    generations = generations_of(name, schedule)
    made = Run(ranks, name, generations, is_deadly=is_deadly).all_of(schedule)
    return largest_difference(made, undisturbed.latents(name, generations))


def allowed(name: str, schedule: Schedule) -> float:
    """How much the latents may differ: not in one bit where no step was shared."""
    return 0.0 if schedule.is_alone else TOLERANCE[name]


@pytest.mark.parametrize("name", FAMILIES)
@EASY
@given(schedule=schedules())
def test_no_schedule_changes_the_latents(ranks: Ranks, undisturbed: Undisturbed, name: str, schedule: Schedule) -> None:
    assert difference(ranks, undisturbed, name, schedule) <= allowed(name, schedule)


@pytest.mark.parametrize("name", FAMILIES)
@EASY
@given(schedule=schedules(ALONE))
def test_pauses_moves_checkpoints_and_losses_change_no_bit(
    ranks: Ranks, undisturbed: Undisturbed, name: str, schedule: Schedule
) -> None:
    assert difference(ranks, undisturbed, name, schedule) == 0.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FAMILIES)
@LONG
@given(schedule=schedules())
def test_no_schedule_changes_the_latents_at_length(
    ranks: Ranks, undisturbed: Undisturbed, name: str, schedule: Schedule
) -> None:
    assert difference(ranks, undisturbed, name, schedule) <= allowed(name, schedule)


@pytest.mark.parametrize("name", ["tiny-wan"])
def test_a_killed_home_costs_the_steps_since_the_checkpoint_and_no_bit(
    ranks: Ranks, undisturbed: Undisturbed, name: str
) -> None:
    story = (
        Segment(("r1", "r0"), 2, after=After.CHECKPOINT),
        Segment(("r0",), 2, after=After.LOSS),
        Segment(("r2", "r0"), 1, Way.RELOAD),
        Segment(("r3", "r1", "r0", "r2"), 1, Way.MOVE),
    )
    assert difference(ranks, undisturbed, name, Schedule((1, 2), 64, story), is_deadly=True) == 0.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FAMILIES)
@settings(EASY, max_examples=10)
@given(schedule=schedules())
def test_no_schedule_with_killed_processes_changes_the_latents(
    ranks: Ranks, undisturbed: Undisturbed, name: str, schedule: Schedule
) -> None:
    assert difference(ranks, undisturbed, name, schedule, is_deadly=True) <= TOLERANCE[name]
