"""The live comparison: its arrivals and numbers at once, and the whole of it in small as a slow test."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.live_load import KINDS, Answer, Arrival, draw_arrivals
from benchmarks.live_report import summarise

ALLOWANCES = {kind.name: 1.0 for kind in KINDS}
ROOT = Path(__file__).parents[2]


def an_answer(latency_s: float | None, *, kind: int = 0) -> Answer:
    return Answer(Arrival(0.0, 1.0, KINDS[kind], "p", 0), latency_s, 1, 0.0)


def test_equal_seeds_draw_equal_arrivals_with_prompts_that_all_differ() -> None:
    arrivals = draw_arrivals(KINDS, 5.0, 100.0, ALLOWANCES, seed=1)
    assert arrivals == draw_arrivals(KINDS, 5.0, 100.0, ALLOWANCES, seed=1)
    assert arrivals != draw_arrivals(KINDS, 5.0, 100.0, ALLOWANCES, seed=2)
    assert len({a.prompt for a in arrivals}) == len(arrivals) == pytest.approx(500, abs=80)
    assert all(a.at_s < b.at_s for a, b in pairwise(arrivals))


def test_the_shares_of_all_classes_are_the_whole() -> None:
    assert sum(kind.share for kind in KINDS) == pytest.approx(1.0)


def test_a_late_file_and_a_missing_one_miss_and_ratios_are_to_the_baseline() -> None:
    answers = {
        "baseline": {1.0: [an_answer(0.5), an_answer(1.5), an_answer(None), an_answer(2.0)]},
        "save": {1.0: [an_answer(0.5), an_answer(0.5), an_answer(1.0), an_answer(2.0)]},
    }
    systems = summarise(answers, against="baseline")
    ours, theirs = systems["save"]["1.0"]["all"], systems["baseline"]["1.0"]["all"]
    assert (theirs["attainment"], theirs["answered"]) == (0.25, 3)
    assert (ours["attainment"], ours["ratio"]["attainment"]) == (0.75, 3.0)
    assert ours["mean_s"] == 1.0


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.models
@pytest.mark.timeout(400)
def test_both_systems_answer_everything_and_the_log_is_simulated(models_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.bench_live", "--quick", "--json", str(out), "--out", str(tmp_path)]
    subprocess.run([*command, "--models", str(models_dir)], cwd=ROOT, check=True)
    result = json.loads(out.read_text())
    for system in ("baseline", "save"):
        whole = result["systems"][system]["1.0"]["all"]
        assert whole["answered"] == whole["requests"] > 0, whole["errors"]
    assert result["reality"][0]["groups"]["all"]["requests"] >= result["systems"]["save"]["1.0"]["all"]["requests"]
