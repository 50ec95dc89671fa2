"""Residency and stages on different workers, in the state, in legal plans and after losses."""

from __future__ import annotations

from msgspec import UNSET

from genserve.domain import events as e
from genserve.domain.ids import worker_stream
from genserve.domain.laws import check_laws
from genserve.domain.placement import denoisers, holders, is_free, missing, places
from genserve.domain.plan import Load, Plan, Start, Unload
from genserve.domain.request import Stage, Status
from genserve.planners.validate import find_faults
from tests.builders import History, a_request, some_costs

ENCODE, DENOISE, DECODE = Stage
LIGHT, HEAVY = (("t2i", ENCODE), ("t2i", DECODE)), (("t2i", DENOISE),)


def a_split_cluster(*requests: str) -> History:
    """w0 encodes and decodes, w1 and w2 denoise."""
    history = History()
    history.now_us = 1
    for name, resident in (("w0", LIGHT), ("w1", HEAVY), ("w2", HEAVY)):
        history.add(worker_stream(name), e.WorkerJoined(name, 1, resident=resident))
    return history.costs(some_costs()).submit(*(a_request(name) for name in requests))


def chain(request: str, *, on: str = "w1", start: str = "s") -> tuple[Start, ...]:
    rows = ((ENCODE, "w0", "", 0), (DENOISE, on, "1", 4), (DECODE, "w0", "2", 0))
    return tuple(
        Start(f"{start}{n}", (request,), "t2i", stage, (worker,), "", 0, to_step, after and f"{start}{after}")
        for n, (stage, worker, after, to_step) in enumerate(rows, 1)
    )


def run(history: History, request: str, segment: str, stage: Stage, worker: str, *, is_finished: bool = True) -> None:
    history.of(request, e.StageStarted(segment, stage, 0, (worker,)))
    if stage is DENOISE and is_finished:
        history.of(request, e.StepsFinished(segment, 0, 0, 4, 400))
    if is_finished:
        history.of(request, e.StageFinished(segment, stage, 0, 5))


def lose(history: History, worker: str) -> None:
    history.add(worker_stream(worker), e.WorkerLost(worker, 1, "gone"))


def test_residency_follows_loads_and_unloads() -> None:
    history = a_split_cluster()
    assert missing(history.state, ("w0", "w1"), "t2i", DENOISE) == ("w0",)
    assert holders(history.state, "t2i", DENOISE) == denoisers(history.state) == {"w1", "w2"}
    history.add(worker_stream("w0"), e.StageLoaded("w0", "t2i", DENOISE, 5))
    history.add(worker_stream("w1"), e.StageUnloaded("w1", "t2i", DENOISE))
    assert holders(history.state, "t2i", DENOISE) == {"w0", "w2"}
    assert holders(history.state, "t2v", DENOISE) == {"w0", "w1", "w2"}, "whoever runs it has to load it"


def test_a_worker_that_drops_its_denoiser_to_decode_is_still_one_to_denoise_on() -> None:
    history = History()
    for name in ("w0", "w1"):
        history.add(worker_stream(name), e.WorkerJoined(name, 1, resident=HEAVY, displaced=LIGHT))
    history.add(worker_stream("w1"), e.StageUnloaded("w1", "t2i", DENOISE, displaced=True))
    history.add(worker_stream("w1"), e.StageLoaded("w1", "t2i", DECODE, 5))
    state = history.state
    assert denoisers(state) == places(state, "t2i", DENOISE) == {"w0", "w1"}
    assert holders(state, "t2i", DENOISE) == {"w0"}
    assert state.workers["w1"].displaced == (("t2i", DENOISE), ("t2i", ENCODE))
    history.add(worker_stream("w1"), e.StageUnloaded("w1", "t2i", DECODE))
    for stage in Stage:
        history.add(worker_stream("w1"), e.StageLoaded("w1", "t2i", stage, 5))
    assert history.state.workers["w1"].displaced is UNSET


