"""What running really costs in a simulation, which the planner may misjudge; not what the planner believes.

The planner sees the cost table of its state. Truth adds a fixed error per class of requests, drawn once per seed,
and noise per segment.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from genserve.domain.costs import CostData, CostTable, Prices
from genserve.domain.request import RequestSpec, Shape, Stage
from genserve.planners.diffserve_allocation import interpolate


class Errors(Struct, frozen=True):
    """How far truth is from the planner's table, in fractions.

    ``bias`` makes every step slower than the table says by that fraction, ``spread`` adds an error per class, uniform
    in plus or minus that fraction, and ``noise`` is the standard deviation per segment.
    """

    bias: float = 0.0
    spread: float = 0.0
    noise: float = 0.0


NO_ERRORS = Errors()


class Truth:
    """Costs as they turn out; ``prices`` may differ from those of the table as well."""

    def __init__(
        self,
        costs: CostTable,
        *,
        prices: Prices | None = None,
        errors: Errors = NO_ERRORS,
        seed: int = 0,
        deferral: tuple[tuple[float, float], ...] = (),
    ) -> None:
        self.costs = costs
        self.prices = prices or costs.prices
        self._errors = errors
        self._seed = seed
        self._quantiles = ((0.0, 0.0), *((f, t) for t, f in deferral), (1.0, 1.0))
        self._draws = random.Random(f"noise/{seed}")
        self._factors: dict[tuple[str, Shape], float] = {}

    def step_us(self, spec: RequestSpec, *, degree: int, batch: int) -> int:
        """One denoising step of a segment that begins now."""
        table = self.costs.step_us(spec.model, spec.shape, degree=degree, batch=batch)
        return max(1, round(table * self._factor(spec)))

    def stage_us(self, spec: RequestSpec, stage: Stage, *, batch: int) -> int:
        table = self.costs.stage_us(spec.model, stage, spec.shape, batch=batch)
        return max(1, round(table * self._noise()))

    @property
    def dispatch_us(self) -> int:
        """From a decision to the first work of an idle worker."""
        return self.costs.dispatch_us

    def store_us(self, spec: RequestSpec) -> int:
        """From decoded pixels to the stored result."""
        return self.costs.store_us(spec.model, spec.shape)

    def score_permille(self, spec: RequestSpec) -> int:
        """How good the light answer is: below threshold t with probability f(t), the cascade's deferral curve."""
        draw = random.Random(f"score/{self._seed}/{spec.request_id}").random()
        return round(1000 * interpolate(self._quantiles, draw))

    def start_us(self, samples: Sequence[tuple[bool, int, str]], workers: tuple[str, ...]) -> int:
        """What a denoising segment pays before its first step: (was paused, last degree, home) of each member."""
        price = 0
        for was_paused, degree, home in samples:
            mine = self.prices.resume_us if was_paused else 0
            if degree and degree != len(workers):
                mine += self.prices.switch_us
            if home and home not in workers:
                mine += self.prices.move_us
            price = max(price, mine)
        return price

    def _factor(self, spec: RequestSpec) -> float:
        key = (spec.model, spec.shape)
        factor = self._factors.get(key)
        if factor is None:
            factor = self._factors[key] = class_factor(*key, self._errors, seed=self._seed)
        return factor * self._noise()

    def _noise(self) -> float:
        noise = self._errors.noise
        return max(0.1, self._draws.gauss(1.0, noise)) if noise else 1.0


def class_factor(model: str, shape: Shape, errors: Errors, *, seed: int) -> float:
    """True over estimated step time of a class, without noise."""
    factor = 1.0 + errors.bias
    if errors.spread:
        factor *= 1.0 + random.Random(f"{seed}/{model}/{shape}").uniform(-errors.spread, errors.spread)
    return factor


def true_costs(costs: CostData, errors: Errors, *, seed: int) -> CostData:
    """The table of a planner that knows what steps really take."""
    rows = [
        replace(c, us=max(1, round(c.us * class_factor(c.model, c.shape, errors, seed=seed))))
        if c.stage is Stage.DENOISE
        else c
        for c in costs.stages
    ]
    return replace(costs, stages=tuple(rows))
