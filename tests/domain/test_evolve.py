"""Folding facts: a batch equals its facts one by one, late facts change nothing, and each fact does what it says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.evolve import evolve, fold
from genserve.domain.plan import Accept, Cancel, Defer, Start, Yield
from genserve.domain.request import Checkpoint, Stage, Status
from genserve.planners.registry import build_planner
from genserve.simulate.simulation import Outage, Scenario, simulate
from tests.builders import SECOND, VIDEO, History, a_cluster, a_request, some_costs


def a_start(request_id: str = "r1", stage: Stage = Stage.DENOISE, **changes: object) -> Start:
    fields = {"to_step": 4 if stage is Stage.DENOISE else 0, "from_step": 0, "workers": ("w0",), **changes}
    return Start(f"s-{request_id}-{stage}", (request_id,), "t2i", stage, reason="", **fields)  # type: ignore[arg-type]


def a_running_request(**changes: object) -> History:
    history = a_cluster(2, requests=[a_request()])
    history.decide(a_start(stage=Stage.ENCODE), a_start(**changes))
    history.of("r1", e.StageStarted("s-r1-encode", Stage.ENCODE, 0, ("w0",)), at_us=10)
    history.of("r1", e.StageFinished("s-r1-encode", Stage.ENCODE, 0, 10), at_us=20)
    return history.of("r1", e.StageStarted("s-r1-denoise", Stage.DENOISE, 0, ("w0",)), at_us=20)


def random_log(seed: int) -> tuple[e.Recorded, ...]:
    draw = random.Random(seed)
    specs, now = [], 0
    for index in range(8):
        now += draw.randrange(2 * SECOND)
        shape = {"shape": VIDEO} if draw.random() < 0.5 else {}
        specs.append(a_request(f"r{index}", arrival_us=now, **shape))
    outages = (Outage("gpu-0000", draw.randrange(1, 9) * SECOND, 10 * SECOND),)
    cancels = ((draw.randrange(9) * SECOND, f"r{draw.randrange(8)}"),)
    planner = build_planner(draw.choice(("fifo", "srtf", "edf", "save")))
    return simulate(planner, Scenario(tuple(specs), some_costs(), 2, outages=outages, cancels=cancels)).log


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.data())
def test_folding_a_batch_equals_evolving_one_by_one(seed: int, data: st.DataObject) -> None:
    log = random_log(seed)
    cut = data.draw(st.integers(0, len(log)))
    state = ClusterState()
    for recorded in log[:cut]:
        state = evolve(state, recorded)
    one_by_one = fold(ClusterState(), log[:cut])
    assert (one_by_one.requests, one_by_one.segments) == (state.requests, state.segments)
    assert (one_by_one.workers, one_by_one.pace, one_by_one.position) == (state.workers, state.pace, state.position)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.data())
def test_any_fact_repeated_out_of_time_leaves_a_state_that_still_folds(seed: int, data: st.DataObject) -> None:
    log = list(random_log(seed))
    index = data.draw(st.integers(0, len(log) - 1))
    state = fold(ClusterState(), [*log, log[index]])
    assert all(s in state.segments for r in state.requests.values() for s in r.segments)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.data())
def test_queues_segments_and_requests_always_name_each_other(seed: int, data: st.DataObject) -> None:
    log = random_log(seed)
    state = fold(ClusterState(), log[: data.draw(st.integers(0, len(log)))])
    for segment in state.segments.values():
        assert all(segment.segment_id in state.workers[w].queue for w in segment.workers)
        assert all(segment.segment_id in state.requests[r].segments for r in segment.request_ids)
    for worker in state.workers.values():
        assert all(s in state.segments for s in worker.queue)


def test_a_decided_start_queues_the_segment_on_its_workers() -> None:
    state = a_cluster(2, requests=[a_request()]).decide(a_start(workers=("w0", "w1"))).state
    assert state.workers["w1"].queue == ("s-r1-denoise",)
    assert state.requests["r1"].segments == ("s-r1-denoise",)


def test_steps_move_the_request_and_its_last_known_boundary() -> None:
    history = a_running_request().of("r1", e.StepsFinished("s-r1-denoise", 0, 0, 3, 300), at_us=320)
    assert history.state.requests["r1"].step == 3
    assert history.state.segments["s-r1-denoise"].boundary_us == 320


def test_measured_steps_correct_the_pace_of_the_request_and_its_class() -> None:
    history = a_running_request().of("r1", e.StepsFinished("s-r1-denoise", 0, 0, 1, 150_000), at_us=320)
    assert history.state.requests["r1"].pace_permille == 1500
    assert history.state.pace["t2i/64x64"].permille == 1500


def test_a_step_far_faster_than_estimated_still_takes_time() -> None:
    history = a_running_request()
    for done in range(100):
        history = history.of("r1", e.StepsFinished("s-r1-denoise", 0, done, done + 1, 0), at_us=320)
    assert history.state.requests["r1"].pace_permille == 1
    assert history.state.pace["t2i/64x64"].permille == 1


def test_a_pause_drops_later_segments_and_keeps_step_and_home() -> None:
    history = a_running_request().of("r1", e.RequestPaused("s-r1-denoise", 0, 2, "w0"), at_us=300)
    request = history.state.requests["r1"]
    assert (request.status, request.step, request.home, request.segments) == (Status.PAUSED, 2, "w0", ())
    assert history.state.segments == {}


def test_facts_of_an_older_attempt_change_nothing() -> None:
    history = a_running_request().of("r1", e.AttemptFailed(0, "out_of_memory", ""), at_us=30)
    before = history.state.requests["r1"]
    history.of("r1", e.StepsFinished("s-r1-denoise", 0, 0, 3, 300), at_us=320)
    assert history.state.requests["r1"] == before


def test_a_lost_worker_sends_its_requests_back_to_their_checkpoint() -> None:
    history = a_running_request().of("r1", e.StepsFinished("s-r1-denoise", 0, 0, 3, 300), at_us=320)
    history.of("r1", e.LatentsCheckpointed(0, 2, "file", 1, "hash"))
    history.add("worker/w0", e.WorkerLost("w0", 1, "killed"))
    request = history.state.requests["r1"]
    assert (request.attempt, request.step, request.status) == (1, 2, Status.PAUSED)
    assert request.checkpoint == Checkpoint(2, 0, "file", 1, "hash")


def test_a_refused_segment_frees_its_group_and_starts_a_new_attempt() -> None:
    history = a_running_request().add("worker/w0", e.ActionRefused("s-r1-denoise", "w0", "stale", ""))
    assert history.state.workers["w0"].queue == ()
    assert history.state.requests["r1"].attempt == 1


def test_after_decode_the_group_is_free_and_the_request_finishing() -> None:
    history = a_cluster(1, requests=[a_request()]).decide(a_start(stage=Stage.DECODE))
    history.of("r1", e.StageStarted("s-r1-decode", Stage.DECODE, 0, ("w0",)))
    history.of("r1", e.StageFinished("s-r1-decode", Stage.DECODE, 0, 5))
    assert history.state.requests["r1"].status is Status.FINISHING
    assert history.state.workers["w0"].queue == ()


@pytest.mark.parametrize("end", [e.RequestCompleted(0), e.RequestCancelled(), e.RequestFailed("code", "text")])
def test_an_ended_request_leaves_the_state(end: e.AnyEvent) -> None:
    assert a_running_request().of("r1", end).state.requests == {}


def test_yield_and_cancel_mark_what_they_stop() -> None:
    state = a_running_request().decide(Yield("s-r1-denoise", ""), Cancel("r1", "")).state
    assert state.segments["s-r1-denoise"].yielding
    assert state.requests["r1"].stopping


def test_weights_that_come_and_go_are_resident_in_between() -> None:
    history = a_cluster(1).add("worker/w0", e.StageLoaded("w0", "t2i", Stage.DENOISE, 5))
    assert history.state.workers["w0"].resident == (("t2i", Stage.DENOISE),)
    history.add("worker/w0", e.StageUnloaded("w0", "t2i", Stage.DENOISE))
    assert history.state.workers["w0"].resident == ()


def test_a_restarted_worker_begins_empty_and_an_older_incarnation_is_ignored() -> None:
    history = a_running_request().add("worker/w0", e.WorkerJoined("w0", 2))
    assert history.state.workers["w0"].queue == ()
    assert history.add("worker/w0", e.WorkerJoined("w0", 1)).state.workers["w0"].incarnation == 2


def an_answered_cascade(*, heavy_steps: int = 7) -> History:
    """The light model of a cascade has answered and its answer scored 0.3."""
    spec = a_request(heavy_model="heavy", heavy_steps=heavy_steps)
    history = a_cluster(1, requests=[spec]).decide(a_start(stage=Stage.DECODE))
    history.of("r1", e.StageStarted("s-r1-decode", Stage.DECODE, 0, ("w0",)))
    return history.of("r1", e.StageFinished("s-r1-decode", Stage.DECODE, 0, 5), e.AnswerScored(0, 300))


def test_a_scored_answer_waits_for_a_decision_and_for_no_gpu() -> None:
    request = an_answered_cascade().state.requests["r1"]
    assert (request.is_answered, request.is_idle, request.score_permille) == (True, False, 300)


def test_a_deferred_answer_begins_anew_on_the_heavy_model() -> None:
    request = an_answered_cascade().decide(Defer("r1", "")).state.requests["r1"]
    assert (request.spec.model, request.spec.steps, request.spec.heavy_model) == ("heavy", 7, "")
    assert (request.status, request.stage, request.step) == (Status.WAITING, Stage.ENCODE, 0)


def test_an_accepted_answer_only_has_to_be_stored() -> None:
    request = an_answered_cascade().decide(Accept("r1", "")).state.requests["r1"]
    assert (request.status, request.is_answered) == (Status.FINISHING, False)


def test_a_deferral_without_an_answer_changes_nothing() -> None:
    history = a_running_request()
    before = history.state.requests["r1"]
    assert history.decide(Defer("r1", "")).state.requests["r1"] == before
