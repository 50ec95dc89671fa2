"""Cost tables from JSON files; not how they are measured."""

from __future__ import annotations

from pathlib import Path

import msgspec

from genserve.domain.costs import CostData
from genserve.errors import CallerError


def load_costs(path: Path | None) -> CostData | None:
    """The table in a file, or None where no file is named.

    Raises CallerError ``invalid_costs`` that names the file and the field at fault.
    """
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=CostData)
    except (OSError, msgspec.DecodeError) as error:
        raise CallerError("invalid_costs", f"{path}: {error}") from error
