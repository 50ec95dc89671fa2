"""A segment that goes on from a stop: queued while the stop is under way, void where there is none."""

from __future__ import annotations

from genserve.domain import events as e
from genserve.domain.laws import check_laws
from genserve.domain.plan import Start, Yield
from genserve.domain.request import Stage
from tests.builders import History, a_cluster, a_request

ENCODE, DENOISE, DECODE = Stage
BOTH = ("w0", "w1")


def a_start(name: str, stage: Stage, *workers: str, after: str = "", from_step: int | None = 0) -> Start:
    return Start(name, ("r1",), "t2i", stage, workers, "because", from_step, 4 if stage is DENOISE else 0, after)


WIDER = (a_start("wider", DENOISE, *BOTH, after="narrow", from_step=None), a_start("last", DECODE, "w0", after="wider"))


def stopping() -> History:
    """r1 denoises on w0 and was told to stop at its next boundary, the second."""
    history = a_cluster(3, requests=[a_request("r1")])
    history.decide(
        a_start("encode", ENCODE, "w0"),
        a_start("narrow", DENOISE, "w0", after="encode"),
        a_start("decode", DECODE, "w0", after="narrow"),
    )
    history.of("r1", e.StageStarted("encode", ENCODE, 0, ("w0",)), e.StageFinished("encode", ENCODE, 0, 1))
    history.of("r1", e.StageStarted("narrow", DENOISE, 0, ("w0",)), e.StepsFinished("narrow", 0, 0, 1, 9, 1))
    return history.decide(Yield("narrow", "grows"))


def stop(history: History) -> History:
    return history.of("r1", e.StepsFinished("narrow", 0, 1, 2, 9, 1), e.RequestPaused("narrow", 0, 2, "w0"))


def queues(history: History) -> dict[str, tuple[str, ...]]:
    return {name: worker.queue for name, worker in history.state.workers.items() if worker.queue}


def test_a_stop_leaves_what_goes_on_from_it_in_the_queue() -> None:
    history = stop(stopping().decide(*WIDER))
    assert history.state.requests["r1"].segments == ("wider", "last")
    assert queues(history) == {"w0": ("wider", "last"), "w1": ("wider",)}


def test_what_goes_on_begins_at_the_step_of_the_stop() -> None:
    history = stop(stopping().decide(*WIDER))
    history.of("r1", e.StageStarted("wider", DENOISE, 0, BOTH, 1, 2), e.StepsFinished("wider", 0, 2, 4, 9, 2))
    history.of("r1", e.StageFinished("wider", DENOISE, 0, 1), e.StageStarted("last", DECODE, 0, ("w0",)))
    assert check_laws(history.log) == []
    assert history.state.requests["r1"].step == 4


def test_an_end_instead_of_the_stop_voids_what_was_to_go_on() -> None:
    history = stopping().decide(*WIDER)
    history.of("r1", e.StepsFinished("narrow", 0, 1, 4, 9, 1), e.StageFinished("narrow", DENOISE, 0, 1))
    assert history.state.requests["r1"].segments == ("decode",)
    assert queues(history) == {"w0": ("decode",)}


def test_what_is_decided_when_the_stop_is_over_is_void_with_what_comes_after_it() -> None:
    history = stop(stopping()).decide(*WIDER)
    assert history.state.requests["r1"].segments == ()
    assert queues(history) == {}
    history.decide(a_start("again", DENOISE, "w1", from_step=2))
    history.of("r1", e.StageStarted("again", DENOISE, 0, ("w1",), 1, 2))
    assert check_laws(history.log) == []


def test_a_stop_of_what_went_on_leaves_nothing() -> None:
    history = stop(stopping().decide(*WIDER))
    history.of("r1", e.StageStarted("wider", DENOISE, 0, BOTH, 1, 2), e.RequestPaused("wider", 0, 2, "w0"))
    assert (history.state.requests["r1"].segments, queues(history)) == ((), {})


def test_the_loss_of_a_worker_that_was_to_join_leaves_what_runs() -> None:
    history = stopping().decide(*WIDER).add("worker/w1", e.WorkerLost("w1", 1, "died"))
    assert history.state.requests["r1"].segments == ("narrow", "decode")
    assert history.state.requests["r1"].attempt == 0
    stop(history).decide(a_start("again", DENOISE, "w2", from_step=2))
    history.of("r1", e.StageStarted("again", DENOISE, 0, ("w2",), 1, 2))
    assert check_laws(history.log) == []


def test_a_refusal_of_what_was_to_go_on_leaves_what_runs() -> None:
    history = stopping().decide(*WIDER).add("scheduler", e.ActionRefused("wider", "w1", "unsupported_degree", ""))
    assert history.state.requests["r1"].segments == ("narrow", "decode")


def test_a_gpu_that_runs_what_an_older_attempt_began_is_free_for_the_next_one() -> None:
    history = stop(stopping().decide(*WIDER))
    history.of("r1", e.StageStarted("wider", DENOISE, 0, BOTH, 1, 2)).add("worker/w1", e.WorkerLost("w1", 1, "died"))
    history.decide(a_start("anew", ENCODE, "w0"))
    history.of("r1", e.StageStarted("anew", ENCODE, 1, ("w0",)))
    assert check_laws(history.log) == []
