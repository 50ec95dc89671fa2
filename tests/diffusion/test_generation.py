from __future__ import annotations

from typing import Any

import msgspec

from genserve.diffusion.generation import Generation


def a_generation(**changes: Any) -> Generation:
    fox = Generation(prompt="a fox", width=64, height=32, steps=4, seed=1, guidance_scale=4.5)
    return msgspec.structs.replace(fox, **changes)


def test_any_field_changes_the_digest() -> None:
    changes: list[dict[str, Any]] = [
        {"prompt": "a dog"},
        {"negative_prompt": "a dog"},
        {"width": 32},
        {"height": 64},
        {"frames": 5},
        {"steps": 5},
        {"seed": 2},
        {"guidance_scale": 4.0},
    ]
    digests = {a_generation(**change).digest for change in [{}, *changes]}
    assert len(digests) == 9


def test_the_digest_is_the_same_in_every_process_and_release() -> None:
    assert a_generation().digest == "9fa552dbd03835d0acf12291a2b6c4a7aa48ccc301733fcfdc05cf82cfa22651"


def test_shape_steps_and_guidance_mode_decide_who_shares_a_batch() -> None:
    assert a_generation(seed=2, prompt="a dog", guidance_scale=7.0).batch_key == a_generation().batch_key
    others: list[dict[str, Any]] = [{"width": 32}, {"height": 64}, {"frames": 5}, {"steps": 5}, {"guidance_scale": 1.0}]
    for change in others:
        assert a_generation(**change).batch_key != a_generation().batch_key
