"""Groups come, break and come again: what a dead rank does to the others, and how it gets back in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.parallel_world import World, aligned_groups, host_store
from genserve.errors import GenServeError
from tests.diffusion.generations import a_generation
from tests.elastic.ranks import Ranks

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

NAME = "tiny-wan"
STEP_TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def trio(models_dir: Path) -> Iterator[Ranks]:
    """Three processes of their own in one world, to be killed."""
    ranks = Ranks(models_dir)
    ranks.start("r0", "r1", "r2")
    ranks.form("r0", "r1", "r2", step_timeout_s=STEP_TIMEOUT_S)
    yield ranks
    ranks.stop()


def test_eight_workers_have_fifteen_aligned_groups_in_one_order() -> None:
    groups = aligned_groups([f"w{i}" for i in range(8)])
    assert len(groups) == 15
    assert groups[8:12] == [("w0", "w1"), ("w2", "w3"), ("w4", "w5"), ("w6", "w7")]
    assert groups[14] == tuple(f"w{i}" for i in range(8))


def test_a_world_that_others_do_not_join_says_so_within_its_time() -> None:
    store = host_store()
    world = World("here", ("absent", "here"), store_port=store.port, timeout_s=0.5)
    began = time.monotonic()
    with pytest.raises(GenServeError, match="group_not_formed"):
        world.form()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("victim", "left", "harm"), [("r0", "r1", "kill"), ("r1", "r0", "kill"), ("r1", "r0", "suspend")]
)
def test_a_leader_or_member_that_dies_or_hangs_mid_step_costs_only_the_steps_since_the_checkpoint(
    trio: Ranks, victim: str, left: str, harm: str
) -> None:
    """The group comes down within the step's time limit, its other member goes on elsewhere, and a new generation
    has everybody again."""
    generation = a_generation(Catalog.load().get(NAME), width=128, height=128, frames=17, steps=100)
    pair = ("r0", "r1")
    trio.ask(("r0",), "begin", NAME, generation)
    trio.ask(pair, "run", NAME, pair, "r0", 1)
    (saved,) = trio.ask(("r0",), "saved", NAME)
    trio.tell((left,), "broken", NAME, pair, "r0")
    trio.tell((victim,), "run", NAME, pair, "r0", 90)
    time.sleep(0.5)
    getattr(trio, harm)(victim)
    began = time.monotonic()
    assert trio.hear(left) == "group_lost"
    assert time.monotonic() - began < STEP_TIMEOUT_S + 10
    trio.ask((left, "r2"), "load", NAME, (generation,), saved)
    trio.ask((left, "r2"), "run", NAME, (left, "r2"), left, 1)
    (elsewhere,) = trio.ask((left,), "latents")
    trio.ask(("r2",), "load", NAME, (generation,), saved)
    trio.ask(("r2",), "run", NAME, ("r2",), "r2", 1)
    assert torch.equal(elsewhere, trio.ask(("r2",), "latents")[0])
    trio.kill(victim)
    trio.start(victim)
    trio.form("r0", "r1", "r2", step_timeout_s=STEP_TIMEOUT_S)
    trio.ask(("r0",), "begin", NAME, generation)
    trio.ask(pair, "run", NAME, pair, "r0", 2)


def test_a_member_that_gives_a_group_up_lets_the_others_go_and_the_group_can_be_formed_again(trio: Ranks) -> None:
    generation = a_generation(Catalog.load().get(NAME))
    pair = ("r0", "r1")
    trio.tell(("r1",), "broken", NAME, pair, "r0")
    trio.ask(("r0",), "give_up", pair)
    began = time.monotonic()
    assert trio.hear("r1") == "group_lost"
    assert time.monotonic() - began < 5
    trio.ask(("r0",), "begin", NAME, generation)
    trio.ask(pair, "run", NAME, pair, "r0", 2)
