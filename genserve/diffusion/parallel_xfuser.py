"""Sequence parallelism by xfuser's USP: Ulysses and ring together, so that heads need not divide among ranks.

Tokens are split and gathered as with diffusers' context parallelism (see parallel_context); only the attention is
xfuser's, on groups of ours. Ranks next to each other exchange heads for tokens (Ulysses), as many as divide the heads;
ranks that far apart pass keys and values on (ring).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)

from genserve.diffusion.denoising import Denoising
from genserve.diffusion.parallel_context import ContextParallel
from genserve.diffusion.parallel_group import Group
from genserve.diffusion.process_groups import default_group
from genserve.errors import CallerError, GenServeError

EXCLUDED = -10_000.0
"""What a filler key scores, before scaling: exp(EXCLUDED * scale) is 0 for heads of any size in use."""

EXTRA_CHANNELS = 8
"""Fused attention takes heads in multiples of 8 channels."""


def require_xfuser(pipeline: Any) -> None:
    """Raises CallerError ``backend_unavailable`` that says what is missing, before xfuser is imported."""
    missing = ""
    if not torch.accelerator.is_available() or pipeline.device.type == "cpu":
        missing = "xfuser runs on accelerators only, and this process has none"
    elif importlib.util.find_spec("xfuser") is None:
        missing = "xfuser is not installed: it comes with genserve[gpu]"
    if missing:
        raise CallerError("backend_unavailable", f"{missing}; use the backend ulysses")


def build_xfuser(pipeline: Any) -> XFuser:
    """xfuser's attention for a pipeline on an accelerator; raises CallerError ``backend_unavailable``."""
    require_xfuser(pipeline)
    try:
        return XFuser(pipeline, long_context_attention(pipeline.dtype))
    except (ImportError, AttributeError, RuntimeError, OSError) as error:  # a package that fits neither torch nor GPU
        raise CallerError("backend_unavailable", f"xfuser does not load: {error}; use the backend ulysses") from error


def long_context_attention(dtype: torch.dtype) -> Any:
    """xfuser's attention with the kernel for that type; raises ImportError and the like where it does not load."""
    from xfuser.core.long_ctx_attention import xFuserLongContextAttention
    from yunchang.globals import HAS_FLASH_ATTN, PROCESS_GROUP
    from yunchang.kernels import AttnType
    from yunchang.ring import utils

    # xfuser 0.7 imports this whatever the device, calls it on NPUs only, and no released yunchang has it
    if not hasattr(utils, "update_npu_out"):
        utils.update_npu_out = None
    PROCESS_GROUP.ULYSSES_PG = default_group()  # asked for while building; each switch sets the real ones
    if dtype == torch.float32:
        kernel = AttnType.TORCH_EFFICIENT
    else:
        kernel = AttnType.FA if HAS_FLASH_ATTN else AttnType.TORCH_FLASH
    return xFuserLongContextAttention(attn_type=kernel)


class XFuser(ContextParallel):
    """Every denoiser of one pipeline on a group, with ``attention`` in place of diffusers'.

    ``attention`` is an xFuserLongContextAttention: called with a module, query, key and value (batch, this rank's
    tokens, heads, channels), equally many tokens on every rank, it exchanges over ``ulysses_pg`` and ``ring_pg``.
    """

    def __init__(self, pipeline: Any, attention: Any) -> None:
        super().__init__(pipeline, "ulysses", backend=_USP)
        self.name = "xfuser"
        self._attention = attention
        self._heads = [denoiser.module.config.num_attention_heads for denoiser in self._denoisers]
        self._is_exact_in_rings = all(denoiser.module.dtype != torch.float32 for denoiser in self._denoisers)

    def check(self, denoising: Denoising, degree: int) -> None:
        """Each rank needs a token. Rings need half precision: the kernel for float32 pads what they merge by."""
        shortest = min(min(denoiser.lengths(denoising)) for denoiser in self._denoisers)
        is_ring = math.gcd(degree, *self._heads) < degree
        is_float32_kernel = denoising.latents.device.type != "cpu" and not self._is_exact_in_rings
        if shortest < degree or (is_ring and is_float32_kernel):
            message = f"{denoising.model} has {self._heads[0]} heads and {shortest} tokens for {degree} GPUs"
            raise GenServeError("unsupported_degree", message)

    def _point_at(self, group: Group, denoising: Denoising) -> None:
        super()._point_at(group, denoising)
        ulysses, ring = layout(group.degree, group.rank, self._heads)
        self._attention.ulysses_pg = _part(group, ulysses)
        self._attention.ring_pg = _part(group, ring)
        shares = rank_lengths(self._denoisers[0].lengths(denoising), group.degree)
        config: Any = self._config
        config.usp = _Exchange(self._attention, longest=max(shares), is_even=len(set(shares)) == 1)


