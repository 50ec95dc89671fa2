"""Which backends there are on a machine without an accelerator, and how the others refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genserve.diffusion.catalog import Catalog
from genserve.diffusion.load import load_model
from genserve.diffusion.parallel import build_parallel
from genserve.errors import CallerError

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(torch.accelerator.is_available(), reason="these are refusals of a machine without one"),
]


@pytest.mark.parametrize(
    ("backend", "code", "reason"),
    [
        ("ring", "backend_unavailable", "no log-sum-exp"),
        ("xfuser", "backend_unavailable", "accelerators only"),
        ("magic", "unknown_backend", "ulysses, ring, xfuser"),
    ],
)
def test_a_backend_that_cannot_run_here_says_why(models_dir: Path, backend: str, code: str, reason: str) -> None:
    pipeline = load_model(Catalog.load().get("tiny-wan"), models_dir).pipeline
    with pytest.raises(CallerError, match=reason) as refused:
        build_parallel(pipeline, backend)
    assert refused.value.code == code
