"""Several requests in one batch: each gets what it would have got alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genserve.diffusion.denoising import join, split
from genserve.diffusion.latents import load, save
from genserve.diffusion.model import DiffusionModel
from genserve.errors import CallerError
from tests.diffusion.generations import a_generation, begun, finished, largest_difference, latents_alone

pytestmark = pytest.mark.models

TOLERANCE = 5e-5
"""Matrix products round differently by batch, so the denoiser's rows differ in the last bits; everything after it
(guidance, sampler) and before it (noise, text) runs per request. Measured: below 5e-6 on latents of up to 5.
"""


def three(model: DiffusionModel) -> list[Any]:
    """Three prompts, seeds and guidance scales."""
    wanted = [("a red fox in the snow", 1, 4.5), ("a blue ship at sea", 2, 3.0), ("an old castle", 3, 7.0)]
    return [a_generation(model.entry, prompt=p, seed=s, guidance_scale=g) for p, s, g in wanted]


def test_each_member_of_a_batch_gets_what_it_would_have_got_alone(model: DiffusionModel) -> None:
    generations = three(model)
    batch = finished(model, begun(model, *generations))
    for row, generation in enumerate(generations):
        assert largest_difference(batch.latents[row : row + 1], latents_alone(model, generation)) <= TOLERANCE


def test_a_member_left_alone_from_the_start_is_equal_to_the_bit(model: DiffusionModel) -> None:
    generations = three(model)
    alone = split(begun(model, *generations), [1])
    assert torch.equal(finished(model, alone).latents, latents_alone(model, generations[1]))


def test_members_start_from_the_same_noise_as_alone_to_the_bit(model: DiffusionModel) -> None:
    generations = three(model)
    batch = begun(model, *generations)
    assert torch.equal(batch.latents, torch.cat([begun(model, generation).latents for generation in generations]))


def test_cancelling_a_member_does_not_disturb_the_others(model: DiffusionModel) -> None:
    generations = three(model)
    batch = begun(model, *generations, steps=2)
    rest = finished(model, split(batch, [0, 2]))
    assert rest.generations == (generations[0], generations[2])
    for row, generation in enumerate(rest.generations):
        assert largest_difference(rest.latents[row : row + 1], latents_alone(model, generation)) <= TOLERANCE


def test_paused_runs_of_equal_progress_can_join(model: DiffusionModel) -> None:
    generations = three(model)
    batch = join([begun(model, generation, steps=2) for generation in generations])
    before = batch.latents.clone()
    assert torch.equal(before, torch.cat([begun(model, g, steps=2).latents for g in generations]))
    finished(model, batch)
    for row, generation in enumerate(generations):
        assert largest_difference(batch.latents[row : row + 1], latents_alone(model, generation)) <= TOLERANCE


def test_a_member_saved_out_of_a_batch_goes_on_alone(model: DiffusionModel) -> None:
    generations = three(model)
    batch = begun(model, *generations, steps=2)
    alone = finished(model, load(model, generations[1], save(model, batch, 1)))
    assert largest_difference(alone.latents, latents_alone(model, generations[1])) <= TOLERANCE


def test_each_member_is_decoded_as_if_alone(model: DiffusionModel) -> None:
    batch = begun(model, *three(model), steps=1)
    for row, frames in enumerate(model.decode(batch)):
        assert (model.decode(split(batch, [row]))[0] == frames).all()


@pytest.mark.parametrize("changes", [{"width": 96}, {"steps": 5}, {"guidance_scale": 1.0}])
def test_unlike_requests_do_not_share_a_batch(model: DiffusionModel, changes: dict[str, Any]) -> None:
    with pytest.raises(CallerError, match="batch_mismatch"):
        begun(model, a_generation(model.entry), a_generation(model.entry, **changes))


def test_runs_at_different_steps_do_not_join(model: DiffusionModel) -> None:
    fox, ship, _ = three(model)
    with pytest.raises(CallerError, match="batch_mismatch"):
        join([begun(model, fox, steps=1), begun(model, ship, steps=2)])


@pytest.mark.parametrize("keep", [[], [0, 0], [3], [-1]])
def test_nonsense_splits_are_refused(model: DiffusionModel, keep: list[int]) -> None:
    with pytest.raises(CallerError, match="batch_mismatch"):
        split(begun(model, *three(model)), keep)