def test_where_nobody_has_said_what_it_holds_nothing_is_missing() -> None:
    state = History().workers(2).state
    assert missing(state, ("w0", "w1"), "t2i", DENOISE) == ()
    assert denoisers(state) == {"w0", "w1"}


def test_a_worker_whose_decodes_wait_for_others_is_free() -> None:
    history = a_split_cluster("r1").decide(*chain("r1"))
    assert not is_free(history.state, history.state.workers["w0"])
    run(history, "r1", "s1", ENCODE, "w0")
    assert is_free(history.state, history.state.workers["w0"])
    assert not is_free(history.state, history.state.workers["w1"])


def test_a_chain_over_two_workers_is_legal_and_so_is_the_next_one_behind_its_encode() -> None:
    history = a_split_cluster("r1", "r2")
    assert find_faults(history.state, Plan(chain("r1"))) == []
    history.decide(*chain("r1"))
    assert find_faults(history.state, Plan(chain("r2", on="w2", start="t"))) == []
    assert find_faults(history.state, Plan(chain("r2", on="w0", start="t"))) == []


def test_nothing_queues_behind_a_denoise_without_being_told_to() -> None:
    history = a_split_cluster("r1", "r2").decide(*chain("r1", on="w0"))
    (fault, *_) = find_faults(history.state, Plan(chain("r2", start="t")))
    assert "w0 is busy" in fault


def test_loading_what_is_held_and_unloading_what_is_not_or_is_needed_are_faults() -> None:
    history = a_split_cluster("r1").decide(*chain("r1"))
    plan = Plan(
        (
            Load("w1", "t2i", DENOISE, ""),
            Unload("w0", "t2i", DENOISE, ""),
            Unload("w1", "t2i", DENOISE, ""),
            Unload("w2", "t2i", DENOISE, ""),
            Load("w0", "t2i", DENOISE, ""),
        )
    )
    assert find_faults(history.state, plan) == [
        "t2i/denoise: w1 holds it already",
        "t2i/denoise: w0 does not hold it",
        "t2i/denoise leaves w1, whose queue needs it",
    ]


def test_losing_the_worker_that_will_decode_leaves_the_denoising_alone() -> None:
    history = a_split_cluster("r1").decide(*chain("r1"))
    run(history, "r1", "s1", ENCODE, "w0")
    run(history, "r1", "s2", DENOISE, "w1", is_finished=False)
    lose(history, "w0")
    request = history.state.requests["r1"]
    assert (request.attempt, request.segments, request.status) == (0, ("s2",), Status.RUNNING)
    history.of("r1", e.StepsFinished("s2", 0, 0, 4, 400), e.StageFinished("s2", DENOISE, 0, 5))
    request = history.state.requests["r1"]
    assert (request.stage, request.home, request.is_idle) == (DECODE, "w1", True)
    assert check_laws(history.log) == []


def test_losing_the_worker_that_denoised_leaves_a_decode_that_runs_alone() -> None:
    history = a_split_cluster("r1").decide(*chain("r1"))
    for segment, stage, worker in (("s1", ENCODE, "w0"), ("s2", DENOISE, "w1")):
        run(history, "r1", segment, stage, worker)
    run(history, "r1", "s3", DECODE, "w0", is_finished=False)
    lose(history, "w1")
    assert history.state.requests["r1"].segments == ("s3",)


def test_losing_the_worker_that_denoises_starts_over_and_frees_the_one_that_would_decode() -> None:
    history = a_split_cluster("r1").decide(*chain("r1"))
    run(history, "r1", "s1", ENCODE, "w0")
    run(history, "r1", "s2", DENOISE, "w1", is_finished=False)
    lose(history, "w1")
    state = history.state
    assert (state.requests["r1"].attempt, state.requests["r1"].stage) == (1, ENCODE)
    assert state.workers["w0"].queue == ()
