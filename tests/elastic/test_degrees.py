"""Degree 1, 2 and 4 give the same latents, for every family of the catalog."""

from __future__ import annotations

import pytest
import torch

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.generation import Generation
from tests.diffusion.generations import a_generation
from tests.elastic.ranks import NAMES, Ranks

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

FAMILIES = ("tiny-sd3", "tiny-flux", "tiny-wan")
TOLERANCE = {"tiny-sd3": 2e-5, "tiny-flux": 2e-5, "tiny-wan": 0.0}
"""Latents are of order 1. Fewer rows in a matrix product may be summed in another order: seen are 3e-6 and 7e-7."""


def alone(ranks: Ranks, name: str, generation: Generation) -> torch.Tensor:
    """The undisturbed run on one process."""
    ranks.ask(("r0",), "begin", name, generation)
    ranks.ask(("r0",), "run", name, ("r0",), "r0", generation.steps)
    return ranks.ask(("r0",), "latents")[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("members", [NAMES[:2], NAMES], ids=["two", "four"])
def test_a_group_computes_what_one_process_computes(ranks: Ranks, name: str, members: tuple[str, ...]) -> None:
    generation = a_generation(Catalog.load().get(name))
    expected = alone(ranks, name, generation)
    ranks.ask(("r0",), "begin", name, generation)
    ranks.ask(members, "run", name, members, "r0", generation.steps)
    (latents,) = ranks.ask(("r0",), "latents")
    assert float((latents - expected).abs().max()) <= TOLERANCE[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_that_do_not_divide_among_ranks_are_split_unevenly(ranks: Ranks, name: str) -> None:
    generation = a_generation(Catalog.load().get(name), width=48, height=48)
    expected = alone(ranks, name, generation)
    ranks.ask(("r0",), "begin", name, generation)
    ranks.ask(NAMES[:2], "run", name, NAMES[:2], "r0", generation.steps)
    (latents,) = ranks.ask(("r0",), "latents")
    assert float((latents - expected).abs().max()) <= TOLERANCE[name]


def test_a_batch_in_a_group_computes_what_its_members_compute_alone(ranks: Ranks) -> None:
    entry = Catalog.load().get("tiny-sd3")
    generations = [a_generation(entry, seed=seed) for seed in (1, 2, 3)]
    expected = torch.cat([alone(ranks, "tiny-sd3", generation) for generation in generations])
    ranks.ask(("r0",), "begin", "tiny-sd3", *generations)
    ranks.ask(NAMES[:2], "run", "tiny-sd3", NAMES[:2], "r0", generations[0].steps)
    (latents,) = ranks.ask(("r0",), "latents")
    assert float((latents - expected).abs().max()) <= TOLERANCE["tiny-sd3"]


def test_heads_that_do_not_divide_among_ranks_are_refused_with_a_code(ranks: Ranks) -> None:
    name = "tiny-wan"
    generation = a_generation(Catalog.load().get(name), width=32, height=32, frames=1)
    ranks.ask(("r0",), "begin", name, generation)
    ranks.ask(NAMES, "run", name, NAMES, "r0", 1)
    assert ranks.ask(("r0",), "refusal", name, 8) == ["unsupported_degree"]
