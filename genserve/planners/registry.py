"""Planners by name, ours and those of other packages; not their parameters' meaning.

Another package adds one with an entry point in the group ``genserve.planners`` that names its Policy class.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

import msgspec

from genserve.errors import CallerError
from genserve.planners.diffserve import DiffServe
from genserve.planners.edf import Edf
from genserve.planners.edf_best_fit import EdfBestFit
from genserve.planners.fifo import Fifo
from genserve.planners.genserve import GenServe, GenServeIdeal
from genserve.planners.interface import Parameter, Planner, Policy
from genserve.planners.save import Save
from genserve.planners.sjf import Sjf
from genserve.planners.srtf import Srtf
from genserve.planners.static_sp import StaticSp
from genserve.planners.super_p95 import SuperP95
from genserve.planners.tetriserve import TetriServe
from genserve.planners.tridentserve import TridentServe

GROUP = "genserve.planners"
_BUILT_IN: tuple[type[Policy], ...] = (
    Fifo,
    Sjf,
    Srtf,
    Edf,
    StaticSp,
    SuperP95,
    EdfBestFit,
    GenServe,
    GenServeIdeal,
    TetriServe,
    TridentServe,
    DiffServe,
    Save,
)
_OURS: dict[str, type[Policy]] = {cls.title: cls for cls in _BUILT_IN}


def planner_names() -> list[str]:
    """Every planner that can be built here; ours win over a foreign one of the same name."""
    return sorted({*_OURS, *(point.name for point in entry_points(group=GROUP))})


def build_planner(name: str, parameters: Mapping[str, Parameter] | None = None) -> Planner:
    """The planner of that name.

    Raises CallerError ``unknown_planner``, ``broken_planner`` or ``invalid_planner_parameter``.
    """
    cls = _OURS.get(name) or _load_foreign(name)
    unknown = set(parameters or {}) - set(cls.__struct_fields__)
    if unknown:
        known = ", ".join(cls.__struct_fields__) or "none"
        raise CallerError("invalid_planner_parameter", f"{name} has no {sorted(unknown)}; its parameters: {known}")
    try:
        planner: Planner = msgspec.convert(dict(parameters or {}), cls)  # type: ignore[assignment]
    except msgspec.ValidationError as error:
        raise CallerError("invalid_planner_parameter", f"{name}: {error}") from error
    return planner


def _load_foreign(name: str) -> type[Policy]:
    """Only the one asked for: another package that cannot be imported is no reason to do without ours."""
    point = next((p for p in entry_points(group=GROUP) if p.name == name), None)
    if point is None:
        raise CallerError("unknown_planner", f"no planner is called {name!r}; there are {', '.join(planner_names())}")
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise CallerError("broken_planner", f"{name}: {point.value} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise CallerError("broken_planner", f"{name}: {point.value} is no subclass of Policy")
    return found
