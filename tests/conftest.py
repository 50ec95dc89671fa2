"""Fixtures for every test folder."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genserve.config import Settings
from genserve.diffusion.build import build_models
from genserve.diffusion.catalog import Catalog

if TYPE_CHECKING:
    from tests.actors.ray_cell import RayCell
    from tests.fake_gpu import GpuModule


@pytest.fixture(scope="session")
def models_dir(pytestconfig: pytest.Config) -> Path:
    """A folder with every small checkpoint of the shipped catalog; built once and kept in pytest's cache."""
    cache = pytestconfig.cache
    assert cache is not None
    directory = cache.mkdir(f"models-diffusers-{version('diffusers')}-transformers-{version('transformers')}")
    build_models(directory, Catalog.load())
    return directory


@pytest.fixture(scope="module")
def fake_place() -> Iterator[str]:
    """The place of a GPU that is not there."""
    from tests import fake_gpu

    with fake_gpu.present() as place:
        yield place


@pytest.fixture(scope="module", params=["fake", "real"] if shutil.which("nvidia-smi") else ["fake"])
def gpu(request: pytest.FixtureRequest) -> str:
    """A GPU's place: of one that is not there, and, where there is a real one, of that too."""
    return "cuda:0" if request.param == "real" else str(request.getfixturevalue("fake_place"))


@pytest.fixture
def fake_device(gpu: str) -> Iterator[GpuModule]:
    """What tests may set of a GPU that is not there: where its memory ends, whether it is broken."""
    from tests import fake_gpu

    if not gpu.startswith(fake_gpu.NAME):
        pytest.skip("a real one is what it is")
    yield fake_gpu.device
    fake_gpu.device.memory.total = fake_gpu.MEMORY_BYTES


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray, for the tests of one module; the others do without importing it."""
    from tests.actors.ray_cell import ray_cluster

    with ray_cluster():
        yield


@pytest.fixture
async def cell(cluster: None, settings: Settings) -> AsyncIterator[RayCell]:
    """The cell of the module's ``settings``. Actors are detached, so one test finds what the last one left."""
    from tests.actors.ray_cell import RayCell

    cell = RayCell(settings)
    await cell.start()
    yield cell
    cell.reader.close()
