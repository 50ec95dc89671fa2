"""A snapshot is worth the log behind it: what is thawed is what was folded, and goes on as if never frozen."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from genserve.planners.interface import Planner
from genserve.planners.registry import build_planner, planner_names
from genserve.scheduling.loop import Loop
from genserve.scheduling.snapshots import Folded, freeze, thaw
from genserve.scheduling.telemetry.translator import Translator
from observability.metrics import Metrics
from observability.tracing import setup_tracing
from tests.scheduling.chaos import Chaos

MOVES = 120


class _Silent:
    def dispatch(self, recorded: object) -> None:
        """Nothing runs here."""


def a_loop(planner: Planner) -> Loop:
    return Loop(planner, dispatcher=_Silent())


def a_frozen_loop(name: str, seed: int = 0) -> tuple[Loop, Chaos]:
    chaos = Chaos(seed, planner=name)
    chaos.run(MOVES)
    return chaos.loop, chaos


@pytest.mark.parametrize("name", planner_names())
@settings(deadline=None, max_examples=3, derandomize=True)
@given(seed=st.integers(0, 1 << 32), at=st.floats(0, 1))
def test_a_thawed_loop_goes_on_as_if_it_had_folded_the_whole_log(name: str, seed: int, at: float) -> None:
    planner = build_planner(name)
    log = Chaos(seed, planner=name).run(MOVES)
    cut = int(at * len(log))
    whole, early = a_loop(planner), a_loop(planner)
    whole.fold(log)
    early.fold(log[:cut])
    folded = thaw(freeze(Folded(early.state, early.memory), planner), planner)
    assert folded is not None
    late = Loop(planner, dispatcher=_Silent(), state=folded.state, memory=folded.memory)
    late.fold(log[cut:])
    assert (late.state, late.memory) == (whole.state, whole.memory)
    now_us = log[-1].recorded_us + 1
    assert replace(late.decide(now_us), took_us=0) == replace(whole.decide(now_us), took_us=0)


def told(translator: Translator, metrics: Metrics, exporter: InMemorySpanExporter) -> tuple[object, ...]:
    gauges = (metrics.waiting, metrics.running, metrics.paused, metrics.workers)
    samples = [sorted((str(s.labels), s.value) for f in g.collect() for s in f.samples if s.value) for g in gauges]
    spans = sorted(s.to_json() for s in exporter.get_finished_spans())
    return translator.live, samples, spans


@settings(deadline=None, max_examples=10, derandomize=True)
@given(seed=st.integers(0, 1 << 32), at=st.floats(0, 1))
def test_telemetry_of_the_tail_is_the_same_after_a_snapshot_as_after_the_whole_log(seed: int, at: float) -> None:
    log = Chaos(seed).run(MOVES)
    cut = int(at * len(log))
    planner = build_planner("edf")
    first = Translator()
    first.warm(log[:cut])
    loop = a_loop(planner)
    loop.fold(log[:cut])
    folded = thaw(freeze(Folded(loop.state, loop.memory, first.freeze()), planner), planner)
    assert folded is not None
    found = []
    for is_thawed in (False, True):
        metrics, exporter = Metrics(), InMemorySpanExporter()
        translator = Translator(metrics=metrics, tracing=setup_tracing(exporter=exporter))
        if is_thawed:
            translator.thaw(folded.state, folded.trails)
        else:
            translator.warm(log[:cut])
        translator.translate(log[cut:])
        found.append(told(translator, metrics, exporter))
    assert found[0] == found[1]


def test_a_snapshot_of_another_planner_is_not_used() -> None:
    loop, _ = a_frozen_loop("save")
    snapshot = freeze(Folded(loop.state, loop.memory), loop.planner)
    assert thaw(snapshot, loop.planner) is not None
    assert thaw(snapshot, build_planner("save", {"phi": 0.2})) is None


def test_what_cannot_be_read_is_no_snapshot() -> None:
    loop, _ = a_frozen_loop("edf")
    snapshot = freeze(Folded(loop.state, loop.memory), loop.planner)
    damaged = replace(snapshot, data=snapshot.data[:-10])
    foreign = replace(snapshot, data=msgspec.msgpack.encode({"something": "else"}))
    unknown = replace(snapshot, codec="pickle")
    assert [thaw(s, loop.planner) for s in (None, damaged, foreign, unknown)] == [None] * 4
