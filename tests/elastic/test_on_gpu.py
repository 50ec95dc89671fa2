"""Groups and changes of course on GPUs that are not there: whatever happens between steps, latents end the same.

A group's collectives are gloo's here; what NCCL does with them is seen where there are GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.elastic.ranks import NAMES, Ranks
from tests.elastic.schedules import Schedule, Segment, schedules
from tests.elastic.test_degrees import FAMILIES, TOLERANCE
from tests.elastic.test_schedules import ALONE, EASY, Undisturbed, allowed, difference

pytestmark = [pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(300)]

FEW = settings(EASY, max_examples=2)


@pytest.fixture(scope="module")
def ranks(models_dir: Path, fake_place: str) -> Iterator[Ranks]:
    ranks = Ranks(models_dir, fake_place)
    ranks.start(*NAMES)
    ranks.form(*NAMES)
    yield ranks
    ranks.stop()


@pytest.fixture(scope="module")
def undisturbed(models_dir: Path, fake_place: str) -> Iterator[Undisturbed]:
    """On such a GPU, alone."""
    runs = Undisturbed(models_dir, fake_place)
    yield runs
    runs.restore()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_group_computes_what_one_gpu_computes(ranks: Ranks, undisturbed: Undisturbed, name: str) -> None:
    story = Schedule((1, 2), 48, (Segment(NAMES[:2], 2), Segment(NAMES, 2)))
    assert difference(ranks, undisturbed, name, story) <= TOLERANCE[name]


@pytest.mark.parametrize("name", FAMILIES)
@FEW
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
