"""What stages and steps cost by model, shape, degree and batch, measured or estimated; not who measured them.

All times are microseconds of wall time on the whole group.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from genserve.domain.request import Shape, Stage

PositiveUs = Annotated[int, Meta(ge=1, le=10**12)]
PriceUs = Annotated[int, Meta(ge=0, le=10**12)]
Width = Annotated[int, Meta(ge=1, le=4096)]
"""Of groups and batches."""

UNKNOWN_STEP_US = 100_000
"""A first guess for a model that nobody has measured; corrected after its first steps."""


class StageCost(Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """Time of one denoising step, or of a whole encode or decode."""

    model: str
    stage: Stage
    shape: Shape
    us: PositiveUs
    degree: Width = 1
    batch: Width = 1


class Prices(Struct, frozen=True, forbid_unknown_fields=True):
    """What changing course costs a request: seen in the papers' tables or measured here."""

    switch_us: PriceUs = 1_000
    pause_us: PriceUs = 10
    resume_us: PriceUs = 1_000
    move_us: PriceUs = 5_000
    load_us: PriceUs = 1_000_000


class StoreCost(Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """Time from decoded pixels to the stored result: encoding the files and writing them, on no GPU."""

    model: str
    shape: Shape
    us: PriceUs


class Overheads(Struct, frozen=True):
    """What serving costs a request beside the work of GPUs.

    ``dispatch_us`` is from a decision to the first work of an idle worker, as the log sees both: the command's way
    there and the report's way back.
    """

    dispatch_us: PriceUs = 0
    stores: tuple[StoreCost, ...] = ()


class CostData(Struct, frozen=True):
    """A cost table as it is stored and shipped."""

    name: str
    stages: tuple[StageCost, ...] = ()
    prices: Prices = Prices()
    memory_bytes: dict[str, int] = {}
    """Weights by "model/stage", for placement."""
    overheads: Overheads | None = None
    """None where nobody has measured them: then they count as nothing."""


class _Content(Struct):
    """What the digest of a table without overheads has always covered, in this order."""

    name: str
    stages: tuple[StageCost, ...]
    prices: Prices
    memory_bytes: dict[str, int]


class CostTable:
    """Lookup over CostData; shapes nobody measured are interpolated over their pixels, in logarithms.

    Raises nothing: an unknown model costs UNKNOWN_STEP_US a step, so that one missing entry never stops the pool.
    """

    def __init__(self, data: CostData) -> None:
        self.data = data
        self._exact = {(c.model, c.stage, c.shape, c.degree, c.batch): c.us for c in data.stages}
        self._memo: dict[tuple[str, Stage, Shape, int, int], int] = {}
        self._degrees: dict[tuple[str, Shape], tuple[int, ...]] = {}
        self._batches: dict[tuple[str, Stage, Shape, int], tuple[int, ...]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CostTable) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        data = self.data
        content = msgspec.json.encode(
            _Content(data.name, data.stages, data.prices, data.memory_bytes), order="deterministic"
        )
        if data.overheads is not None:
            content += msgspec.json.encode(data.overheads, order="deterministic")
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    @property
    def prices(self) -> Prices:
        return self.data.prices

    def step_us(self, model: str, shape: Shape, *, degree: int = 1, batch: int = 1) -> int:
        """One denoising step of ``batch`` requests on ``degree`` GPUs."""
        return self._lookup(model, Stage.DENOISE, shape, degree, batch)

    def stage_us(self, model: str, stage: Stage, shape: Shape, *, batch: int = 1) -> int:
        """One whole encode or decode of ``batch`` requests, on one GPU."""
        return self._lookup(model, stage, shape, 1, batch)

    @property
    def dispatch_us(self) -> int:
        """From a decision to the first work of an idle worker."""
        return self.data.overheads.dispatch_us if self.data.overheads else 0

    def store_us(self, model: str, shape: Shape) -> int:
        """From decoded pixels to the stored result; other shapes by their pixels, 0 for a model nobody measured."""
        rows = self.data.overheads.stores if self.data.overheads else ()
        points = sorted((row.shape.pixels, row.us) for row in rows if row.model == model)
        exact = next((row.us for row in rows if (row.model, row.shape) == (model, shape)), None)
        if exact is not None or not points:
            return exact or 0
        return max(1, round(interpolate(points, shape.pixels)))

    def degrees(self, model: str, shape: Shape) -> tuple[int, ...]:
        """Sequence-parallel degrees worth having, ascending: each one faster than every smaller one."""
        key = (model, shape)
        if key not in self._degrees:
            self._degrees[key] = self._useful_degrees(model, shape)
        return self._degrees[key]

    def batches(self, model: str, shape: Shape, *, degree: int = 1, stage: Stage = Stage.DENOISE) -> tuple[int, ...]:
        """Batch sizes that were measured for this very shape and degree, ascending; 1 is always among them."""
        key = (model, stage, shape, degree)
        if key not in self._batches:
            rows = (c for c in self.data.stages if (c.model, c.stage, c.shape, c.degree) == key)
            self._batches[key] = tuple(sorted({1, *(c.batch for c in rows)}))
        return self._batches[key]

    def _useful_degrees(self, model: str, shape: Shape) -> tuple[int, ...]:
        measured = {c.degree for c in self.data.stages if c.model == model and c.stage is Stage.DENOISE}
        useful: list[int] = []
        best = math.inf
        for degree in sorted({1, *filter(is_group_size, measured)}):
            us = self.step_us(model, shape, degree=degree)
            if us < best:
                useful.append(degree)
                best = us
        return tuple(useful)

    def _lookup(self, model: str, stage: Stage, shape: Shape, degree: int, batch: int) -> int:
        key = (model, stage, shape, degree, batch)
        found = self._exact.get(key)
        if found is None:
            found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._estimate(model, stage, shape, degree, batch)
        return found

    def _estimate(self, model: str, stage: Stage, shape: Shape, degree: int, batch: int) -> int:
        if batch > 1:
            return self._estimate_batch(model, stage, shape, degree, batch)
        points = self._points(model, stage, degree)
        if points:
            return max(1, round(interpolate(points, shape.pixels)))
        if degree > 1:
            return self._lookup(model, stage, shape, 1, 1)
        return UNKNOWN_STEP_US

    def _estimate_batch(self, model: str, stage: Stage, shape: Shape, degree: int, batch: int) -> int:
        """From the nearest smaller measured batch of this shape, growing in proportion."""
        known = [b for (m, s, sh, d, b) in self._exact if (m, s, sh, d) == (model, stage, shape, degree) and b < batch]
        nearest = max(known, default=1)
        return self._lookup(model, stage, shape, degree, nearest) * batch // nearest

    def _points(self, model: str, stage: Stage, degree: int) -> list[tuple[int, int]]:
        rows = [c for c in self.data.stages if (c.model, c.stage, c.degree, c.batch) == (model, stage, degree, 1)]
        return sorted({(c.shape.pixels, c.us) for c in rows})


def interpolate(points: list[tuple[int, int]], at: int) -> float:
    """Piecewise power law through (pixels, us) points, ascending; beyond the ends the last slope goes on.

    One point scales in proportion to pixels.
    """
    if len(points) == 1:
        return points[0][1] * at / points[0][0]
    upper = next((i for i, (x, _) in enumerate(points) if x >= at), len(points) - 1)
    (x0, y0), (x1, y1) = points[max(upper, 1) - 1], points[max(upper, 1)]
    if x0 == x1:
        return float(max(y0, y1))
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    return float(y0 * (at / x0) ** slope)


def is_group_size(degree: int) -> bool:
    """Groups have 1, 2, 4, ... members."""
    return degree > 0 and degree & (degree - 1) == 0


def find_gaps(data: CostData) -> list[str]:
    """Why a table that somebody wrote cannot be planned with, in words; empty when it can."""
    steps = [c for c in data.stages if c.stage is Stage.DENOISE]
    if not steps:
        return ["no cost of any step"]
    alone = {c.model for c in steps if c.degree == c.batch == 1}
    gaps = [f"no step of {model} on one GPU, alone" for model in sorted({c.model for c in steps} - alone)]
    odd = sorted({(c.model, c.degree) for c in steps if not is_group_size(c.degree)})
    return gaps + [f"{model}: degree {degree} is no power of two" for model, degree in odd]


def merge(base: CostData, newer: Iterable[StageCost], *, name: str) -> CostData:
    """``base`` with rows replaced or added by ``newer``; sorted, so equal content has an equal digest."""
    rows = {(c.model, c.stage, c.shape, c.degree, c.batch): c for c in (*base.stages, *newer)}
    return msgspec.structs.replace(base, name=name, stages=tuple(sorted(rows.values())))
