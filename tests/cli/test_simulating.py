"""What simulate, compare and bound say about options that do not go together or that nobody can mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from genserve.cli.main import app


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("simulate --costs table.json", "--costs goes with --from-log"),
        ("simulate --cells 2 --log events.json", "--log goes with one simulated cell"),
        ("simulate --sigma nan", "sigma is from 0"),
        ("simulate --noise -1", "noise is from 0"),
        ("simulate --switch-price inf", "switch_price is from"),
        ("simulate --json absent/out.json", "absent is no folder"),
        ("compare --seeds 1000 --html absent/out.html", "absent is no folder"),
        ("compare --seeds 1000 --sweep gpus=8,0", "gpus is from 1"),
        ("bound --seeds 1000 --json absent/out.json", "absent is no folder"),
        ("bound --requests 0", "requests is from 1"),
        ("simulate --workload .", "no file or calibration '.'"),
        ("simulate --verdict-within 20", "give --admission too"),
        ("simulate --from-log absent.db", "there is no log at"),
    ],
)
def test_it_is_one_line_before_anything_runs(
    line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, line.split())
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert says in result.stderr


@pytest.mark.parametrize("command", ["simulate", "compare", "bound"])
def test_help_says_what_a_trace_looks_like(command: str) -> None:
    shown = " ".join(CliRunner().invoke(app, [command, "--help"]).output.split())
    assert "arrival_s and class, or arrival_s, model, width, height, frames, steps and deadline_s" in shown
