"""Cost tables that operators bring with the setting ``costs``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genserve.errors import CallerError
from genserve.scheduling.costs import load_costs

ROW = {"model": "m", "stage": "denoise", "shape": {"width": 64, "height": 64}, "us": 1000}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "truncated"),
        ("[]", "Expected `object`"),
        (json.dumps({"name": "t", "family": "table", "costs": {"stages": [ROW]}}), "no cost of any step"),
        (json.dumps({"name": "t", "stages": [{**ROW, "us": -1}]}), r"stages\[0\].us"),
        (json.dumps({"name": "t", "stages": [{**ROW, "degree": 2}]}), "no step of m on one GPU, alone"),
        (json.dumps({"name": "t", "stages": [ROW], "prices": {"swich_us": 1}}), "swich_us"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_file(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(content)
    with pytest.raises(CallerError, match=says) as caught:
        load_costs(path)
    assert caught.value.code == "invalid_costs"
    assert str(path) in caught.value.message
