"""xfuser's USP behind the seam, with yunchang's attention, which is xfuser's core and runs on a CPU too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.parallel import build_parallel
from genserve.diffusion.parallel_xfuser import XFuser, layout, rank_lengths
from tests.diffusion.generations import a_generation
from tests.elastic.ranks import NAMES, Ranks
from tests.elastic.test_degrees import alone

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

FAMILIES = ("tiny-sd3", "tiny-flux", "tiny-wan")
TOLERANCE = 2e-5
"""Latents are of order 1."""


def ulysses(pipeline: Any) -> XFuser:
    """USP with the CPU's fused attention, which gives what merging wants just as that of a GPU does."""
    import yunchang.kernels.attention as kernels
    from yunchang import LongContextAttention
    from yunchang.globals import PROCESS_GROUP
    from yunchang.kernels import AttnType

    from genserve.diffusion.process_groups import default_group

    class Attention(LongContextAttention):  # type: ignore[misc]
        """xfuser's takes the module first."""

        def forward(self, _module: Any, *args: Any, **options: Any) -> torch.Tensor:
            return super().forward(*args, **options)  # type: ignore[no-any-return]

    kernels._scaled_dot_product_flash_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    PROCESS_GROUP.ULYSSES_PG = default_group()
    return XFuser(pipeline, Attention(attn_type=AttnType.TORCH_FLASH))


def ulysses_of_two_and_ring(pipeline: Any) -> XFuser:
    """As if only two of the heads could be dealt out."""
    usp = ulysses(pipeline)
    usp._heads = [2]
    return usp


@pytest.fixture
def usp(ranks: Ranks) -> Iterator[Ranks]:
    yield ranks
    for name in FAMILIES:
        ranks.ask(NAMES, "use", name, build_parallel)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("build", [ulysses, ulysses_of_two_and_ring])
@pytest.mark.parametrize("side", [64, 48], ids=["even", "uneven"])
def test_usp_computes_what_one_process_computes(usp: Ranks, name: str, build: Any, side: int) -> None:
    generation = a_generation(Catalog.load().get(name), width=side, height=side, steps=3)
    expected = alone(usp, name, generation)
    usp.ask(NAMES, "use", name, build)
    usp.ask(("r0",), "begin", name, generation)
    usp.ask(NAMES[:2], "run", name, NAMES[:2], "r0", 1)
    usp.ask(NAMES, "run", name, NAMES, "r0", 1)
    usp.ask(("r0",), "run", name, ("r0",), "r0", 1)
    (latents,) = usp.ask(("r0",), "latents")
    assert float((latents - expected).abs().max()) <= TOLERANCE


@given(st.integers(0, 4).map(lambda power: 2**power), st.integers(1, 48))
def test_heads_and_keys_meet_every_rank_exactly_once(degree: int, heads: int) -> None:
    for rank in range(degree):
        exchanging, passing = layout(degree, rank, [heads])
        assert rank in exchanging
        assert rank in passing
        assert len(exchanging) * len(passing) == degree
        assert heads % len(exchanging) == 0
        met = {other for peer in passing for other in layout(degree, peer, [heads])[0]}
        assert met == set(range(degree))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=2), st.integers(1, 16))
def test_ranks_have_the_tokens_that_splitting_gives_them(lengths: list[int], degree: int) -> None:
    shares = [torch.arange(n).tensor_split(degree) for n in lengths]
    assert rank_lengths(lengths, degree) == tuple(sum(len(s[rank]) for s in shares) for rank in range(degree))
