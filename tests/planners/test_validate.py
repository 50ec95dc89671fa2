"""An illegal plan is refused in words that name the ids."""

from __future__ import annotations

import pytest

from genserve.domain.cluster import ClusterState
from genserve.domain.plan import Cancel, Load, Plan, Start, Yield
from genserve.domain.request import Stage
from genserve.planners.validate import find_faults
from tests.builders import VIDEO, History, a_cluster, a_request
from tests.domain.test_evolve import a_running_request


def encode(name: str = "s1", request: str = "r1", *workers: str, after: str = "") -> Start:
    return Start(name, (request,), "t2i", Stage.ENCODE, workers or ("w0",), "", 0, 0, after)


def denoise(name: str, *requests: str, workers: tuple[str, ...] = ("w0",), **changes: object) -> Start:
    fields = {"from_step": 0, "to_step": 4, "after": "", "model": "t2i", **changes}
    return Start(name, requests, stage=Stage.DENOISE, workers=workers, reason="", **fields)  # type: ignore[arg-type]


def a_state(workers: int = 2) -> ClusterState:
    specs = [a_request("r1"), a_request("r2"), a_request("v1", shape=VIDEO)]
    return a_cluster(workers, requests=specs).state


def an_encoded(workers: int = 4) -> History:
    """r1 and r2 are encoded and wait to denoise."""
    history = a_cluster(workers, requests=[a_request("r1"), a_request("r2", steps=5)])
    from genserve.domain import events as e

    history.decide(encode("e1", "r1"), encode("e2", "r2", after="e1"))
    for name, segment in (("r1", "e1"), ("r2", "e2")):
        history.of(name, e.StageStarted(segment, Stage.ENCODE, 0, ("w0",)))
        history.of(name, e.StageFinished(segment, Stage.ENCODE, 0, 5))
    return history


def faults(*actions: object, state: ClusterState | None = None) -> str:
    return "; ".join(find_faults(state or a_state(), Plan(tuple(actions))))  # type: ignore[arg-type]


def test_a_whole_chain_is_legal() -> None:
    chain = [
        encode("a"),
        denoise("b", "r1", after="a"),
        Start("c", ("r1",), "t2i", Stage.DECODE, ("w0",), "", after="b"),
    ]
    assert faults(*chain) == ""


def test_nothing_is_legal() -> None:
    assert find_faults(a_state(), Plan()) == []


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (encode("a", "ghost"), "ghost is started but is not a live request"),
        (encode("a", "r1", "w9"), "w9 is not a worker"),
        (encode("a", "r1", "w0", "w1"), "encode takes one GPU, got 2"),
        (encode("a", after="nothing"), "waits for nothing, which does not exist"),
        (denoise("a", "r1"), "r1 is at encode, not at denoise"),
        (Yield("nothing", ""), "segment nothing yields but does not exist"),
        (Cancel("ghost", ""), "ghost is cancelled but is not a live request"),
        (Load("w9", "t2i", Stage.DENOISE, ""), "w9 is not a worker"),
        (Start("a", (), "t2i", Stage.ENCODE, ("w0",), ""), "a batch names each request once"),
        (Start("a", ("r1",), "other", Stage.ENCODE, ("w0",), ""), "r1 cannot run"),
    ],
)
def test_an_action_on_what_is_not_there_is_a_fault(action: object, says: str) -> None:
    assert says in faults(action)


def test_two_starts_on_one_free_gpu_are_a_fault() -> None:
    assert "w0 is busy with a" in faults(encode("a", "r1"), encode("b", "r2"))


def test_a_group_of_three_is_a_fault() -> None:
    state = an_encoded().state
    assert "1, 2, 4, ... different workers" in faults(denoise("a", "r1", workers=("w0", "w1", "w2")), state=state)


def test_a_group_across_nodes_is_a_fault() -> None:
    history = History().workers(2, per_node=1).submit(a_request())
    start = denoise("a", "r1", workers=("w0", "w1"))
    assert "crosses nodes" in faults(start, state=history.state)


def test_steps_that_do_not_follow_are_a_fault() -> None:
    wrong = denoise("a", "r1", workers=("w1",), from_step=2)
    assert "r1 is at step 0, asked for 2 to 4" in faults(wrong, state=an_encoded().state)


def test_a_batch_of_unlike_requests_is_a_fault() -> None:
    assert "differ in model, shape, steps" in faults(denoise("a", "r1", "r2"), state=an_encoded().state)


def test_a_segment_yields_once() -> None:
    state = a_running_request().decide(Yield("s-r1-denoise", "")).state
    assert "already yielding" in faults(Yield("s-r1-denoise", ""), state=state)


def test_an_id_is_used_once() -> None:
    assert "the id is taken" in faults(encode("a", "r1"), encode("a", "r2", "w1"))
