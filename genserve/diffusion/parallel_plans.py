"""Where each family's denoiser splits its tokens and gathers them again; not the splitting itself.

Flux and Wan carry diffusers' own plans. Stable Diffusion 3 has none, because its attention calls torch directly:
its plan is here, with an attention that goes through diffusers' dispatcher and is otherwise the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import torch
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention_dispatch import dispatch_attention_fn

SD3_PLAN: dict[str, Any] = {
    "transformer_blocks.0": {
        "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False),
        "encoder_hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False),
    },
    "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
}


class FamilyPlan(msgspec.Struct, frozen=True):
    """``lengths`` are the token sequences that are split, given the denoiser and the values of its loop; the first
    is the one that is gathered again.

    ``processor`` replaces the family's attention while a group is active; None keeps it.
    """

    hooks: dict[str, Any]
    lengths: Callable[[Any, Any], tuple[int, ...]]
    processor: Callable[[], Any] | None = None


class JointAttention:
    """Attention over image and text tokens together, as Stable Diffusion 3 has it, by way of the dispatcher.

    Tokens are (batch, tokens, channels); under context parallelism they are this rank's share of either sequence.
    """

    _attention_backend = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> Any:
        """The image tokens after attention; with text, (image tokens, text tokens)."""
        images = hidden_states.shape[1]
        query, key, value = _heads(attn, hidden_states, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        if encoder_hidden_states is not None:
            names = ("add_q_proj", "add_k_proj", "add_v_proj")
            added = _heads(attn, encoder_hidden_states, names, ("norm_added_q", "norm_added_k"))
            query, key, value = (torch.cat(p, dim=1) for p in zip((query, key, value), added, strict=True))
        out = dispatch_attention_fn(
            query, key, value, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        out = out.flatten(2, 3).to(query.dtype)
        image = attn.to_out[1](attn.to_out[0](out[:, :images]))
        if encoder_hidden_states is None:
            return image
        text = out[:, images:]
        return image, text if attn.context_pre_only else attn.to_add_out(text)


def _heads(attn: Any, tokens: torch.Tensor, projections: tuple[str, ...], norms: tuple[str, str]) -> list[torch.Tensor]:
    """Query, key and value as (batch, tokens, heads, channels of a head), normalised where the family does so."""
    rows = [getattr(attn, name)(tokens).unflatten(2, (attn.heads, -1)) for name in projections]
    for index, name in enumerate(norms):
        norm = getattr(attn, name)
        if norm is not None:
            rows[index] = norm(rows[index])
    return rows


def _sd3_lengths(denoiser: Any, values: Any) -> tuple[int, ...]:
    height, width = values.latents.shape[-2:]
    patch = denoiser.config.patch_size
    return (height // patch * (width // patch), values.prompt_embeds.shape[1])


def _flux_lengths(_: Any, values: Any) -> tuple[int, ...]:
    return (values.latents.shape[1], values.prompt_embeds.shape[1])


def _wan_lengths(denoiser: Any, values: Any) -> tuple[int, ...]:
    tokens = 1
    for side, patch in zip(values.latents.shape[-3:], denoiser.config.patch_size, strict=True):
        tokens *= side // patch
    return (tokens,)


def find_plan(denoiser: Any) -> FamilyPlan | None:
    """The plan of that module's class, None for one that has none."""
    name = type(denoiser).__name__
    if name == "SD3Transformer2DModel":
        return FamilyPlan(SD3_PLAN, _sd3_lengths, JointAttention)
    lengths = {"FluxTransformer2DModel": _flux_lengths, "WanTransformer3DModel": _wan_lengths}.get(name)
    return FamilyPlan(denoiser._cp_plan, lengths) if lengths is not None else None
