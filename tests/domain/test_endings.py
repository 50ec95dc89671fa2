"""When a busy worker comes free, and from when on the next segment may be queued behind its last one."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.estimate import release_us
from genserve.domain.placement import ending, endings
from genserve.domain.plan import Start, Yield
from genserve.domain.request import Stage
from tests.builders import History, a_cluster, a_request

ENCODE, DENOISE, DECODE = Stage
DISPATCH_US = 5_000
STAGES = {ENCODE: 10_000, DENOISE: 4 * 100_000, DECODE: 50_000}


def a_chain(request: str, *, after: str = "", leader: str = "w0") -> tuple[Start, ...]:
    starts = []
    for stage in Stage:
        to_step = 4 if stage is DENOISE else 0
        segment = f"{request}-{stage}"
        starts.append(Start(segment, (request,), "t2i", stage, (leader,), "", 0, to_step, after))
        after = segment
    return tuple(starts)


def a_history(*, workers: int = 1) -> History:
    """r1 is decided at 1 000 us, begins a dispatch later and waits for its encode's end; r2 waits."""
    history = a_cluster(workers, requests=[a_request("r1"), a_request("r2")])
    history.decide(*a_chain("r1"), at_us=1_000)
    return history.of("r1", e.StageStarted("r1-encode", ENCODE, 0, ("w0",)), at_us=1_000 + DISPATCH_US)


def decoding() -> History:
    """r1 decodes since 500 000 us."""
    history = a_history()
    history.of("r1", e.StageFinished("r1-encode", ENCODE, 0, 1))
    history.of("r1", e.StageStarted("r1-denoise", DENOISE, 0, ("w0",)))
    history.of("r1", e.StageFinished("r1-denoise", DENOISE, 0, 1))
    return history.of("r1", e.StageStarted("r1-decode", DECODE, 0, ("w0",)), at_us=500_000)


def release(state: ClusterState, worker: str = "w0") -> int:
    return release_us(state, state.workers[worker])


def at(state: ClusterState, clock_us: int) -> ClusterState:
    return replace(state, clock_us=clock_us)


def test_a_dispatch_is_what_lies_between_a_decision_and_the_first_start_of_an_idle_worker() -> None:
    assert a_history().state.dispatch_us == DISPATCH_US


def test_what_queued_behind_others_or_took_very_long_says_nothing_about_dispatching() -> None:
    history = decoding()
    history.decide(*a_chain("r2", after="r1-decode"))
    history.of("r1", e.StageFinished("r1-decode", DECODE, 0, 1), at_us=600_000)
    history.of("r2", e.StageStarted("r2-encode", ENCODE, 0, ("w0",)))
    assert history.state.dispatch_us == DISPATCH_US
    loading = a_cluster(1, requests=[a_request("r1")])
    loading.decide(*a_chain("r1"), at_us=1_000)
    loading.of("r1", e.StageStarted("r1-encode", ENCODE, 0, ("w0",)), at_us=5_000_000)
    assert loading.state.dispatch_us is UNSET


def test_a_worker_is_released_when_all_stages_in_its_queue_have_run() -> None:
    assert release(a_history().state) == 1_000 + DISPATCH_US + sum(STAGES.values())
    assert release(decoding().state) == 500_000 + STAGES[DECODE]


def test_steps_that_were_measured_slow_release_their_worker_later() -> None:
    history = a_history()
    history.of("r1", e.StageFinished("r1-encode", ENCODE, 0, 1))
    history.of("r1", e.StageStarted("r1-denoise", DENOISE, 0, ("w0",)), at_us=20_000)
    history.of("r1", e.StepsFinished("r1-denoise", 0, 0, 1, 200_000, 1), at_us=220_000)
    assert release(history.state) == 20_000 + 2 * STAGES[DENOISE] + STAGES[DECODE]


def test_a_release_that_depends_on_a_stop_or_on_another_worker_is_unknown() -> None:
    assert release(a_history().decide(Yield("r1-encode", "gives way")).state) == 0
    elsewhere = a_history(workers=2)
    elsewhere.decide(*a_chain("r2", after="r1-decode", leader="w1"))
    assert release(elsewhere.state, "w1") == 0


def test_a_worker_is_ending_two_dispatches_before_its_release() -> None:
    state = decoding().state
    last_us = 500_000 + STAGES[DECODE] - 2 * DISPATCH_US
    assert ending(at(state, last_us - 1), state.workers["w0"]) == ""
    assert ending(at(state, last_us), state.workers["w0"]) == "r1-decode"


def test_nothing_is_ending_where_dispatching_takes_no_time() -> None:
    state = replace(decoding().state, dispatch_us=UNSET)
    assert ending(at(state, 540_000), state.workers["w0"]) == ""
    assert endings(state) == {}


def test_others_may_be_queued_behind_a_stop_a_lead_before_its_boundary() -> None:
    history = a_history()
    history.of("r1", e.StageFinished("r1-encode", ENCODE, 0, 1))
    history.of("r1", e.StageStarted("r1-denoise", DENOISE, 0, ("w0",)), at_us=100_000)
    history.decide(Yield("r1-denoise", "gives way"), at_us=150_000)
    assert endings(history.state) == {"r1-decode": 200_000 - 2 * DISPATCH_US}
    worker = history.state.workers["w0"]
    assert [ending(at(history.state, us), worker) for us in (189_999, 190_000)] == ["", "r1-decode"]
