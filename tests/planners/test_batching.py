"""Batches: only of like requests, only as large as pays, and nobody late by one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostData, CostTable, StageCost
from genserve.domain.plan import Plan, Start
from genserve.domain.request import RequestSpec, Stage
from genserve.planners.batching import is_harmless, paying_sizes, share_steps
from genserve.planners.memory import Memory
from genserve.planners.save import Save
from genserve.planners.view import Task, View
from genserve.simulate.simulation import Scenario, simulate
from genserve.simulate.suite import check_plan
from tests.builders import FREE, IMAGE, SECOND, a_cluster, a_request, some_costs

STEP_US = 100_000
BATCHES = {2: 120_000, 4: 170_000, 8: 330_000}
"""A step of a batch: 60, 42.5 and 41.25 ms for each, so that 8 pays no more than 4."""


def costs(batches: dict[int, int] = BATCHES) -> CostTable:
    rows = [StageCost("t2i", Stage.DENOISE, IMAGE, us, 1, size) for size, us in batches.items()]
    return CostTable(CostData("batches", (*some_costs(step_us=STEP_US).data.stages, *rows), FREE))


def images(*within_s: float, **changes: object) -> list[RequestSpec]:
    """Ten steps each: 1.06 s alone, with encode and decode."""
    return [
        a_request(f"i{n:02}", steps=10, deadline_us=round(s * SECOND), **changes)  # type: ignore[arg-type]
        for n, s in enumerate(within_s)
    ]


def waiting(*specs: RequestSpec, workers: int = 1, table: CostTable | None = None) -> ClusterState:
    return a_cluster(workers, requests=specs, costs=table or costs()).state


def batches_of(plan: Plan) -> list[tuple[str, ...]]:
    return [a.request_ids for a in plan.actions if isinstance(a, Start) and a.stage is Stage.DENOISE]


def saved(state: ClusterState, **parts: bool) -> list[tuple[str, ...]]:
    return batches_of(Save(**parts).plan(state, Memory()))


# ── what pays ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_size_pays_that_makes_each_request_a_tenth_cheaper_than_the_last_size_that_did() -> None:
    assert paying_sizes(costs()) == {("t2i", IMAGE): (2, 4)}


def test_a_larger_batch_may_pay_where_a_smaller_one_does_not() -> None:
    assert paying_sizes(costs({2: 190_000, 4: 340_000})) == {("t2i", IMAGE): (4,)}


def test_no_size_pays_at_nearly_the_price_of_one_after_the_other_or_unmeasured() -> None:
    assert paying_sizes(costs({2: 190_000, 4: 380_000, 8: 760_000})) == {}
    assert paying_sizes(some_costs()) == {}


@st.composite
def queues(draw: st.DrawFn) -> tuple[list[RequestSpec], int]:
    within = draw(st.lists(st.floats(0.1, 12), min_size=1, max_size=12))
    return images(*within), draw(st.integers(0, 12))


@settings(max_examples=150, deadline=None)
@given(queue=queues(), seed=st.integers(0, 99))
def test_nobody_is_late_by_a_batch_and_none_is_larger_than_pays_or_asked_for(
    queue: tuple[list[RequestSpec], int], seed: int
) -> None:
    specs, excess = queue
    view = View(waiting(*specs))
    shared = share_steps(view.tasks, view, excess=excess)
    assert sorted(r.request_id for t in shared for r in t.requests) == sorted(s.request_id for s in specs)
    assert {t.size for t in shared} <= {1, 2, 4}
    assert len(specs) - len(shared) <= excess
    for batch in shared:
        ends_us = view.now_us + batch.run_us(1) + batch.encode_us + batch.decode_us
        for member in batch.members:
            assert ends_us <= member.deadline_us or member.slack_us(view.now_us, 1) < 0
        lost_us = sum(ends_us - n * 1_060_000 for n, m in enumerate(batch.members, 1) if m.slack_us(view.now_us, 1) < 0)
        assert lost_us <= 0
    shuffled = random.Random(seed).sample(view.tasks, len(view.tasks))
    again = share_steps(shuffled, view, excess=excess)
    assert [t.requests for t in again] == [t.requests for t in shared]


@pytest.mark.parametrize("changes", [{"steps": 9}, {"guidance_scale": 3.0}])
def test_requests_that_differ_in_steps_or_guidance_share_nothing(changes: dict[str, object]) -> None:
    first, second = images(60, 60)
    fields = {"deadline_us": 60 * SECOND, "steps": 10, **changes}
    view = View(waiting(first, a_request(second.request_id, **fields)))
    assert [t.size for t in share_steps(view.tasks, view, excess=5)] == [1, 1]


def test_late_requests_share_only_where_that_ends_them_earlier_on_average() -> None:
    """Two at 1.2 end at 1.32 instead of 1.06 and 2.12; at 1.7 they would end later than on average one by one."""
    for us, is_better in ((120_000, True), (170_000, False)):
        view = View(waiting(*images(0.1, 0.1), table=costs({2: us})))
        assert is_harmless(view.tasks, view) is is_better


# ── one task ─────────────────────────────────────────────────────────────────────────────────────────────


def in_a_batch(specs: list[RequestSpec], *, step: int, told: int = 99) -> list[Task]:
    """They run together on one worker; the first ``told`` have said that they are at that step, the others are at 0."""
    history = a_cluster(2, requests=specs, costs=costs())
    ids = tuple(s.request_id for s in specs)
    fields = {"request_ids": ids, "model": "t2i", "workers": ("w0",), "reason": "x"}
    history.decide(
        Start("e", stage=Stage.ENCODE, **fields),
        Start("d", stage=Stage.DENOISE, to_step=10, after="e", **fields),
        Start("v", stage=Stage.DECODE, after="d", **fields),
    )
    for number, name in enumerate(ids):
        history.of(name, e.StageStarted("e", Stage.ENCODE, 0, ("w0",)), e.StageFinished("e", Stage.ENCODE, 0, 0))
        history.of(name, e.StageStarted("d", Stage.DENOISE, 0, ("w0",), len(ids), 0))
        if step and number < told:
            history.of(name, e.StepsFinished("d", 0, 0, step, step * BATCHES[2], 1, len(ids)))
    return View(history.state).tasks


def test_a_running_batch_is_one_task_that_takes_the_steps_of_its_size() -> None:
    (task,) = in_a_batch(images(60, 50), step=4)
    assert (task.size, task.degree, task.steps) == (2, 1, 6)
    assert task.run_us(1) == 6 * BATCHES[2]
    assert task.deadline_us == 50 * SECOND


def test_a_running_batch_is_where_the_furthest_report_says() -> None:
    (task,) = in_a_batch(images(60, 50), step=4, told=1)
    assert task.steps == 6


def test_a_running_batch_is_due_with_the_first_member_that_can_still_be_on_time() -> None:
    (task,) = in_a_batch(images(0.5, 50, 60), step=4)
    assert task.deadline_us == 50 * SECOND


# ── save ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_images_that_outnumber_the_gpus_share_steps_and_others_do_not() -> None:
    specs = images(*(60,) * 4)
    assert saved(waiting(*specs, workers=1)) == [("i00", "i01", "i02", "i03")]
    assert saved(waiting(*specs, workers=3)) == [("i00", "i01"), ("i02",), ("i03",)]
    assert [len(b) for b in saved(waiting(*specs, workers=4))] == [1, 1, 1, 1]


def test_batches_can_be_switched_off() -> None:
    assert saved(waiting(*images(60, 60)), batching=False) == [("i00",)]


def test_an_image_that_cannot_wait_for_company_runs_alone() -> None:
    assert saved(waiting(*images(1.2, 60, 60))) == [("i00",)]


def test_a_batch_that_would_cost_another_request_its_deadline_is_not_made() -> None:
    """Alone the first ends at 1.06 and the odd one at 2.12; behind a batch it would end at 2.38."""
    odd = a_request("odd", steps=9, deadline_us=2_200_000)
    assert saved(waiting(*images(2.1, 60), odd)) == [("i00",)]


def test_late_images_share_the_gpu_they_get() -> None:
    assert saved(waiting(*images(0.1, 0.1))) == [("i00", "i01")]


def test_every_member_of_a_batch_that_cannot_start_is_told_why() -> None:
    history = a_cluster(1, requests=images(60, 60, 60, 60, 60), costs=costs())
    state = history.state
    assert check_plan(Save(), state, Memory()) == []
    told = {w.request_id for w in Save().plan(state, Memory()).waiting}
    assert told == {"i04"}


def test_batches_serve_a_burst_in_little_more_than_half_the_time() -> None:
    ends = {}
    for batching in (False, True):
        run = simulate(Save(batching=batching), Scenario(tuple(images(*(60,) * 16)), costs(), gpus=2))
        ends[batching] = max(r.recorded_us for r in run.log if isinstance(r.event, e.RequestCompleted))
    assert ends[True] < 0.6 * ends[False]


def test_a_member_cancelled_between_steps_leaves_the_others_the_steps_of_a_smaller_batch() -> None:
    """Two of 120 ms after an encode of 20, then one of 100 ms: the cancel comes in the second step."""
    run = simulate(Save(), Scenario(tuple(images(60, 60)), costs({2: 120_000}), gpus=1, cancels=((150_000, "i01"),)))
    took = [r.event for r in run.log if isinstance(r.event, e.StepsFinished) and r.stream == "request/i00"]
    assert [(s.to_step, s.batch, s.took_us) for s in took] == [
        (1, 2, 120_000),
        (2, 2, 120_000),
        (3, 1, 100_000),
        (10, 1, 700_000),
    ]
    assert [r.stream for r in run.log if isinstance(r.event, e.RequestCancelled)] == ["request/i01"]


def test_a_batch_gives_way_whole_and_goes_on_together() -> None:
    clip = a_request("clip", steps=10, deadline_us=300_000 + 1_400_000, arrival_us=300_000)
    log = simulate(Save(), Scenario((*images(60, 60, 60, 60), clip), costs(), gpus=1)).log
    paused = [r.stream for r in log if isinstance(r.event, e.RequestPaused)]
    assert len(paused) == 4
    starts = [r.event for r in log if isinstance(r.event, e.StageStarted) and r.event.stage is Stage.DENOISE]
    assert [s.batch for s in starts] == [4] * 4 + [1] + [4] * 4
    assert starts[-1].from_step > 0
