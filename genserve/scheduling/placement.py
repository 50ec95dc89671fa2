"""Which stages a worker is to hold, by configuration; not what it holds (see residency).

``[cluster.placement]`` maps a worker's name, or a pattern such as ``worker-*``, to names such as ``tiny-wan/denoise``,
``tiny-wan`` (all its stages) or ``*/encode``. The worker's own name goes before patterns, patterns in their order. A
worker that nothing names holds everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from genserve.domain.request import Stage
from genserve.errors import CallerError

Placement = Mapping[str, Sequence[str]]


def stages_of(worker_id: str, placement: Placement, models: Iterable[str]) -> tuple[tuple[str, Stage], ...]:
    """The stages of those models that the worker loads at its start; raises CallerError ``invalid_placement``."""
    everything = [(model, stage) for model in sorted(models) for stage in Stage]
    names = _find(worker_id, placement)
    if names is None:
        return tuple(everything)
    found = [(model, stage) for model, stage in everything if any(_means(name, model, stage) for name in names)]
    return tuple(found)


def check_placement(placement: Placement, *, workers: Sequence[str], models: Sequence[str]) -> None:
    """Refuse names that mean nothing, with CallerError ``invalid_placement`` that says what there is."""
    for pattern, names in placement.items():
        if not any(fnmatchcase(worker, pattern) for worker in workers):
            raise CallerError("invalid_placement", f"no worker is named {pattern!r}; there are {', '.join(workers)}")
        for name in names:
            if not any(_means(name, model, stage) for model in models for stage in Stage):
                raise CallerError(
                    "invalid_placement",
                    f"{pattern!r} is to hold {name!r}: name a model or model/stage, "
                    f"of the models {', '.join(models)} and the stages {', '.join(Stage)}",
                )


def _find(worker_id: str, placement: Placement) -> Sequence[str] | None:
    if worker_id in placement:
        return placement[worker_id]
    return next((names for pattern, names in placement.items() if fnmatchcase(worker_id, pattern)), None)


def _means(name: str, model: str, stage: Stage) -> bool:
    return fnmatchcase(f"{model}/{stage}", name if "/" in name else f"{name}/*")
