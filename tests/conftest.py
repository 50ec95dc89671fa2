"""Fixtures for every test folder."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from genserve.diffusion.build import build_models
from genserve.diffusion.catalog import Catalog


@pytest.fixture(scope="session")
def models_dir(pytestconfig: pytest.Config) -> Path:
    """A folder with every small checkpoint of the shipped catalog; built once and kept in pytest's cache."""
    cache = pytestconfig.cache
    assert cache is not None
    directory = cache.mkdir(f"models-diffusers-{version('diffusers')}-transformers-{version('transformers')}")
    build_models(directory, Catalog.load())
    return directory
