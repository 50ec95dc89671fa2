"""Costs are measured, written with their circumstances, and read by planners."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from genserve.diffusion.catalog import Catalog
from genserve.domain.costs import CostData, CostTable, Prices
from genserve.domain.request import Shape, Stage
from genserve.errors import CallerError
from genserve.profile.plan import degrees_of, shapes_of, tasks_of
from genserve.profile.run import Meters, profile
from genserve.profile.table import Profile, Task, Timing, stages_of
from genserve.scheduling.costs import find_shipped_costs, load_costs


def test_a_row_is_the_lower_quartile_because_interference_only_adds() -> None:
    task = Task("m", Stage.DENOISE, Shape(64, 64))
    (row,) = stages_of([Timing(task, (900, 100, 110, 5000))])
    assert row.us == 110


def test_a_plan_times_every_stage_degree_and_batch_of_a_shape_once() -> None:
    entry = Catalog.load().get("tiny-sd3")
    tasks = list(tasks_of([entry], degrees=(1, 2), batches=(1, 4), shapes=[Shape(64, 64)]))
    assert [str(t) for t in tasks] == [
        "tiny-sd3 encode 64x64",
        "tiny-sd3 decode 64x64",
        "tiny-sd3 denoise 64x64",
        "tiny-sd3 denoise 64x64 on 2",
        "tiny-sd3 denoise 64x64 x 4",
    ]


@pytest.mark.parametrize(("gpus", "degrees"), [(None, (1, 2)), (1, (1,)), (8, (1, 2))])
def test_degrees_that_nobody_asked_for_are_those_that_there_are_gpus_for(gpus: int | None, degrees: object) -> None:
    assert degrees_of((), gpus=gpus) == degrees


def test_a_degree_without_gpus_for_it_is_refused() -> None:
    assert degrees_of((1, 4), gpus=4) == degrees_of((1, 4), gpus=None) == (1, 4)
    for wish, gpus, code in (
        ((1, 4), 2, "unsupported_degree"),
        ((0,), None, "unsupported_degree"),
        ((1,), 0, "no_gpu"),
    ):
        with pytest.raises(CallerError) as refusal:
            degrees_of(wish, gpus=gpus)
        assert refusal.value.code == code


def test_the_shapes_of_a_video_model_include_its_default_and_fewer_frames() -> None:
    shapes = shapes_of(Catalog.load().get("tiny-wan"))
    assert Shape(128, 128, 17) in shapes
    assert {shape.frames for shape in shapes} == {5, 17}


def test_the_shipped_table_covers_every_shipped_model_and_is_used_for_them_alone() -> None:
    catalog = Catalog.load()
    costs = load_costs(find_shipped_costs(catalog))
    assert costs is not None
    assert {row.model for row in costs.stages} == set(catalog.names)
    other = msgspec.structs.replace(catalog.models[0], name="other")
    assert find_shipped_costs(Catalog((other,))) is None


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_processes_measure_a_model_alone_and_together(models_dir: Path, tmp_path: Path) -> None:
    catalog, shape = Catalog.load(), Shape(64, 64, 5)
    tasks = list(tasks_of([catalog.get("tiny-wan")], degrees=(1, 2), batches=(1,), shapes=[shape]))
    with Meters(2, catalog, models_dir, device="cpu", threads=1) as meters:
        table = profile(tasks, meters, name="here", repeats=2)
    path = tmp_path / "costs.json"
    path.write_bytes(table.to_json())
    costs = load_costs(path)
    assert costs == table.costs
    assert CostTable(costs).step_us("tiny-wan", shape, degree=2) > 100
    told = msgspec.json.decode(path.read_bytes(), type=Profile)
    assert told.device
    assert told.date
    assert told.versions["torch"]
    assert len(told.spread) == len(tasks)
    assert costs.prices.switch_us > 100
    assert costs.prices.load_us != Prices().load_us
    assert costs.memory_bytes.keys() == {"tiny-wan/encode", "tiny-wan/denoise", "tiny-wan/decode"}
    assert costs.memory_bytes["tiny-wan/denoise"] > costs.memory_bytes["tiny-wan/encode"] > 0
    assert CostTable(costs).store_us("tiny-wan", shape) > 100
    assert isinstance(costs, CostData)
