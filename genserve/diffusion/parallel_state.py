"""A batch on its way to other processes: a small header and the tensors as they are, nothing to prepare again.

The header is msgpack and says what the next step reads: the loop's values, each member's samplers, guiders and
generator, and the small tensors. From it the batch is built while the large ones are still coming, in buffers. Ranks
that join get those by broadcast, a worker that takes a paused request over as bytes. Between processes of one cell and
of one version only, and never stored: whoever needs a file takes a checkpoint (see latents).
"""

from __future__ import annotations

import copy
import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from diffusers.modular_pipelines.modular_pipeline import BlockState
from msgspec.msgpack import Ext

from genserve.diffusion.denoising import Conditioning, Denoising, Member
from genserve.diffusion.generation import Generation
from genserve.diffusion.members import together
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.parallel_buffers import (
    SMALL,
    Layout,
    dtype_name,
    empty_buffers,
    filled_buffers,
    layouts_of,
    views_of,
)
from genserve.diffusion.parallel_group import Group
from genserve.diffusion.wires import Buffer, Fill
from genserve.errors import CallerError, InvariantBroken

MAGIC = b"GSPARCEL"
PREFIX = struct.Struct("<8sQ")
"""Ahead of a batch in bytes: what it is, and its header's length."""
PARCEL = 1
"""The word with which a batch is announced."""
TENSOR, ARRAY, GENERATOR, DTYPE = range(4)

Plain = dict[str, Any]


class Header(msgspec.Struct, frozen=True):
    """Where the tensors are, the small ones, the generators' states, and the rest, which names tensors by number."""

    model: str
    fingerprint: str
    layouts: tuple[Layout, ...]
    small: bytearray
    generators: tuple[bytearray, ...]
    content: bytes


class Packed(msgspec.Struct, frozen=True):
    """One member: what it makes, and its samplers' and guiders' classes and attributes by component.

    ``own`` names the attributes that every process has from the checkpoint folder, which do not travel; ``prepared``
    those that are still as they were before the first step.
    """

    generation: Generation
    classes: dict[str, str]
    attributes: dict[str, Plain]
    own: dict[str, tuple[str, ...]]
    prepared: dict[str, tuple[str, ...]]


class Content(msgspec.Struct, frozen=True):
    """A batch without its tensors."""

    step_index: int
    batched: tuple[str, ...]
    members: tuple[Packed, ...]
    values: Plain


class Parcel(msgspec.Struct, frozen=True):
    """A header's bytes, and the buffers (uint8) that follow it; what they are of is gone once the batch goes on."""

    header: bytes
    buffers: tuple[torch.Tensor, ...]


def pack(model: DiffusionModel, denoising: Denoising) -> Parcel:
    """The batch as it is now, to be sent at once. What only the last step left behind is not in it.

    Raises InvariantBroken ``state_not_packed`` for a value that is neither plain, tensor nor a member's generator.
    """
    numbers = _Numbers([member.generator for member in denoising.members])
    content = Content(
        step_index=denoising.step_index,
        batched=tuple(sorted(denoising.batched)),
        members=tuple(_packed(model, member) for member in denoising.members),
        values={name: value for name, value in vars(denoising.state).items() if name in model.loop_values},
    )
    body = msgspec.msgpack.encode(content, enc_hook=numbers.of)
    states = tuple(bytearray(member.generator.get_state().numpy()) for member in denoising.members)
    layouts = layouts_of(numbers.tensors)
    small, *large = filled_buffers(layouts, numbers.tensors)
    header = Header(denoising.model, model.fingerprint, layouts, bytearray(small.numpy()), states, body)
    return Parcel(msgspec.msgpack.encode(header), tuple(large))


def expect(model: DiffusionModel, header: bytes) -> tuple[Denoising, tuple[torch.Tensor, ...]]:
    """The batch that a header announces, on this process's model, and the buffers that are still to be filled.

    Its next steps have the same bits as the original's. Text embeddings are among the loop's values; the members' own,
    from which a run could begin anew, stay behind.
    Raises CallerError ``checkpoint_mismatch`` where the header is of another model or checkpoint folder.
    """
    told = msgspec.msgpack.decode(header, type=Header)
    theirs, ours = (told.model, told.fingerprint), (model.entry.name, model.fingerprint)
    if theirs != ours:
        raise CallerError("checkpoint_mismatch", f"a batch of {theirs} cannot go on as {ours}")
    buffers = empty_buffers(told.layouts, model.device)
    buffers[SMALL].numpy().data[:] = told.small
    return _built(model, told, views_of(told.layouts, buffers)), buffers[SMALL + 1 :]


def _built(model: DiffusionModel, told: Header, tensors: Sequence[torch.Tensor]) -> Denoising:
    generators = [_generator(state) for state in told.generators]

    def read(code: int, data: memoryview) -> Any:
        if code == DTYPE:
            return getattr(torch, bytes(data).decode())
        number = int.from_bytes(data, "little")
        if code == GENERATOR:
            return generators[number]
        return tensors[number] if code == TENSOR else tensors[number].numpy()[()]

    content = msgspec.msgpack.decode(told.content, type=Content, ext_hook=read)
    model.loop_values = frozenset(content.values)  # one that never prepared a batch may have to pack this one
    members = tuple(_member(model, packed, g) for packed, g in zip(content.members, generators, strict=True))
    return Denoising(
        model=told.model,
        members=members,
        state=BlockState(**content.values),
        batched=frozenset(content.batched),
        components=together([member.components for member in members]),
        step_index=content.step_index,
    )


