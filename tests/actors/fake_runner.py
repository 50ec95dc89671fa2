"""A Runner without models: latents are numbers folded step by step, so equal histories give equal pixels."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from genserve.diffusion.wires import Fill
from genserve.domain.request import Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.placement import Placement, stages_of
from genserve.scheduling.residency import Holding, Residency, Tell
from genserve.scheduling.runner import DEVICE_LOST, Held, Offer, Ready

Hook = Callable[[str, tuple[p.Member, ...], int], None]
"""Called before every verb with its members and the steps done; may wait, or raise what a device would raise."""

MODELS = ("t2i", "t2v")
TAIL = 10
"""Bytes of what is offered that come apart from the others."""


@dataclass(frozen=True, slots=True)
class Latents:
    """``value`` is what a real model would hold in tensors; ``attempt`` whose they are."""

    attempt: int
    step: int
    value: int

    def stepped(self) -> Latents:
        return replace(self, step=self.step + 1, value=_mix(self.value, self.step))


@dataclass(slots=True)
class FakeBatch:
    members: tuple[p.Member, ...]
    latents: dict[str, Latents]


class FakeShelf:
    """Weights of ten bytes a stage on a device of a hundred."""

    def __init__(self, hook: Hook = lambda verb, members, step: None) -> None:
        self._hook = hook

    def bytes_of(self, model: str, stage: Stage) -> int:
        return 10

    def total_bytes(self) -> int | None:
        return 100

    def free_bytes(self) -> int | None:
        return None

    def load(self, model: str, stage: Stage) -> None:
        self._hook(f"load {model}/{stage}", (), 0)

    def unload(self, model: str, stage: Stage) -> None:
        self._hook(f"unload {model}/{stage}", (), 0)


class FakeRunner:
    """Obeys the Runner protocol; ``hook`` decides how fast it is and when it breaks."""

    device = "fake"
    memory_bytes = 0
    models = MODELS

    def __init__(
        self,
        hook: Hook = lambda verb, members, step: None,
        *,
        placement: Placement | None = None,
        me: str = "",
        budget_bytes: int = 0,
    ) -> None:
        self.is_lost = False
        self._hook = partial(self._obey, hook)
        self._residency = Residency(FakeShelf(self._hook), budget_bytes=budget_bytes)
        for model, stage in stages_of(me, placement or {}, MODELS):
            self._residency.place(model, stage)
        self._held: dict[str, Latents] = {}
        self._lock = threading.Lock()

    def _obey(self, hook: Hook, verb: str, members: tuple[p.Member, ...], step: int) -> None:
        """A device that the hook says is lost is lost for good."""
        try:
            if self.is_lost:
                raise GenServeError(DEVICE_LOST, "the device was lost before")
            hook(verb, members, step)
        except GenServeError as error:
            self.is_lost = error.code == DEVICE_LOST
            raise

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
        self._residency.hold(model, stage)

    def release(self, model: str, stage: Stage) -> None:
        self._residency.release(model, stage)

    def holds(self, request_id: str, attempt: int) -> bool:
        return self._find(request_id, attempt) is not None

    def forget(self, request_id: str) -> None:
        with self._lock:
            self._held.pop(request_id, None)

    def offer(self, request_id: str, attempt: int) -> Offer | None:
        latents = self._find(request_id, attempt)
        return None if latents is None else lambda: (to_bytes(latents)[:-TAIL], to_bytes(latents)[-TAIL:])

    def restore(self, member: p.Member, content: p.Content) -> None:
        latents = from_bytes(bytes(content))
        self._hook("restore", (member,), latents.step)
        self._keep(member, replace(latents, attempt=member.attempt))

    def receive(self, member: p.Member, first: p.Content, rest: Fill) -> Ready:
        tail = bytearray(TAIL)
        rest(memoryview(tail))
        from_bytes(bytes(first) + tail)
        return partial(self.restore, member, bytes(first) + tail)

    def encode(self, members: tuple[p.Member, ...]) -> None:
        self._hook("encode", members, 0)
        for member in members:
            self._keep(member, _fresh(member))

    def begin(self, members: tuple[p.Member, ...]) -> FakeBatch:
        latents = {m.request_id: self._find(m.request_id, m.attempt) or _fresh(m) for m in members}
        if len({held.step for held in latents.values()}) > 1:
            raise GenServeError("mixed_batch", "members of a batch stand at one step")
        return FakeBatch(members, latents)

    def position(self, batch: FakeBatch) -> int:
        return next(iter(batch.latents.values())).step

    def step(self, batch: FakeBatch) -> None:
        self._hook("step", batch.members, self.position(batch))
        batch.latents = {request_id: latents.stepped() for request_id, latents in batch.latents.items()}

    def without(self, batch: FakeBatch, request_ids: tuple[str, ...]) -> FakeBatch:
        members = tuple(m for m in batch.members if m.request_id not in request_ids)
        return FakeBatch(members, {m.request_id: batch.latents[m.request_id] for m in members})

    def end(self, batch: FakeBatch) -> None:
        for member in batch.members:
            self._keep(member, batch.latents[member.request_id])

    def snapshot(self, batch: FakeBatch, request_id: str) -> Held:
        return partial(to_bytes, batch.latents[request_id])

    def preview(self, batch: FakeBatch, request_id: str) -> Any:
        member = next(m for m in batch.members if m.request_id == request_id)
        return frames_of(member, batch.latents[request_id])

    def decode(self, members: tuple[p.Member, ...]) -> dict[str, Any]:
        self._hook("decode", members, 0)
        frames = {m.request_id: frames_of(m, self._finished(m)) for m in members}
        for member in members:
            self.forget(member.request_id)
        return frames

    def _finished(self, member: p.Member) -> Latents:
        latents = self._find(member.request_id, member.attempt)
        if latents is None or latents.step < member.spec.steps:
            raise GenServeError("unknown_latents", f"the latents of {member.request_id} are not here")
        return latents

    def _find(self, request_id: str, attempt: int) -> Latents | None:
        with self._lock:
            latents = self._held.get(request_id)
        return latents if latents is not None and latents.attempt == attempt else None

    def _keep(self, member: p.Member, latents: Latents) -> None:
        with self._lock:
            self._held[member.request_id] = latents


def to_bytes(latents: Latents) -> bytes:
    return msgspec.json.encode({"step": latents.step, "value": latents.value, "sum": _mix(latents.value, latents.step)})


def from_bytes(content: bytes) -> Latents:
    try:
        found = msgspec.json.decode(content, type=dict[str, int])
    except msgspec.DecodeError as error:
        raise GenServeError("checkpoint_corrupt", str(error)) from error
    if found["sum"] != _mix(found["value"], found["step"]):
        raise GenServeError("checkpoint_corrupt", "the numbers do not add up")
    return Latents(0, found["step"], found["value"])


def frames_of(member: p.Member, latents: Latents) -> Any:
    """Noise, uint8 (frames, height, width, 3)."""
    shape = member.spec.shape
    draw = np.random.default_rng(latents.value)
    return draw.integers(0, 256, (shape.frames, shape.height, shape.width, 3), dtype=np.uint8)


def _fresh(member: p.Member) -> Latents:
    words = f"{member.spec.prompt}/{member.spec.model}/{member.spec.shape}"
    return Latents(member.attempt, 0, _mix(member.spec.seed, int.from_bytes(words.encode()) % 2**48))


def _mix(value: int, step: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{value}/{step}".encode(), digest_size=6).digest())
