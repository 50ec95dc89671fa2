"""Weights come when they are needed and go when there is no room, least recently used first."""

from __future__ import annotations

import pytest

from genserve.domain.request import Stage
from genserve.errors import CallerError, GenServeError
from genserve.scheduling.placement import check_placement, stages_of
from genserve.scheduling.protocol import StageChange
from genserve.scheduling.residency import Residency

ENCODE, DENOISE, DECODE = Stage


class FakeShelf:
    """Stages by size; a device of 100 bytes or the host."""

    def __init__(self, *, total: int | None = None) -> None:
        self.loaded: set[tuple[str, Stage]] = set()
        self._total = total

    def bytes_of(self, model: str, stage: Stage) -> int:
        return {ENCODE: 20, DENOISE: 50, DECODE: 10}[stage]

    def total_bytes(self) -> int | None:
        return self._total

    def free_bytes(self) -> int | None:
        return None if self._total is None else self._total - sum(self.bytes_of(*key) for key in self.loaded)

    def load(self, model: str, stage: Stage) -> None:
        self.loaded.add((model, stage))

    def unload(self, model: str, stage: Stage) -> None:
        self.loaded.remove((model, stage))


def told_by(residency: Residency) -> list[tuple[str, str, bool]]:
    told: list[tuple[str, str, bool]] = []
    residency.watch(lambda change: told.append((change.model, change.stage, change.is_loaded)))
    return told


def test_a_stage_is_loaded_once_and_told_with_its_size() -> None:
    residency = Residency(FakeShelf())
    changes: list[StageChange] = []
    residency.watch(changes.append)
    residency.hold("a", DENOISE)
    residency.hold("a", DENOISE)
    assert [(c.model, c.stage, c.is_loaded, c.memory_bytes) for c in changes] == [("a", DENOISE, True, 50)]
    assert residency.resident == (("a", DENOISE),)


@pytest.mark.parametrize(("budget", "total"), [(80, None), (0, 80)])
def test_the_least_recently_used_stage_makes_room(budget: int, total: int | None) -> None:
    residency = Residency(FakeShelf(total=total), budget_bytes=budget)
    for stage in (ENCODE, DENOISE, DECODE, ENCODE):
        residency.hold("a", stage)
    told = told_by(residency)
    residency.hold("b", ENCODE)
    assert told == [("a", "denoise", False), ("b", "encode", True)]


def test_what_a_queued_segment_needs_goes_last() -> None:
    residency = Residency(FakeShelf(), budget_bytes=80)
    for stage in (DENOISE, ENCODE, DECODE):
        residency.hold("a", stage)
    residency.keep_for(frozenset({("a", DENOISE)}))
    told = told_by(residency)
    residency.hold("b", ENCODE)
    assert told == [("a", "encode", False), ("b", "encode", True)]
    residency.hold("b", DENOISE)
    assert told[-1] == ("b", "denoise", True)
    assert ("a", "denoise", False) in told


def test_a_stage_that_cannot_fit_even_alone_is_refused_and_nothing_is_dropped_for_it() -> None:
    residency = Residency(FakeShelf(), budget_bytes=40)
    residency.hold("a", ENCODE)
    with pytest.raises(GenServeError) as caught:
        residency.hold("a", DENOISE)
    assert caught.value.code == "stage_too_large"
    assert residency.resident == (("a", ENCODE),)


def test_a_released_stage_frees_its_room() -> None:
    shelf = FakeShelf(total=60)
    residency = Residency(shelf)
    residency.hold("a", DENOISE)
    residency.release("a", DENOISE)
    residency.release("a", DENOISE)
    assert shelf.loaded == set()
    residency.hold("b", DENOISE)
    assert residency.resident == (("b", DENOISE),)


def test_what_is_placed_here_without_room_beside_the_rest_is_displaced_and_nothing_is_dropped_for_it() -> None:
    residency = Residency(FakeShelf(), budget_bytes=65)
    told = told_by(residency)
    for stage in (DENOISE, ENCODE, DECODE):
        residency.place("a", stage)
    assert told == [("a", "denoise", True), ("a", "decode", True)]
    assert residency.displaced == (("a", ENCODE),)


def test_a_stage_that_gives_way_keeps_its_place_unless_it_was_a_guest_or_is_released() -> None:
    residency = Residency(FakeShelf(), budget_bytes=60)
    residency.place("a", DENOISE)
    changes: list[StageChange] = []
    residency.watch(changes.append)
    residency.hold("b", DENOISE)
    residency.hold("a", DENOISE)
    residency.release("a", DENOISE)
    dropped = [(change.model, change.displaced) for change in changes if not change.is_loaded]
    assert dropped == [("a", True), ("b", False), ("a", False)]
    assert residency.displaced == ()


def test_a_placed_stage_that_cannot_fit_even_alone_is_passed_over_and_the_others_are_held() -> None:
    residency = Residency(FakeShelf(), budget_bytes=40)
    for stage in Stage:
        residency.place("a", stage)
    assert residency.resident == (("a", DECODE), ("a", ENCODE))
    assert residency.displaced == ()


PLACEMENT = {"worker-0": ("*/encode", "a/decode"), "worker-*": ("a/denoise",), "worker-2": ("b",)}


def test_a_worker_holds_what_its_own_name_says_before_what_patterns_say() -> None:
    held = {w: stages_of(w, PLACEMENT, ("a", "b")) for w in ("worker-0", "worker-1", "worker-2", "other")}
    assert held["worker-0"] == (("a", ENCODE), ("a", DECODE), ("b", ENCODE))
    assert held["worker-1"] == (("a", DENOISE),)
    assert held["worker-2"] == (("b", ENCODE), ("b", DENOISE), ("b", DECODE))
    assert len(held["other"]) == 6


@pytest.mark.parametrize(
    ("placement", "word"),
    [({"worker-0": ("a/dance",)}, "a/dance"), ({"worker-0": ("c",)}, "'c'"), ({"gpu-7": ("a",)}, "gpu-7")],
)
def test_a_placement_that_names_what_is_not_there_is_refused_by_name(
    placement: dict[str, tuple[str, ...]], word: str
) -> None:
    check_placement(PLACEMENT, workers=("worker-0", "worker-1", "worker-2"), models=("a", "b"))
    with pytest.raises(CallerError, match=word) as caught:
        check_placement(placement, workers=("worker-0",), models=("a", "b"))
    assert caught.value.code == "invalid_placement"
