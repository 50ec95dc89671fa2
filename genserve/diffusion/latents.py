"""A request's latents and sampler state as bytes, and back; not where the bytes are kept.

The bytes are a safetensors file whose metadata holds one JSON header under ``genserve``: which model, which
generation, after which step, the sampler's plain values, and a SHA-256 over header and tensors. Prompt embeddings
are not in it: they are made again from the text, one prompt at a time, with the same bits. Going on from loaded bytes
gives bit for bit what going on in memory gives.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError

from genserve.diffusion.denoising import Conditioning, Denoising
from genserve.diffusion.generation import Generation
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.sampler_state import dump_changes, restore_changes
from genserve.diffusion.streams import HostCopy
from genserve.errors import CallerError

FORMAT = 1


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the tensors belong to; ``components`` are the sampler's and guider's changed attributes."""

    format: int = FORMAT
    model: str
    fingerprint: str
    generation: str
    step_index: int
    components: dict[str, Any]
    sha256: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """A member between two steps, with tensors of its own on their way to the host; to be made bytes at leisure."""

    header: Header
    copy: HostCopy

    def to_bytes(self) -> bytes:
        """The file's bytes, equal for equal states; may run on another thread while the batch goes on."""
        tensors = dict(sorted(self.copy.wait().items()))
        header = msgspec.structs.replace(self.header, sha256=_digest(self.header, tensors))
        return safetensors.torch.save(tensors, {"genserve": msgspec.json.encode(header).decode()})


def snapshot(model: DiffusionModel, denoising: Denoising, index: int = 0) -> Snapshot:
    """Copy one member now, so that stepping on does not change it."""
    member = denoising.members[index]
    tensors = {"latents": denoising.latents[index : index + 1], "generator": member.generator.get_state()}
    header = Header(
        model=denoising.model,
        fingerprint=model.fingerprint,
        generation=member.generation.digest,
        step_index=denoising.step_index,
        components=dump_changes(member.components, member.prepared, tensors),
    )
    return Snapshot(header, HostCopy(tensors))


def save(model: DiffusionModel, denoising: Denoising, index: int = 0) -> bytes:
    """One member of a batch as bytes, between two steps."""
    return snapshot(model, denoising, index).to_bytes()


def load(
    model: DiffusionModel, generation: Generation, data: bytes, *, conditioning: Conditioning | None = None
) -> Denoising:
    """A batch of one that goes on where ``save`` was called; encodes the prompt unless given.

    Raises CallerError ``checkpoint_corrupt`` for bytes that are not as written, and ``checkpoint_mismatch`` for those
    of another format, model, checkpoint folder or generation.
    """
    header, tensors = _parse(data)
    _check_same("format", header.format, FORMAT)
    _check_same("model", header.model, model.entry.name)
    _check_same("weights", header.fingerprint, model.fingerprint)
    _check_same("generation", header.generation, generation.digest)
    conditionings = [conditioning] if conditioning else model.encode([generation])
    denoising = model.prepare([generation], conditionings)
    member = denoising.members[0]
    _check_same("samplers", _classes(header.components), {n: type(c).__name__ for n, c in member.components.items()})
    _check_same("latents", _layout(tensors["latents"]), _layout(denoising.latents))
    restore_changes(member.components, header.components, tensors, device=model.device)
    member.generator.set_state(tensors["generator"])
    denoising.state.latents = tensors["latents"].to(model.device)
    denoising.step_index = header.step_index
    return denoising


def read_header(data: bytes) -> Header:
    """The header alone, unverified; raises CallerError ``checkpoint_corrupt``."""
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + length])["__metadata__"]
        return msgspec.json.decode(metadata["genserve"], type=Header)
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise CallerError("checkpoint_corrupt", f"not a latents checkpoint: {error}") from error


def _parse(data: bytes) -> tuple[Header, dict[str, torch.Tensor]]:
    header = read_header(data)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError) as error:
        raise CallerError("checkpoint_corrupt", f"latents checkpoint of {header.model}: {error}") from error
    actual = _digest(header, tensors)
    if actual != header.sha256:
        message = f"latents checkpoint of {header.model} has digest {actual}, but was written with {header.sha256}"
        raise CallerError("checkpoint_corrupt", message)
    return header, tensors


def _digest(header: Header, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(header, sha256="")))
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {_layout(tensor)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_same(what: str, saved: object, ours: object) -> None:
    if saved != ours:
        raise CallerError("checkpoint_mismatch", f"latents checkpoint is of {what} {saved}, not {ours}")


def _classes(components: dict[str, Any]) -> dict[str, str]:
    return {name: saved["class"] for name, saved in components.items()}


def _layout(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
