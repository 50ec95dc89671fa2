"""Sequence parallelism by diffusers' context parallelism, on any device; not for choosing groups.

``enable_parallelism`` of diffusers wants an accelerator and the global world. Here the same configuration is built by
hand on a group of ours, so that it works on a CPU, on any group, and can be changed between two steps: while a
group is active a switch to another one only changes what the configuration points at.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from diffusers.hooks.context_parallel import apply_context_parallel, remove_context_parallel
from diffusers.hooks.hooks import HookRegistry, ModelHook
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.attention_processor import Attention

from genserve.diffusion.denoising import Denoising
from genserve.diffusion.parallel_group import Group
from genserve.diffusion.parallel_plans import FamilyPlan, find_plan
from genserve.errors import CallerError, GenServeError

RING_ATTENTION = ("cuda", "xpu")
"""Devices whose native attention answers its log-sum-exp, without which shares of keys cannot be merged."""


GATHER = "genserve_gather"


class _Line:
    """A group as diffusers asks for it: the one dimension of a device mesh."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def get_group(self) -> Any:
        return self._group.tensors

    def size(self) -> int:
        return self._group.degree


class _Gather(ModelHook):  # type: ignore[misc]
    """Put the ranks' shares of the prediction together, on every rank.

    diffusers' own hook leaves uneven shares to a collective that gloo refuses; here they are padded to the longest.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self._dim = dim
        self.group: Group | None = None
        self.length = 0
        """Tokens of all ranks together."""

    def post_forward(self, module: Any, output: torch.Tensor) -> torch.Tensor:
        group = self.group
        assert group is not None
        shares = [len(share) for share in torch.arange(self.length).tensor_split(group.degree)]
        missing = shares[0] - output.shape[self._dim]
        if missing:
            filler = output.narrow(self._dim, 0, 1).repeat_interleave(missing, self._dim)
            output = torch.cat([output, filler], self._dim)
        rows = group.degree * output.shape[0]
        every = torch.empty((rows, *output.shape[1:]), dtype=output.dtype, device=output.device)
        group.tensors._allgather_base(every, output.contiguous()).wait()
        parts = [p.narrow(self._dim, 0, share) for p, share in zip(every.chunk(group.degree), shares, strict=True)]
        return torch.cat(parts, self._dim)


class _Denoiser:
    """One denoiser of a pipeline with its plan, and whether the hooks are on it."""

    def __init__(self, module: Any, plan: FamilyPlan) -> None:
        self.module = module
        self.plan = plan
        attentions = [m for m in module.modules() if isinstance(m, Attention | AttentionModuleMixin)]
        self.attentions = [m for m in attentions if hasattr(m, "processor")]
        self.alone = [m.processor for m in self.attentions]
        self.backends = [getattr(processor, "_attention_backend", None) for processor in self.alone]
        self.splits = {name: entry for name, entry in plan.hooks.items() if isinstance(entry, dict)}
        self.gathers = {name: _Gather(e.gather_dim) for name, e in plan.hooks.items() if not isinstance(e, dict)}

    def lengths(self, denoising: Denoising) -> tuple[int, ...]:
        """The token sequences that are split."""
        return self.plan.lengths(self.module, denoising.state)

    def attach(self, config: ParallelConfig, backend: Any = None) -> None:
        """Split, gather and exchange under that configuration from the next forward on; about a millisecond."""
        for attention in self.attentions:
            if self.plan.processor is not None:
                attention.set_processor(self.plan.processor())
            attention.processor._parallel_config = config
            if backend is not None:
                attention.processor._attention_backend = backend
        apply_context_parallel(self.module, config.context_parallel_config, self.splits)
        for name, gather in self.gathers.items():
            HookRegistry.check_if_exists_or_initialize(self.module.get_submodule(name)).register_hook(gather, GATHER)

    def detach(self) -> None:
        remove_context_parallel(self.module, self.splits)
        for name in self.gathers:
            HookRegistry.check_if_exists_or_initialize(self.module.get_submodule(name)).remove_hook(GATHER)
        for attention, processor, backend in zip(self.attentions, self.alone, self.backends, strict=True):
            attention.set_processor(processor)
            if self.plan.processor is None:
                processor._parallel_config, processor._attention_backend = None, backend


class ContextParallel:
    """Every denoiser of one pipeline on a group of processes; ``mode`` is ulysses or ring.

    ``backend`` is the attention that its processors call while a group is active. By default Ulysses keeps theirs, and
    ring takes PyTorch's flash attention, which tells the log-sum-exp that shares are merged by (bfloat16 or float16).
    """

    def __init__(self, pipeline: Any, mode: str = "ulysses", *, backend: Any = None) -> None:
        self.name = self._mode = mode
        self._backend = backend or (AttentionBackendName._NATIVE_FLASH if mode == "ring" else None)
        if mode == "ring" and pipeline.device.type not in RING_ATTENTION:
            message = f"the attention of {pipeline.device.type} gives no log-sum-exp, which ring attention merges by"
            raise CallerError("backend_unavailable", f"{message}: use ulysses")
        found = [(c, find_plan(c)) for c in pipeline.components.values()]
        self._denoisers = [_Denoiser(module, plan) for module, plan in found if plan is not None]
        if not self._denoisers:
            raise CallerError("unsupported_family", f"no denoiser of {type(pipeline).__name__} can be made parallel")
        self._group: Group | None = None
        self._config: ContextParallelConfig | None = None
        logging.getLogger("diffusers.hooks.context_parallel").addFilter(_is_news)

    def check(self, denoising: Denoising, degree: int) -> None:
        """Heads have to divide evenly among ranks (Ulysses), and each rank needs a token."""
        for denoiser in self._denoisers:
            heads = denoiser.module.config.num_attention_heads
            shortest = min(denoiser.lengths(denoising))
            if (self._mode == "ulysses" and heads % degree) or shortest < degree:
                message = f"{denoising.model} has {heads} heads and {shortest} tokens for {degree} GPUs"
                raise GenServeError("unsupported_degree", message)

    def switch(self, group: Group | None, denoising: Denoising | None = None) -> None:
        if group is None or denoising is None:
            self._detach()
            return
        self.check(denoising, group.degree)
        if self._config is None:
            self._attach(group)
        self._point_at(group, denoising)

    def _attach(self, group: Group) -> None:
        self._config = ContextParallelConfig(**{f"{self._mode}_degree": group.degree})
        both = ParallelConfig(context_parallel_config=self._config)
        for denoiser in self._denoisers:
            denoiser.attach(both, self._backend)

    def _detach(self) -> None:
        if self._config is not None:
            for denoiser in self._denoisers:
                denoiser.detach()
        self._group = self._config = None

    def _point_at(self, group: Group, denoising: Denoising) -> None:
        config = self._config
        assert config is not None
        is_uneven = False
        for denoiser in self._denoisers:
            lengths = denoiser.lengths(denoising)
            is_uneven = is_uneven or any(length % group.degree for length in lengths)
            for gather in denoiser.gathers.values():
                gather.group, gather.length = group, lengths[0]
        setattr(config, f"{self._mode}_degree", group.degree)
        setattr(config, f"{self._mode}_anything", is_uneven)
        if group is not self._group:
            line = _Line(group)
            config._rank, config._world_size, config._mesh = group.rank, group.degree, line
            config._flattened_mesh = config._ring_mesh = config._ulysses_mesh = line
            config._ring_local_rank = config._ulysses_local_rank = group.rank
        self._group = group


def _is_news(record: logging.LogRecord) -> bool:
    """Wan's plan also splits timesteps, in pipelines that have one per token; in the others it says so, once."""
    return "split will not be applied" not in record.getMessage()
