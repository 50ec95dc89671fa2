"""Cost tables: exact where measured, interpolated where not, never an exception."""

from __future__ import annotations

from msgspec.structs import replace

from genserve.domain.costs import (
    UNKNOWN_STEP_US,
    CostData,
    CostTable,
    Overheads,
    StageCost,
    StoreCost,
    find_gaps,
    interpolate,
    merge,
)
from genserve.domain.request import Shape, Stage
from tests.builders import some_costs

SMALL, LARGE = Shape(100, 100), Shape(400, 400)


def table(*rows: StageCost) -> CostTable:
    return CostTable(CostData("test", rows))


def step(shape: Shape, us: int, degree: int = 1, batch: int = 1) -> StageCost:
    return StageCost("m", Stage.DENOISE, shape, us, degree, batch)


def test_a_measured_shape_costs_what_was_measured() -> None:
    assert table(step(SMALL, 100), step(LARGE, 1600)).step_us("m", LARGE) == 1600


def test_a_shape_between_two_measured_ones_lies_on_the_power_law_through_them() -> None:
    assert table(step(SMALL, 100), step(LARGE, 1600)).step_us("m", Shape(200, 200)) == 400


def test_one_point_scales_in_proportion_to_pixels() -> None:
    assert interpolate([(100, 50)], 300) == 150


def test_beyond_the_last_point_the_last_slope_goes_on() -> None:
    assert round(interpolate([(100, 10), (200, 20), (400, 80)], 800)) == 320


def test_an_unmeasured_batch_grows_in_proportion_to_the_nearest_smaller_one() -> None:
    assert table(step(SMALL, 100), step(SMALL, 180, batch=2)).step_us("m", SMALL, batch=4) == 360


def test_a_degree_that_is_not_faster_than_a_smaller_one_is_useless() -> None:
    costs = table(step(SMALL, 100), step(SMALL, 60, 2), step(SMALL, 70, 4), step(SMALL, 50, 8))
    assert costs.degrees("m", SMALL) == (1, 2, 8)


def test_an_unknown_model_costs_a_first_guess_instead_of_stopping_the_pool() -> None:
    assert table().step_us("nobody", SMALL) == UNKNOWN_STEP_US


def test_equal_content_has_an_equal_digest_whatever_its_order() -> None:
    base = CostData("a")
    one = merge(base, [step(SMALL, 1), step(LARGE, 2)], name="x")
    two = merge(base, [step(LARGE, 2), step(SMALL, 1)], name="x")
    assert CostTable(one).digest == CostTable(two).digest


def test_a_newer_measurement_replaces_the_older_one() -> None:
    merged = merge(CostData("a", (step(SMALL, 100),)), [step(SMALL, 90)], name="b")
    assert CostTable(merged).step_us("m", SMALL) == 90


def test_storing_costs_what_was_measured_and_other_shapes_by_their_pixels() -> None:
    stores = (StoreCost("m", SMALL, 100), StoreCost("m", LARGE, 1600))
    costs = CostTable(CostData("test", overheads=Overheads(dispatch_us=7, stores=stores)))
    assert [costs.store_us("m", s) for s in (SMALL, Shape(200, 200), LARGE)] == [100, 400, 1600]
    assert costs.dispatch_us == 7
    assert costs.store_us("nobody measured it", SMALL) == 0


def test_a_table_without_overheads_has_the_digest_it_had_before_there_were_any() -> None:
    assert some_costs().digest == "1cfbd7eb370dfcb0309e337365afc9b0"
    measured = replace(some_costs().data, overheads=Overheads(1))
    assert CostTable(measured).digest != some_costs().digest


def test_a_step_that_was_only_measured_in_a_group_can_still_be_run_alone() -> None:
    rows = (StageCost("m", Stage.DENOISE, SMALL, 60_000, 2), StageCost("m", Stage.DENOISE, SMALL, 50_000, 3))
    assert CostTable(CostData("t", rows)).degrees("m", SMALL) == (1, 2)


def test_a_table_that_cannot_be_planned_with_says_why() -> None:
    rows = (StageCost("m", Stage.DENOISE, SMALL, 60_000, 3), StageCost("n", Stage.DENOISE, SMALL, 60_000))
    assert find_gaps(CostData("t", rows)) == ["no step of m on one GPU, alone", "m: degree 3 is no power of two"]
    assert find_gaps(CostData("t", rows[1:])) == []
