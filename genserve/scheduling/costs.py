"""Cost tables from JSON files, and the one that is shipped; not how they are measured (see genserve.profile)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec

from genserve.diffusion.catalog import Catalog
from genserve.domain.costs import CostData, find_gaps
from genserve.errors import CallerError

SHIPPED = "tiny-cpu.json"
"""Measured on two cores of a CPU, with the small models."""


def load_costs(path: Path | None) -> CostData | None:
    """The table in a file, or None where no file is named.

    Raises CallerError ``invalid_costs`` that names the file and the field or the model at fault.
    """
    if path is None:
        return None
    try:
        costs = msgspec.json.decode(path.read_bytes(), type=CostData)
    except (OSError, msgspec.DecodeError) as error:
        raise CallerError("invalid_costs", f"{path}: {error}") from error
    if gaps := find_gaps(costs):
        raise CallerError("invalid_costs", f"{path}: {'; '.join(gaps)}")
    return costs


def find_shipped_costs(catalog: Catalog) -> Path | None:
    """The shipped table's file where every served model is one of the shipped small ones.

    None where nobody has measured: the planner then starts from a guess and learns.
    """
    shipped = Catalog.load()
    if any(entry not in shipped.models for entry in catalog.models):
        return None
    return Path(str(resources.files("genserve.profile").joinpath(SHIPPED)))
