"""A batch in flight between two steps: its tensors, and each member's own sampler; not for running steps (see model).

Joining and splitting happen at step boundaries only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import BlockState

from genserve.diffusion.generation import Generation
from genserve.diffusion.members import together
from genserve.errors import CallerError

Values = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """What the text encoders made of one request: tensors with one row each, and the kinds of argument they are."""

    values: Mapping[str, Any]
    kinds: Mapping[str, list[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One request of a batch, with what no other may touch: samplers and guiders by name, and its generator.

    ``prepared`` is what the components' attributes were before the first step; a checkpoint holds only what changed.
    """

    generation: Generation
    conditioning: Conditioning
    components: dict[str, Any]
    prepared: Mapping[str, Values]
    generator: torch.Generator


@dataclass(slots=True, eq=False)
class Denoising:
    """A batch after ``step_index`` of ``steps`` steps.

    ``state`` is what the loop's blocks read and write; ``batched`` names its values that have a row per member, such
    as latents (batch, ...) in the layout of the family.
    """

    model: str
    members: tuple[Member, ...]
    state: BlockState
    batched: frozenset[str]
    components: dict[str, Any]
    step_index: int = 0

    @property
    def steps(self) -> int:
        """How many steps the sampler takes; more than was asked for where one has substeps."""
        return len(self.state.timesteps)

    @property
    def is_done(self) -> bool:
        return self.step_index >= self.steps

    @property
    def latents(self) -> torch.Tensor:
        """All members' latents, in the family's layout and dtype, on the model's device."""
        return self.state.latents  # type: ignore[no-any-return]

    @property
    def generations(self) -> tuple[Generation, ...]:
        return tuple(member.generation for member in self.members)


def join(parts: Sequence[Denoising]) -> Denoising:
    """One batch out of several of one model, batch key and step index; the parts must not be stepped any more.

    Raises CallerError ``batch_mismatch`` naming both sides.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        _check_alike(first, part)
    return _batch(
        first,
        members=[member for part in parts for member in part.members],
        values=_joined([vars(part.state) for part in parts], first.batched),
    )


def split(denoising: Denoising, keep: Sequence[int]) -> Denoising:
    """The members at those indices, in that order, as a batch of their own; the original must not be stepped any more.

    Raises CallerError ``batch_mismatch`` for an empty, repeated or unknown index.
    """
    if not keep or len(set(keep)) != len(keep) or not set(keep) <= set(range(len(denoising.members))):
        raise CallerError("batch_mismatch", f"cannot keep {list(keep)} of {len(denoising.members)} members")
    return _batch(
        denoising,
        members=[denoising.members[index] for index in keep],
        values=rows_of(vars(denoising.state), keep, denoising.batched),
    )


def find_batched(one: Values, two: Values) -> frozenset[str]:
    """The names whose leading length grows with the batch, from the same state prepared for one and for two."""
    names: set[str] = set()
    for name, value in one.items():
        if isinstance(value, dict):
            names |= find_batched(value, two[name])
        elif isinstance(value, torch.Tensor | list) and _length(two[name]) == 2 * _length(value) > 0:
            names.add(name)
    return frozenset(names)


def rows_of(values: Values, keep: Iterable[int], batched: Collection[str]) -> Values:
    """Those rows of what is batched, copied; everything else as it is."""
    keep = list(keep)

    def pick(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return rows_of(value, keep, batched)
        if name not in batched or value is None:
            return value
        return value[keep] if isinstance(value, torch.Tensor) else [value[index] for index in keep]

    return {name: pick(name, value) for name, value in values.items()}


def _joined(states: Sequence[Values], batched: Collection[str]) -> Values:
    def cat(name: str) -> Any:
        every = [state[name] for state in states]
        if isinstance(every[0], dict):
            return _joined(every, batched)
        if name not in batched or every[0] is None:
            return every[0]
        return torch.cat(every) if isinstance(every[0], torch.Tensor) else [row for rows in every for row in rows]

    return {name: cat(name) for name in states[0]}


def _batch(like: Denoising, *, members: Sequence[Member], values: Values) -> Denoising:
    return Denoising(
        model=like.model,
        members=tuple(members),
        state=BlockState(**values),
        batched=like.batched,
        components=together([member.components for member in members]),
        step_index=like.step_index,
    )


def _check_alike(first: Denoising, other: Denoising) -> None:
    sides = [(part.model, part.step_index, part.generations[0].batch_key) for part in (first, other)]
    shapes = [
        {name: value.shape[1:] for name, value in vars(part.state).items() if _is_row_tensor(part, name, value)}
        for part in (first, other)
    ]
    if sides[0] != sides[1] or shapes[0] != shapes[1]:
        raise CallerError("batch_mismatch", f"cannot share a batch: {sides[0]} with {sides[1]}")


def _is_row_tensor(part: Denoising, name: str, value: Any) -> bool:
    return name in part.batched and isinstance(value, torch.Tensor)


def _length(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.shape[0] if value.ndim else 0
    return len(value) if isinstance(value, list) else 0
