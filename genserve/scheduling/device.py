"""The real Runner: diffusion models on one device, and what it holds of requests between segments.

The only module of this package that imports torch; nothing but a worker imports it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from genserve.diffusion.accelerator import pick_place, total_bytes
from genserve.diffusion.catalog import Catalog
from genserve.diffusion.denoising import Conditioning, Denoising, join, split
from genserve.diffusion.generation import Generation
from genserve.diffusion.latents import load, snapshot
from genserve.diffusion.model import DiffusionModel
from genserve.diffusion.parallel_group import STEP_TIMEOUT_S, Group
from genserve.diffusion.parallel_state import Parcel, expect, from_bytes, is_parcel, pack, to_parts
from genserve.diffusion.transfer import are_embeddings, pack_embeddings, unpack_embeddings
from genserve.diffusion.wires import Fill
from genserve.domain.request import RequestSpec, Stage
from genserve.errors import GenServeError
from genserve.scheduling.faults import Faults
from genserve.scheduling.peers import Peers
from genserve.scheduling.placement import Placement, stages_of
from genserve.scheduling.protocol import Content, Member, World
from genserve.scheduling.residency import Holding, Residency, Tell
from genserve.scheduling.runner import OUT_OF_MEMORY, Held, Offer, Ready
from genserve.scheduling.shelf import ModelShelf

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Kept:
    """One request between segments: its embeddings and, once it has begun, its latents and sampler."""

    attempt: int
    conditioning: Conditioning
    denoising: Denoising | None = None


@dataclass(slots=True)
class _Batch:
    """Requests that share steps, in the order of the rows of ``denoising``, and the group that takes them."""

    members: tuple[Member, ...]
    denoising: Denoising
    group: Any = None


class Device:
    """All models of a catalog on one device; used by the step thread, asked by the event loop.

    The stages that ``placement`` names for this worker are loaded at once, others when they are needed.
    """

    def __init__(
        self,
        catalog: Catalog,
        models_dir: Path,
        *,
        device: str,
        threads: int,
        parallel: str = "ulysses",
        me: str = "",
        placement: Placement | None = None,
        budget_bytes: int = 0,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        torch.set_num_threads(threads)
        self.device = pick_place(device)
        self._peers = Peers(self.device, parallel, step_timeout_s=step_timeout_s)
        shelf = ModelShelf(catalog, models_dir, device=self.device, leaving=self._peers.forget)
        self._models = shelf.models
        self._faults = Faults()
        self._residency = Residency(shelf, budget_bytes=budget_bytes)
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()
        for model, stage in stages_of(me, placement or {}, shelf.models):
            self._faults.run(self._residency.place, model, stage)

    @property
    def is_lost(self) -> bool:
        return self._faults.is_lost

    @property
    def memory_bytes(self) -> int:
        """Memory of the device; 0 where it is the host's."""
        return total_bytes(self.device) or 0

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def resident(self) -> tuple[Holding, ...]:
        return self._residency.resident

    @property
    def displaced(self) -> tuple[Holding, ...]:
        return self._residency.displaced

    def watch(self, tell: Tell) -> None:
        self._residency.watch(tell)

    def keep_for(self, wanted: frozenset[Holding]) -> None:
        self._residency.keep_for(wanted)

    def hold(self, model: str, stage: Stage) -> None:
        self._run(self._residency.hold, model, stage)

    def release(self, model: str, stage: Stage) -> None:
        self._residency.release(model, stage)

    # ── what is held ─────────────────────────────────────────────────────────────────────────────────────

    def holds(self, request_id: str, attempt: int) -> bool:
        return self._find(request_id, attempt) is not None

    def forget(self, request_id: str) -> None:
        with self._lock:
            self._kept.pop(request_id, None)

    def offer(self, request_id: str, attempt: int) -> Offer | None:
        kept = self._find(request_id, attempt)
        if kept is None:
            return None
        if kept.denoising is None:
            return lambda: (pack_embeddings(kept.conditioning),)
        model, denoising = self._models[kept.denoising.model], kept.denoising
        return lambda: to_parts(pack(model, denoising))

    def restore(self, member: Member, content: Content) -> None:
        self._keep(member, self._taken_in(member, content, None))

    def receive(self, member: Member, first: Content, rest: Fill) -> Ready:
        return partial(self._keep, member, self._taken_in(member, first, rest))

    def _taken_in(self, member: Member, content: Content, rest: Fill | None) -> _Kept:
        model, generation = self._models[member.spec.model], generation_of(member.spec)
        if are_embeddings(content):
            return _Kept(member.attempt, unpack_embeddings(content, model.device))
        if is_parcel(content):
            denoising = self._faults.run(from_bytes, model, content, rest)
        else:
            denoising = self._loaded(member, generation, bytes(content))
        if denoising.generations != (generation,):
            raise GenServeError("checkpoint_mismatch", f"the latents of {member.request_id} are of another generation")
        return _Kept(member.attempt, denoising.members[0].conditioning, denoising)

    def _loaded(self, member: Member, generation: Generation, content: bytes) -> Denoising:
        """From a checkpoint, which has no embeddings in it."""
        model = self._models[member.spec.model]
        return load(model, generation, content, conditioning=self._conditioning(member, generation))

    def _conditioning(self, member: Member, generation: Generation) -> Conditioning:
        """The embeddings that are held, else made here."""
        kept = self._find(member.request_id, member.attempt)
        if kept is not None:
            return kept.conditioning
        encode = partial(self._run, self._models[member.spec.model].encode, [generation])
        return self._borrowing(member.spec.model, Stage.ENCODE, encode)[0]  # type: ignore[no-any-return]

    def _borrowing(self, model: str, stage: Stage, work: Callable[[], Any]) -> Any:
        """Do work of another stage than the segment's, whose weights come back where there is no room for both."""
        own = self._residency.newest
        self.hold(model, stage)
        try:
            return work()
        finally:
            if own is not None:
                self.hold(*own)

    def _find(self, request_id: str, attempt: int) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(request_id)
        return kept if kept is not None and kept.attempt == attempt else None

    def _keep(self, member: Member, kept: _Kept) -> None:
        with self._lock:
            self._kept[member.request_id] = kept

    # ── stages ───────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, members: tuple[Member, ...]) -> None:
        model = self._models[members[0].spec.model]
        generations = [generation_of(member.spec) for member in members]
        for member, conditioning in zip(members, self._run(model.encode, generations), strict=True):
            self._keep(member, _Kept(member.attempt, conditioning))

    def begin(self, members: tuple[Member, ...]) -> _Batch:
        """Latents that are not held begin anew, at step 0; whoever expects them further on sees the difference."""
        return _Batch(members, self._run(join, [self._begun(member) for member in members]))

    def _begun(self, member: Member) -> Denoising:
        kept = self._find(member.request_id, member.attempt)
        if kept is not None and kept.denoising is not None:
            return kept.denoising
        model, generation = self._models[member.spec.model], generation_of(member.spec)
        conditioning = self._conditioning(member, generation)
        denoising = self._run(model.prepare, [generation], [conditioning])
        self._keep(member, _Kept(member.attempt, conditioning, denoising))
        return denoising

    def position(self, batch: _Batch) -> int:
        return batch.denoising.step_index

    def step(self, batch: _Batch) -> None:
        model = self._models[batch.denoising.model]
        self._peers.switch(model, batch.denoising, batch.group)
        try:
            self._advance(model, batch)
        except RuntimeError as error:
            raise error if batch.group is None else batch.group.broken(error) from error

    def _advance(self, model: DiffusionModel, batch: _Batch) -> None:
        """One step, to its end on the device; others of a group may be in the middle of it, so it is not repeated."""
        if batch.group is None:
            self._run(model.step, batch.denoising)
            self._faults.run(model.synchronize)
        else:
            self._faults.run(model.step, batch.denoising)
            self._faults.run(batch.group.finish, self.device)

    def without(self, batch: _Batch, request_ids: tuple[str, ...]) -> _Batch:
        keep = [i for i, member in enumerate(batch.members) if member.request_id not in request_ids]
        if not keep:
            return batch
        return _Batch(tuple(batch.members[i] for i in keep), split(batch.denoising, keep), batch.group)

    def end(self, batch: _Batch) -> None:
        is_alone = len(batch.members) == 1
        for index, member in enumerate(batch.members):
            denoising = batch.denoising if is_alone else split(batch.denoising, [index])
            self._keep(member, _Kept(member.attempt, denoising.members[0].conditioning, denoising))

    def snapshot(self, batch: _Batch, request_id: str) -> Held:
        model = self._models[batch.denoising.model]
        return snapshot(model, batch.denoising, _index(batch, request_id)).to_bytes

    def preview(self, batch: _Batch, request_id: str) -> Any:
        alone = split(batch.denoising, [_index(batch, request_id)])
        return self._borrowing(alone.model, Stage.DECODE, partial(self._decode, alone))

    def decode(self, members: tuple[Member, ...]) -> dict[str, Any]:
        frames = {member.request_id: self._decode(self._finished(member)) for member in members}
        for member in members:
            self.forget(member.request_id)
        return frames

    def _finished(self, member: Member) -> Denoising:
        kept = self._find(member.request_id, member.attempt)
        if kept is None or kept.denoising is None or not kept.denoising.is_done:
            message = f"the latents of {member.request_id}, attempt {member.attempt}, are not on this device"
            raise GenServeError("unknown_latents", message)
        return kept.denoising

    def _decode(self, denoising: Denoising) -> Any:
        """In one piece; in overlapping tiles, whose seams are blended, only where the device has no room for that."""
        model = self._models[denoising.model]
        try:
            return self._run(model.decode, denoising)[0]
        except GenServeError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            vae = model.pipeline.vae
            vae.enable_tiling()
            try:
                return self._run(model.decode, denoising)[0]
            finally:
                vae.disable_tiling()

    def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call into a model; where memory ends, once more without the weights of other stages than the one in use."""
        try:
            return self._faults.run(work, *args, **kwargs)
        except GenServeError as error:
            if error.code != OUT_OF_MEMORY or not self._residency.make_way():
                raise
        return self._faults.run(work, *args, **kwargs)

    # ── groups ───────────────────────────────────────────────────────────────────────────────────────────

    def host_world(self) -> int:
        return self._peers.host()

    def join_world(self, me: str, world: World) -> None:
        self._peers.join(me, world)

    def lose_peer(self, worker_id: str) -> None:
        self._peers.lose(worker_id)

    def find_group(self, generation: int, members: tuple[str, ...]) -> Group:
        return self._peers.group(generation, members)

    def spread(self, batch: _Batch, group: Group) -> None:
        self._peers.check(self._models[batch.denoising.model], batch.denoising, group.degree)
        batch.group = group

    def pack(self, batch: _Batch) -> Parcel:
        return pack(self._models[batch.denoising.model], batch.denoising)

    def expect(self, members: tuple[Member, ...], header: bytes) -> tuple[_Batch, tuple[torch.Tensor, ...]]:
        denoising, buffers = self._run(expect, self._models[members[0].spec.model], header)
        return _Batch(members, denoising), buffers


def generation_of(spec: RequestSpec) -> Generation:
    """What decides the pixels of a request."""
    return Generation(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.shape.width,
        height=spec.shape.height,
        frames=spec.shape.frames,
        steps=spec.steps,
        seed=spec.seed,
        guidance_scale=spec.guidance_scale,
    )


def _index(batch: _Batch, request_id: str) -> int:
    return next(i for i, member in enumerate(batch.members) if member.request_id == request_id)
