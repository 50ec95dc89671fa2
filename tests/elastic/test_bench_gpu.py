"""The command for a GPU machine, on a small model and a CPU: it measures, goes on where it stopped, and is honest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import bench_gpu
from benchmarks.gpu_parts import Part, batching_limit
from genserve.domain.costs import CostData, CostTable
from genserve.domain.request import Shape, Stage
from genserve.profile.run import device_name
from genserve.profile.table import Task, Timing

NAME = "tiny-flux"
SHAPE = Shape(64, 64, 1)


def step(batch: int, us: int) -> Timing:
    return Timing(Task(NAME, Stage.DENOISE, SHAPE, 1, batch), (us,))


def test_batching_pays_as_long_as_a_members_share_falls() -> None:
    part = Part(NAME, "a device", {}, "2026-01-01", timings=(step(1, 100), step(2, 150), step(4, 296), step(8, 400)))
    assert batching_limit(part) == {"64x64": 2}


def test_parts_of_other_devices_do_not_get_into_a_table() -> None:
    here = Part("", "one", {"torch": "1"}, "2026-01-01")
    assert not bench_gpu.is_same_place(msgspec.structs.replace(here, device="another"), here)
    assert not bench_gpu.is_same_place(msgspec.structs.replace(here, versions={"torch": "2"}), here)


def test_without_a_gpu_the_command_says_what_it_can_do(monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    monkeypatch.setattr(bench_gpu, "pick_place", lambda wish: "cpu")
    monkeypatch.setattr(sys, "argv", ["bench_gpu"])
    assert bench_gpu.main() == 0
    assert "--device cpu" in capsys.readouterr().out  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.timeout(600)
def test_a_small_model_is_measured_into_a_table_that_planners_read(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measured_on("cpu", models_dir, tmp_path, monkeypatch)["peak_bytes"] == {}


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.timeout(600)
def test_on_a_gpu_memory_is_measured_too(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: str
) -> None:
    peaks = measured_on(gpu, models_dir, tmp_path, monkeypatch)["peak_bytes"]
    assert min(peaks[stage] for stage in Stage) > 0


def measured_on(place: str, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The report, which is looked at together with the table."""
    argv = ["bench_gpu", "--device", place, "--model", NAME, "--models", str(models_dir), "--out", str(tmp_path)]
    monkeypatch.setattr("benchmarks.gpu_parts.shapes_of", lambda entry: [SHAPE])
    monkeypatch.setattr("benchmarks.gpu_parts.BATCHES", (2,))
    monkeypatch.setattr(sys, "argv", [*argv, "--budget-s", "0.001"])
    assert bench_gpu.main() == 0
    assert not (tmp_path / "costs.json").exists()
    monkeypatch.setattr(sys, "argv", argv)
    assert bench_gpu.main() == 0
    table = msgspec.json.decode((tmp_path / "costs.json").read_bytes(), type=CostData)
    assert CostTable(table).step_us(NAME, SHAPE) > 0
    assert {cost.stage for cost in table.stages} == set(Stage)
    assert table.memory_bytes[f"{NAME}/denoise"] > 0
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes())[NAME]
    assert report["device"] == device_name(place)
    assert set(report["loop_us"]) == {"ours", "plain"}
    assert report["checkpoint"]["size_bytes"] > 0
    assert report["left_out"] == []
    assert report["not_measured"] == {}
    return report
