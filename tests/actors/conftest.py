"""What every test of actors relies on: no Ray unless it is asked for, and virtual time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.actors.cell import LocalCell


@pytest.fixture(autouse=True)
def _no_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting Ray is an error, except in tests marked with ``ray``."""
    if request.node.get_closest_marker("ray") is None:
        monkeypatch.setattr(ray, "init", _refuse)


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("this test may not start Ray: mark it with `ray`")


@pytest.fixture
def make_cell(tmp_path: Path) -> Callable[..., LocalCell]:
    """A builder of cells in one process; all cells of a test share a folder."""
    return lambda **options: LocalCell(tmp_path, **options)