def layout(degree: int, rank: int, heads: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ranks with which one exchanges heads, and those with which it passes keys on; their counts multiply."""
    width = math.gcd(degree, *heads)
    first = rank - rank % width
    return tuple(range(first, first + width)), tuple(range(rank % width, degree, width))


def rank_lengths(lengths: Sequence[int], degree: int) -> tuple[int, ...]:
    """How many tokens of all sequences together each rank has, where the first ranks have what is over."""
    return tuple(sum(n // degree + (rank < n % degree) for n in lengths) for rank in range(degree))


def _part(group: Group, ranks: tuple[int, ...]) -> Any:
    """A group of one is torch's default group, which is asked for by None."""
    if len(ranks) == 1:
        return None
    return group.tensors if len(ranks) == group.degree else group.part(ranks)


class _Exchange:
    """One attention over the tokens of all ranks.

    Shares of uneven length are filled up to the longest. The exchange takes no mask, so that heads get a channel in
    which every query has 1, a filler key EXCLUDED and every other key 0: nothing attends to fillers.
    """

    def __init__(self, attention: Any, *, longest: int, is_even: bool) -> None:
        self._attention = attention
        self._longest = longest
        self._is_even = is_even

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        tokens, channels = query.shape[1], query.shape[3]
        scale = channels**-0.5 if scale is None else scale
        if not self._is_even:
            query, key, value = self._filled(query, 1.0), self._filled(key, 0.0), self._filled(value, 0.0)
            key[:, tokens:, :, channels] = EXCLUDED
        out: torch.Tensor = self._attention(
            None, query.contiguous(), key.contiguous(), value.contiguous(), softmax_scale=scale
        )
        return out[:, :tokens, :, :channels]

    def _filled(self, tensor: torch.Tensor, marker: float) -> torch.Tensor:
        batch, tokens, heads, channels = tensor.shape
        filled = tensor.new_zeros(batch, self._longest, heads, channels + EXTRA_CHANNELS)
        filled[:, :tokens, :, :channels] = tensor
        filled[..., channels] = marker
        return filled


def _usp_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    _parallel_config: Any = None,
) -> torch.Tensor:
    """As diffusers' backends have it; attention to a whole text, which is not split, is as without a group."""
    if _parallel_config is None:
        return dispatch_attention_fn(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)  # type: ignore[no-any-return]
    if attn_mask is not None or is_causal or enable_gqa:
        raise GenServeError("unsupported_degree", "the attention of this model is masked, which USP cannot do")
    return _parallel_config.context_parallel_config.usp(query, key, value, scale)  # type: ignore[no-any-return]


def _register() -> Any:
    """Make the attention known to diffusers, as a name beside those of its enumeration."""
    name = str.__new__(AttentionBackendName, "genserve_usp")
    name._name_, name._value_ = "GENSERVE_USP", "genserve_usp"
    _AttentionBackendRegistry.register(name, supports_context_parallel=True)(_usp_attention)
    return name


_USP = _register()
