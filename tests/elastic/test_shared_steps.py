"""A shared step on GPUs is watched: their collectives wait for whoever is gone, and end well when they are aborted."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from genserve.diffusion.parallel_group import Group
from genserve.diffusion.wires import Exchange, call
from genserve.errors import GenServeError
from tests import fake_gpu


class Aborted:
    """In the place of a process group."""

    def __init__(self) -> None:
        self.was_aborted = threading.Event()

    def abort(self) -> None:
        self.was_aborted.set()


class Pair:
    """This member's view of a group of two, and the other one's end of the wire."""

    def __init__(self, timeout_s: float) -> None:
        exchange = Exchange()
        mine = call(exchange.port, "r0")
        self.other = exchange.answer("r0", 10.0)
        exchange.close()
        self.tensors = Aborted()
        self.group = Group(
            "a",
            ("r0", "r1"),
            "r0",
            tensors=self.tensors,
            wires={"r1": mine},
            form_part=lambda name, ranks: None,
            step_timeout_s=timeout_s,
        )


@pytest.fixture
def place(fake_place: str) -> str:
    return fake_place


@pytest.fixture
def busy(place: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], bool]], None]:
    """From now on the device is done when that says so."""
    return lambda is_done: monkeypatch.setattr(fake_gpu.device, "is_done", lambda event: is_done())


@pytest.fixture(params=[60.0])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


Busy = Callable[[Callable[[], bool]], None]


def lost(pair: Pair, place: str) -> str:
    with pytest.raises(GenServeError) as caught:
        pair.group.finish(place)
    assert caught.value.code == "group_lost"
    assert pair.group.is_lost
    assert pair.tensors.was_aborted.wait(10)
    return caught.value.message


def test_a_step_is_waited_for(pair: Pair, place: str, busy: Busy) -> None:
    answers = iter([False, False, True])
    busy(lambda: next(answers))
    pair.group.finish(place)
    assert next(answers, None) is None
    assert not pair.group.is_lost


def test_a_member_that_goes_in_the_middle_takes_the_group_down(pair: Pair, place: str, busy: Busy) -> None:
    def leave() -> bool:
        pair.other.close()
        return False

    busy(leave)
    assert "left in the middle" in lost(pair, place)


def test_a_step_that_ended_because_it_was_aborted_has_not_been_taken(pair: Pair, place: str, busy: Busy) -> None:
    def abort() -> bool:
        pair.group.lose()
        return True

    busy(abort)
    assert "given up" in lost(pair, place)


@pytest.mark.parametrize("pair", [0.05], indirect=True)
def test_a_step_that_does_not_end_costs_its_group(pair: Pair, place: str, busy: Busy) -> None:
    busy(lambda: False)
    assert "not ended within" in lost(pair, place)


def test_words_that_wait_to_be_read_are_no_sign_of_an_end(pair: Pair, place: str, busy: Busy) -> None:
    pair.other.send(7, b"later")
    answers = iter([False, True])
    busy(lambda: next(answers))
    pair.group.finish(place)
    assert pair.group.hear("r1") == (7, b"later")


def test_an_error_of_the_device_itself_is_told_as_that(pair: Pair, place: str, busy: Busy) -> None:
    def fail() -> bool:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    busy(fail)
    with pytest.raises(torch.AcceleratorError):
        pair.group.finish(place)
    assert pair.group.is_lost


def test_on_a_cpu_a_step_has_ended_by_now(pair: Pair) -> None:
    pair.group.lose()
    pair.group.finish("cpu")
