"""Admission: promises that can be kept, quotes that can be promised."""

from __future__ import annotations

from genserve.planners.admission import Admission, judge
from genserve.planners.memory import Memory
from genserve.planners.save import Save
from genserve.simulate.compare import Entrant, Setting, run_one
from genserve.simulate.workloads import Workload
from tests.builders import SECOND
from tests.planners.states import a_scene, a_spec, started


def test_a_request_that_fits_is_admitted_with_its_own_deadline() -> None:
    spec = a_spec("video-M", "r", within=60)
    assert judge(a_scene(2).at(0), Memory(), spec).quote_us == 60 * SECOND


def test_a_deadline_that_no_degree_meets_is_refused_with_one_that_could_be_met() -> None:
    verdict = judge(a_scene(8).at(0), Memory(), a_spec("video-L", "r", within=3))
    assert not verdict.is_admitted
    assert verdict.reason == "no degree is fast enough for its deadline"
    assert round(verdict.quote_us / SECOND, 1) == 52.5


def test_a_full_pool_refuses_and_quotes_a_deadline_behind_what_it_has_promised() -> None:
    scene = a_scene(1).wait(*(a_spec("video-M", f"v{i}", within=30 + 30 * i) for i in range(3)))
    verdict = judge(scene.at(0), Memory(), a_spec("video-M", "r", within=35))
    assert not verdict.is_admitted
    assert verdict.quote_us > 90 * SECOND
    assert verdict.reason == "the pool is promised to others until 90000 ms after its arrival"


def test_a_full_pool_still_admits_what_is_due_after_everything_promised() -> None:
    scene = a_scene(1).wait(*(a_spec("video-M", f"v{i}", within=30 + 30 * i) for i in range(3)))
    assert judge(scene.at(0), Memory(), a_spec("video-M", "r", within=300)).is_admitted


def test_without_workers_nothing_can_be_promised() -> None:
    assert judge(a_scene(0).at(0), Memory(), a_spec("image-S", "r")).quote_us == 0


def test_an_admitted_request_that_became_late_is_not_given_up() -> None:
    scene = a_scene(1).wait(a_spec("video-M", "late", within=12), a_spec("video-M", "fresh", within=30))
    assert list(started(Save(admitted=True, expansion=False).plan(scene.at(5), Memory()))) == ["late"]
    assert list(started(Save(expansion=False).plan(scene.at(5), Memory()))) == ["fresh"]


def test_under_overload_nearly_everyone_who_is_admitted_is_on_time() -> None:
    setting = Setting(Workload(rate=39, requests=150), admission=Admission(0.75))
    score = run_one(setting, Entrant("save", {"admitted": True}), 0)
    assert score.refused > 0.05
    assert score.admitted_on_time > 0.97
    assert score.worst_lateness < 0.6
