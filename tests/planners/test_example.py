"""The planner in ``examples`` works as its page says: its own tests run here."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "planner"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.delitem(sys.modules, "most_slack_last", raising=False)
    return runpy.run_path(str(EXAMPLE / "test_most_slack_last.py"))


def test_the_example_passes_the_shared_suite(example: dict[str, object]) -> None:
    example["test_it_passes_the_suite_that_every_planner_passes"]()  # type: ignore[operator]


def test_the_example_is_found_by_its_entry_point(example: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    example["test_an_installed_entry_point_makes_it_a_planner_by_name"](monkeypatch)  # type: ignore[operator]
