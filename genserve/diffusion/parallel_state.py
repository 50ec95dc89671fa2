"""A batch on its way to other processes: a small header and the tensors as they are, nothing to prepare again.

The header is msgpack and says what the next step reads: the loop's values and each member's samplers, guiders and
generator. Tensors are in one buffer per kind of device. Ranks that join get the buffers by broadcast, a worker that
takes a paused request over gets everything as bytes. Between processes of one cell and of one version only, and never
stored: whoever needs a file takes a checkpoint (see latents).
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Sequence
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
    Layout,
    aligned,
    dtype_name,
    empty_buffers,
    is_aligned,
    layouts_of,
    pieces_of,
    views_of,
)
from genserve.diffusion.parallel_world import Group
from genserve.diffusion.wires import Buffer
from genserve.errors import CallerError, InvariantBroken

CONFIGURATION = "_internal_dict"
"""The attribute that every process has from the checkpoint folder; all others of a sampler travel."""
MAGIC = b"GSPARCEL"
PREFIX = struct.Struct("<8sQ")
"""Ahead of a batch in bytes: what it is, and its header's length."""
PARCEL = 1
"""The word with which a batch is announced."""
TENSOR, ARRAY, GENERATOR, DTYPE = range(4)

Plain = dict[str, Any]


class Header(msgspec.Struct, frozen=True):
    """Where the tensors are, which of them are the generators' states, and the rest, which names tensors by number."""

    model: str
    fingerprint: str
    layouts: tuple[Layout, ...]
    generators: tuple[int, ...]
    content: bytes


class Packed(msgspec.Struct, frozen=True):
    """One member: what it makes, and its samplers' and guiders' classes and attributes by component.

    ``prepared`` names the attributes that are still as they were before the first step.
    """

    generation: Generation
    classes: dict[str, str]
    attributes: dict[str, Plain]
    prepared: dict[str, tuple[str, ...]]


class Content(msgspec.Struct, frozen=True):
    """A batch without its tensors."""

    step_index: int
    batched: tuple[str, ...]
    members: tuple[Packed, ...]
    values: Plain


class Parcel(msgspec.Struct, frozen=True):
    """A header's bytes, and the buffers (uint8) to be sent, or to be filled by what comes, in this order.

    What is sent may be in more pieces than what it fills, and is gone once the batch goes on.
    """

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
        members=tuple(_packed(member) for member in denoising.members),
        values={name: value for name, value in vars(denoising.state).items() if name in model.loop_values},
    )
    body = msgspec.msgpack.encode(content, enc_hook=numbers.of)
    generators = tuple(numbers.of_tensor(member.generator.get_state()) for member in denoising.members)
    layouts = layouts_of(numbers.tensors)
    header = Header(denoising.model, model.fingerprint, layouts, generators, body)
    return Parcel(msgspec.msgpack.encode(header), pieces_of(layouts, numbers.tensors))


def expect(model: DiffusionModel, header: bytes) -> Parcel:
    """The parcel that a header announces, with buffers of this process that are still to be filled.

    Raises CallerError ``checkpoint_mismatch`` where the header is of another model or checkpoint folder.
    """
    told = msgspec.msgpack.decode(header, type=Header)
    theirs, ours = (told.model, told.fingerprint), (model.entry.name, model.fingerprint)
    if theirs != ours:
        raise CallerError("checkpoint_mismatch", f"a batch of {theirs} cannot go on as {ours}")
    return Parcel(header, empty_buffers(told.layouts, model.device))


def unpack(model: DiffusionModel, parcel: Parcel) -> Denoising:
    """The same batch on this process's model: its next steps have the same bits as the original's.

    Text embeddings are among the loop's values; the members' own, from which a run could begin anew, stay behind.
    """
    header = msgspec.msgpack.decode(parcel.header, type=Header)
    tensors = views_of(header.layouts, parcel.buffers)
    generators = [_generator(tensors[number]) for number in header.generators]

    def read(code: int, data: memoryview) -> Any:
        if code == DTYPE:
            return getattr(torch, bytes(data).decode())
        number = int.from_bytes(data, "little")
        if code == GENERATOR:
            return generators[number]
        return tensors[number] if code == TENSOR else tensors[number].numpy()[()]

    content = msgspec.msgpack.decode(header.content, type=Content, ext_hook=read)
    model.loop_values = frozenset(content.values)  # one that never prepared a batch may have to pack this one
    members = tuple(_member(model, packed, g) for packed, g in zip(content.members, generators, strict=True))
    return Denoising(
        model=header.model,
        members=members,
        state=BlockState(**content.values),
        batched=frozenset(content.batched),
        components=together([member.components for member in members]),
        step_index=content.step_index,
    )


