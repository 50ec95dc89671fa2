"""Four ranks with the small models, started once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.elastic.ranks import NAMES, Ranks


@pytest.fixture(scope="session")
def started(models_dir: Path) -> Iterator[Ranks]:
    ranks = Ranks(models_dir)
    ranks.start(*NAMES)
    ranks.form(*NAMES)
    yield ranks
    ranks.stop()


@pytest.fixture
def ranks(started: Ranks) -> Ranks:
    """Four processes in one world."""
    return started