def to_parts(parcel: Parcel) -> tuple[Buffer, ...]:
    """The header, by which it is known for a parcel, and the buffers, to be put together by whoever sends them."""
    begin = PREFIX.pack(MAGIC, len(parcel.header)) + parcel.header
    return begin, *(buffer.cpu().numpy().data for buffer in parcel.buffers)


def is_parcel(content: Buffer) -> bool:
    """Whether the bytes are ``to_parts``'s rather than a checkpoint's."""
    return content[: len(MAGIC)] == MAGIC


def from_bytes(model: DiffusionModel, content: Buffer, rest: Fill | None = None) -> Denoising:
    """The batch that was packed: all of its bytes, or the first of the parts, and where the rest comes from.

    Raises CallerError ``checkpoint_corrupt`` or ``checkpoint_mismatch``.
    """
    try:
        ends = PREFIX.size + PREFIX.unpack_from(content)[1]
        denoising, buffers = expect(model, bytes(content[PREFIX.size : ends]))
    except (msgspec.DecodeError, struct.error) as error:
        raise CallerError("checkpoint_corrupt", f"not a batch of {model.entry.name}: {error}") from error
    if rest is None and sum(map(len, buffers)) != len(content) - ends:
        raise CallerError("checkpoint_corrupt", f"a batch of {model.entry.name} arrived in {len(content)} bytes")
    fill = rest or io.BytesIO(content[ends:]).readinto
    for buffer in buffers:
        on_host = buffer if buffer.device.type == "cpu" else torch.empty_like(buffer, device="cpu")
        fill(on_host.numpy().data)
        if on_host is not buffer:
            buffer.copy_(on_host)
    return denoising


def send(model: DiffusionModel, denoising: Denoising, group: Group) -> None:
    """Give the batch to the group's others, who ``receive`` it; raises GenServeError ``group_lost``."""
    me, parcel = group.members[group.rank], pack(model, denoising)
    group.arrive(me)
    group.meet()
    group.say(PARCEL, parcel.header)
    for buffer in parcel.buffers:
        group.share(me, buffer)


def receive(model: DiffusionModel, group: Group, leader: str) -> Denoising:
    """The batch that the leader sends; raises GenServeError ``group_lost``."""
    group.arrive(leader)
    _, header = group.hear(leader)
    denoising, buffers = expect(model, header)
    for buffer in buffers:
        group.share(leader, buffer)
    return denoising


# ── members ──────────────────────────────────────────────────────────────────────────────────────────────


def _packed(model: DiffusionModel, member: Member) -> Packed:
    known = {name: vars(getattr(model.pipeline, name)) for name in member.components}
    own = _unchanged(member.components, known)
    return Packed(
        generation=member.generation,
        classes={name: type(component).__name__ for name, component in member.components.items()},
        attributes={
            name: {key: value for key, value in vars(component).items() if key not in own[name]}
            for name, component in member.components.items()
        },
        own=own,
        prepared=_unchanged(member.components, member.prepared),
    )


def _unchanged(components: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The attributes that are the very ones of then."""
    return {
        name: tuple(k for k, value in vars(component).items() if k in known[name] and value is known[name][k])
        for name, component in components.items()
    }


def _member(model: DiffusionModel, packed: Packed, generator: torch.Generator) -> Member:
    components = {name: copy.copy(getattr(model.pipeline, name)) for name in packed.classes}
    ours = {name: type(component).__name__ for name, component in components.items()}
    if ours != packed.classes:
        raise CallerError("checkpoint_mismatch", f"a batch with {packed.classes} cannot go on with {ours}")
    for name, component in components.items():
        own = _chosen(component, packed.own[name])
        vars(component).clear()
        vars(component).update(own | packed.attributes[name])
    prepared = {name: _chosen(component, packed.prepared[name]) for name, component in components.items()}
    return Member(packed.generation, Conditioning({}, {}), components, prepared, generator)


def _chosen(component: Any, names: Sequence[str]) -> Plain:
    return {name: vars(component)[name] for name in names}


def _generator(state: bytearray) -> torch.Generator:
    generator = torch.Generator("cpu")
    generator.set_state(torch.frombuffer(state, dtype=torch.uint8))
    return generator


# ── tensors by number ────────────────────────────────────────────────────────────────────────────────────


class _Numbers:
    """Gives each tensor a number, the same one wherever it appears again."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.tensors: list[torch.Tensor] = []
        self._generators = generators
        self._known: dict[int, int] = {}

    def of(self, value: Any) -> Ext:
        """What msgpack cannot say by itself."""
        if isinstance(value, torch.Tensor):
            return Ext(TENSOR, self.of_tensor(value).to_bytes(4, "little"))
        if isinstance(value, np.ndarray | np.generic):
            return Ext(ARRAY, self.of_tensor(torch.as_tensor(value)).to_bytes(4, "little"))
        if isinstance(value, torch.dtype):
            return Ext(DTYPE, dtype_name(value).encode())
        for index, generator in enumerate(self._generators):
            if value is generator:
                return Ext(GENERATOR, index.to_bytes(4, "little"))
        raise InvariantBroken("state_not_packed", f"a {type(value).__name__} cannot be sent to the ranks that join")

    def of_tensor(self, tensor: torch.Tensor) -> int:
        if id(tensor) not in self._known:
            self._known[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return self._known[id(tensor)]
