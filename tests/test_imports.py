"""Processes that serve no model stay small: they import neither torch nor diffusers."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers")


@pytest.mark.parametrize(
    "module", ["actors.scheduler", "actors.request", "actors.ingress", "actors.worker", "actors.plant"]
)
def test_importing_an_actor_loads_no_model_library(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


@pytest.mark.parametrize(
    "module", ["genserve.simulate.simulation", "genserve.audit.replay", "genserve.journal.upgrade"]
)
def test_simulation_replay_and_the_schema_run_without_ray(module: str) -> None:
    code = f"import sys, {module}; print('ray' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