def to_parts(parcel: Parcel) -> tuple[Buffer, ...]:
    """Header and buffers, to be put together by whoever sends them."""
    begin = PREFIX.pack(MAGIC, len(parcel.header)) + parcel.header
    return begin.ljust(aligned(len(begin)), b"\0"), *(b.cpu().numpy().data for b in parcel.buffers)


def is_parcel(content: Buffer) -> bool:
    """Whether the bytes are ``to_parts``'s rather than a checkpoint's."""
    return content[: len(MAGIC)] == MAGIC


def from_bytes(model: DiffusionModel, content: Buffer) -> Denoising:
    """The batch that was packed, in the memory in which it came where that is aligned and may be written to.

    Raises CallerError ``checkpoint_corrupt`` or ``checkpoint_mismatch``.
    """
    come = torch.frombuffer(bytearray(content) if isinstance(content, bytes) else content, dtype=torch.uint8)
    try:
        ends = PREFIX.size + PREFIX.unpack_from(content)[1]
        parcel = expect(model, bytes(content[PREFIX.size : ends]))
    except (msgspec.DecodeError, struct.error) as error:
        raise CallerError("checkpoint_corrupt", f"not a batch of {model.entry.name}: {error}") from error
    sizes = [len(buffer) for buffer in parcel.buffers]
    if aligned(ends) + sum(sizes) != len(come):
        raise CallerError("checkpoint_corrupt", f"a batch of {model.entry.name} arrived in {len(come)} bytes")
    parts = torch.split(come[aligned(ends) :], sizes)
    return unpack(model, Parcel(parcel.header, tuple(map(_placed, parts, parcel.buffers))))


def _placed(part: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """Where it lies, if it can stay there."""
    return part if is_aligned(part) and part.device == buffer.device else buffer.copy_(part)


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
    parcel = expect(model, header)
    for buffer in parcel.buffers:
        group.share(leader, buffer)
    return unpack(model, parcel)


# ── members ──────────────────────────────────────────────────────────────────────────────────────────────


def _packed(member: Member) -> Packed:
    known = member.prepared
    return Packed(
        generation=member.generation,
        classes={name: type(component).__name__ for name, component in member.components.items()},
        attributes={
            name: {key: value for key, value in vars(component).items() if key != CONFIGURATION}
            for name, component in member.components.items()
        },
        prepared={
            name: tuple(k for k, v in vars(component).items() if k in known[name] and v is known[name][k])
            for name, component in member.components.items()
        },
    )


def _member(model: DiffusionModel, packed: Packed, generator: torch.Generator) -> Member:
    components = {name: copy.copy(getattr(model.pipeline, name)) for name in packed.classes}
    ours = {name: type(component).__name__ for name, component in components.items()}
    if ours != packed.classes:
        raise CallerError("checkpoint_mismatch", f"a batch with {packed.classes} cannot go on with {ours}")
    for name, component in components.items():
        configuration = vars(component)[CONFIGURATION]
        vars(component).clear()
        vars(component).update({CONFIGURATION: configuration, **packed.attributes[name]})
    prepared = {
        name: {key: vars(component)[key] for key in (CONFIGURATION, *packed.prepared[name])}
        for name, component in components.items()
    }
    return Member(packed.generation, Conditioning({}, {}), components, prepared, generator)


def _generator(state: torch.Tensor) -> torch.Generator:
    """Torch reads a state from where its memory begins, so it must not be a part of a buffer."""
    generator = torch.Generator("cpu")
    generator.set_state(state.clone())
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
