"""Verdicts of admission: open in the log, tested again at every event, answered in time, kept by a crash."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState, Undecided
from genserve.domain.evolve import fold
from genserve.domain.request import RequestSpec
from genserve.planners.admission import Admission
from genserve.planners.memory import Memory
from genserve.planners.registry import build_planner
from genserve.scheduling.digest import state_digest
from genserve.scheduling.verdicts import next_verdict_us, settle_undecided
from genserve.simulate.simulation import Run, Scenario, simulate
from tests.builders import SECOND, History, a_cluster, a_request, some_costs

FULL = Admission(fill=1.0, patience_us=2 * SECOND)
ON_TIME = build_planner("save", {"admitted": True})


def ask(*specs: RequestSpec, by_s: float = 2, workers: int = 1) -> History:
    """They are submitted and have no verdict yet."""
    history = a_cluster(workers)
    for spec in specs:
        fact = e.RequestSubmitted(spec, round(by_s * SECOND))
        history.of(spec.request_id, fact, at_us=spec.arrival_us)
    return history


def verdicts_at(history: History, seconds: float, admission: Admission | None = FULL) -> dict[str, str]:
    state = replace(history.state, clock_us=round(seconds * SECOND))
    facts = settle_undecided(state, Memory(), admission)
    return {stream.removeprefix("request/"): type(event).__name__ for stream, event in facts}


def tight(name: str, *, within_s: float = 0.5, **changes: object) -> RequestSpec:
    """It takes 0.46 s on one GPU."""
    arrival_us = int(changes.pop("arrival_us", 0))  # type: ignore[call-overload]
    return a_request(name, arrival_us=arrival_us, deadline_us=arrival_us + round(within_s * SECOND), **changes)


def test_a_request_without_a_verdict_is_in_the_state_but_no_planner_sees_it() -> None:
    state = ask(a_request("r")).state
    assert state.requests == {}
    assert state.undecided == {"r": Undecided(a_request("r"), 0, 2 * SECOND)}
    assert next_verdict_us(state) == 2 * SECOND


def test_an_admitted_request_is_live_from_then_on() -> None:
    state = ask(a_request("r")).of("r", e.RequestAdmitted(0.75), at_us=SECOND).state
    assert (state.requests["r"].submitted_us, bool(state.undecided)) == (0, False)


def test_states_in_which_nobody_waits_have_the_digest_they_always_had() -> None:
    before = a_cluster(requests=[a_request("r")])
    after = a_cluster(requests=[a_request("r")])
    after.of("x", e.RequestSubmitted(a_request("x"), 5)).of("x", e.RequestFailed("refused", ""))
    assert state_digest(replace(after.state, position=before.state.position)) == state_digest(before.state)
    assert "undecided" not in msgspec.to_builtins(replace(after.state, costs=None))


def test_what_fits_is_admitted_at_once() -> None:
    assert verdicts_at(ask(a_request("r")), 0) == {"r": "RequestAdmitted"}


def test_what_does_not_fit_waits_until_its_time_is_up_and_is_refused_then() -> None:
    history = a_cluster(1, requests=[tight("first")])
    history.of("r", e.RequestSubmitted(tight("r", within_s=0.9), 300_000))
    assert verdicts_at(history, 0.29) == {}
    assert verdicts_at(history, 0.3) == {"r": "RequestFailed"}


def test_what_no_degree_can_make_is_refused_at_once_for_waiting_makes_it_worse() -> None:
    assert verdicts_at(ask(tight("r", within_s=0.4)), 0) == {"r": "RequestFailed"}


def test_a_refusal_quotes_the_earliest_deadline_that_could_be_promised() -> None:
    history = ask(tight("r", within_s=0.4))
    ((_, fact),) = settle_undecided(history.state, Memory(), FULL)
    assert fact == e.RequestFailed(
        "refused",
        "no degree is fast enough for its deadline; "
        "the earliest deadline that could be promised is 460 ms after its arrival",
        460_000,
    )


def test_whoever_is_admitted_first_counts_for_the_next() -> None:
    history = ask(tight("a"), tight("b", within_s=0.9), by_s=0.01)
    assert verdicts_at(history, 0.01) == {"a": "RequestAdmitted", "b": "RequestFailed"}


def test_the_images_of_one_call_are_admitted_together_or_not_at_all() -> None:
    calls = [tight(f"{c}{i}", group_id=c, within_s=0.95) for c in "xy" for i in range(2)]
    assert set(verdicts_at(ask(*calls, by_s=0.01, workers=2), 0.01).items()) == {
        ("x0", "RequestAdmitted"), ("x1", "RequestAdmitted"), ("y0", "RequestAdmitted"), ("y1", "RequestAdmitted"),
    }  # fmt: skip
    calls[3] = replace(calls[3], deadline_us=460_000)
    assert verdicts_at(ask(*calls, by_s=0.01, workers=2), 0.01)["y0"] == "RequestFailed"


def test_a_cancel_closes_an_open_verdict() -> None:
    history = ask(a_request("r")).of("r", e.CancelRequested("not needed"))
    assert verdicts_at(history, 0) == {"r": "RequestCancelled"}
    assert not history.of("r", e.RequestCancelled()).state.undecided


def test_a_successor_without_admission_admits_whoever_still_waits() -> None:
    assert verdicts_at(ask(tight("r", within_s=0.1)), 0, None) == {"r": "RequestAdmitted"}


# ── in the loop ──────────────────────────────────────────────────────────────────────────────────────────


def run(*specs: RequestSpec, patience_s: float, gpus: int = 1, fill: float = 1.0) -> Run:
    admission = Admission(fill, round(patience_s * SECOND))
    return simulate(ON_TIME, Scenario(specs, some_costs(), gpus, admission=admission))


def ends(result: Run) -> dict[str, tuple[str, int]]:
    """Type and time of each request's last fact."""
    last = {r.stream.removeprefix("request/"): (type(r.event).__name__, r.recorded_us) for r in result.log}
    return {name: end for name, end in last.items() if name.startswith("r")}


