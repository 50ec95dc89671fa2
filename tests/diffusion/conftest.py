"""The small models, loaded once, and what the tests ask of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.model import DiffusionModel

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def load(models_dir: Path) -> Callable[[str], DiffusionModel]:
    """The model of that name."""
    from genserve.diffusion.load import load_model

    return cache(lambda name: load_model(Catalog.load().get(name), models_dir))


@pytest.fixture(params=["tiny-sd3", "tiny-flux", "tiny-wan"])
def model(request: pytest.FixtureRequest, load: Callable[[str], DiffusionModel]) -> DiffusionModel:
    """Each family in turn."""
    return load(request.param)
