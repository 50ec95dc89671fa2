"""The examples on the page about simulating your own load can be run."""

from __future__ import annotations

import json
import re
from pathlib import Path

from genserve.simulate.calibration import load_calibration
from genserve.simulate.compare import Entrant, Setting, compare
from genserve.simulate.workloads import Workload, draw_requests

PAGE = (Path(__file__).parent.parent / "docs" / "simulate.md").read_text()


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def test_its_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(example("csv"))
    specs = draw_requests(Workload(trace=str(path)), load_calibration("genserve"), seed=0)
    assert [s.slo_class for s in specs] == ["image-S", "video-480x480x81"]


def test_its_workload_runs_and_the_result_has_the_keys_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(example("json"))
    setting = Setting(Workload(calibration=str(path), requests=3), seeds=1)
    result = compare(setting, [Entrant("save")], with_bound=True, jobs=1)
    named = {
        key for row in re.findall(r"^\| (`planners.*?) \|", PAGE, re.MULTILINE) for key in re.findall(r"\.(\w+)", row)
    }
    assert named - {"save", "image", "video"} <= set(result["planners"]["save"])
    assert {"mean", "ci95", "per_seed", "found", "reached"} <= set(result["bound"])
    json.dumps(result, allow_nan=False)
