"""The full-size models are what was published: by their parameters, without any memory."""

from __future__ import annotations

import msgspec
import pytest
import torch

from genserve.diffusion.full_size import Component, build_full_size, components_of, full_size_catalog, lay_out
from genserve.diffusion.latents import snapshot
from tests.diffusion.generations import a_generation, begun, finished

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

PUBLISHED = [
    ("sd3.5-medium", "transformer", 2.243),
    ("sd3.5-medium", "vae", 0.084),
    ("sd3.5-medium", "text_encoder", 0.124),
    ("sd3.5-medium", "text_encoder_2", 0.695),
    ("sd3.5-medium", "text_encoder_3", 4.76),
    ("flux.1-dev", "transformer", 11.90),
    ("wan2.1-t2v-1.3b", "transformer", 1.42),
    ("wan2.1-t2v-1.3b", "vae", 0.127),
    ("wan2.1-t2v-1.3b", "text_encoder", 5.68),
    ("wan2.2-ti2v-5b", "transformer", 5.00),
    ("wan2.2-ti2v-5b", "vae", 0.705),
]
"""Billions of parameters; SD3.5's positions, 0.226 more, are a buffer."""


@pytest.mark.parametrize(("name", "component", "billions"), PUBLISHED)
def test_a_component_has_as_many_parameters_as_the_published_one(name: str, component: str, billions: float) -> None:
    module = lay_out(components_of(name)[component])
    assert all(parameter.is_meta for parameter in module.parameters())
    assert sum(p.numel() for p in module.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)


SHALLOW = {
    "num_layers": 1,
    "num_single_layers": 1,
    "num_hidden_layers": 1,
    "dual_attention_layers": [0],
    "vocab_size": 600,
}
"""What makes the published components small: one layer of each kind. Widths stay, where they have to fit each other."""


def shallow(component: Component) -> Component:
    changes = {key: value for key, value in SHALLOW.items() if key in component.config}
    if "CLIP" in component.kind:
        del changes["vocab_size"]
    return Component(component.kind, {**component.config, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("name", full_size_catalog().names)
def test_a_model_of_published_widths_runs_from_text_to_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    components = {part: shallow(component) for part, component in components_of(name).items()}
    monkeypatch.setattr("genserve.diffusion.full_size.components_of", lambda _: components)
    entry = full_size_catalog().get(name)
    entry = msgspec.structs.replace(entry, min_width=64, min_height=64, max_sequence_length=16)
    model = build_full_size(entry, "cpu")
    generation = a_generation(entry, width=128, steps=2)
    batch = finished(model, begun(model, generation))
    assert batch.latents.isfinite().all()
    assert snapshot(model, batch).to_bytes()
    (frames,) = model.decode(batch)
    assert frames.shape == (generation.frames, 64, 128, 3)
    assert model.pipeline.transformer.dtype == torch.bfloat16