def test_a_request_that_fits_once_another_is_cancelled_is_admitted_while_it_waits_and_not_without_waiting() -> None:
    specs = a_request("r0", steps=20, deadline_us=2_300_000), tight("r1", within_s=2.4)
    for patience_s, end in ((0.0, "RequestFailed"), (1.5, "RequestCompleted")):
        scenario = Scenario(
            specs, some_costs(), 1, admission=Admission(1.0, round(patience_s * SECOND)), cancels=((SECOND, "r0"),)
        )
        assert ends(simulate(ON_TIME, scenario))["r1"][0] == end


def test_the_refusal_comes_when_the_time_is_up_even_if_nothing_else_happens() -> None:
    specs = a_request("r0", steps=40, deadline_us=4_200_000), tight("r1", within_s=4.3)
    assert ends(run(*specs, patience_s=1.25))["r1"] == ("RequestFailed", round(1.25 * SECOND))


def test_with_no_patience_every_verdict_falls_at_the_arrival() -> None:
    specs = [tight(f"r{i}", arrival_us=i * 200_000, within_s=1.2) for i in range(12)]
    facts = [r for r in run(*specs, patience_s=0).log if isinstance(r.event, e.RequestAdmitted | e.RequestFailed)]
    assert [r.recorded_us for r in facts] == [s.arrival_us for s in specs]
    assert {type(r.event) for r in facts} == {e.RequestAdmitted, e.RequestFailed}


@pytest.mark.parametrize("patience_s", [0.0, 1.0])
def test_whoever_is_admitted_is_on_time(patience_s: float) -> None:
    specs = [tight(f"r{i}", arrival_us=i * 200_000, within_s=1.2) for i in range(30)]
    done = [end for end in ends(run(*specs, patience_s=patience_s, fill=0.75)).items() if end[1][0] != "RequestFailed"]
    deadlines = {s.request_id: s.deadline_us for s in specs}
    assert len(done) > 5
    assert all(at_us <= deadlines[name] for name, (_, at_us) in done)


@settings(max_examples=25, deadline=None)
@given(cut=st.floats(0, 1), patience_s=st.sampled_from([0.0, 0.5, 2.0]))
def test_every_prefix_of_the_log_folds_to_who_still_waits(cut: float, patience_s: float) -> None:
    """A crash forgets no open verdict: the state has exactly those submitted to a verdict and not yet answered."""
    specs = [tight(f"r{i}", arrival_us=i * 150_000, within_s=1.2) for i in range(12)]
    log = run(*specs, patience_s=patience_s).log
    log = log[: round(cut * len(log))]
    waiting: dict[str, int] = {}
    for r in log:
        name = r.stream.removeprefix("request/")
        if isinstance(r.event, e.RequestSubmitted):
            waiting[name] = r.event.verdict_by_us
        elif isinstance(r.event, e.RequestAdmitted | e.RequestFailed):
            del waiting[name]
    state = fold(ClusterState(), log)
    assert {n: u.verdict_by_us for n, u in (state.undecided or {}).items()} == waiting
    assert not state.requests.keys() & waiting.keys()
