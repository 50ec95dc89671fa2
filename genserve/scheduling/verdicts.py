"""Verdicts of admission as facts: who is admitted or refused, and when; not the test (see planners.admission).

A request without a verdict is in the log and in ``state.undecided``, so a crash forgets neither it nor its time limit.
It is tested again whenever there is a reason to decide, and refused when its time is up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from genserve.domain.cluster import ClusterState, Undecided
from genserve.domain.events import AnyEvent, RequestAdmitted, RequestCancelled, RequestFailed
from genserve.domain.ids import request_stream
from genserve.planners.admission import Admission, Promises, Verdict

REFUSED = "refused"
MAX_TESTED = 64
"""Calls tested at one event, oldest first, so that a decision's time is bounded; later ones wait or are refused."""

Facts = list[tuple[str, AnyEvent]]


def settle_undecided(state: ClusterState, memory: Any, admission: Admission | None) -> Facts:
    """The verdicts that fall at ``state.clock_us``. Without ``admission`` whoever still waits for one is admitted."""
    undecided = state.undecided or {}
    facts: Facts = []
    waiting = []
    for request_id, asked in undecided.items():
        if asked.cancelling:
            facts.append((request_stream(request_id), RequestCancelled("cancel requested")))
        else:
            waiting.append(asked)
    if not waiting:
        return sorted(facts, key=lambda f: f[0])
    if admission is None:
        return facts + [(request_stream(a.spec.request_id), RequestAdmitted()) for a in waiting]
    promises = Promises(state, memory, fill=admission.fill, reserve=admission.reserve)
    for index, call in enumerate(_calls(waiting)):
        is_due = state.clock_us >= call[0].verdict_by_us
        if index < MAX_TESTED or is_due:
            facts += _answer(call, promises.judge_together([a.spec for a in call]), admission, is_due=is_due)
    return facts


def next_verdict_us(state: ClusterState) -> int:
    """When the first open verdict is due; 0 for none."""
    return min(u.verdict_by_us for u in state.undecided.values()) if state.undecided else 0


def _calls(waiting: Iterable[Undecided]) -> list[list[Undecided]]:
    """The images of one call together, in order of arrival."""
    calls: dict[str, list[Undecided]] = {}
    for asked in sorted(waiting, key=lambda a: (a.submitted_us, a.spec.request_id)):
        calls.setdefault(asked.spec.group_id or asked.spec.request_id, []).append(asked)
    return list(calls.values())


def _answer(call: list[Undecided], verdict: Verdict, admission: Admission, *, is_due: bool) -> Facts:
    streams = [request_stream(a.spec.request_id) for a in call]
    if verdict.is_admitted:
        return [(s, RequestAdmitted(admission.fill)) for s in streams]
    if not is_due and not verdict.is_hopeless:
        return []
    allowance_ms = max(0, verdict.quote_us - call[0].spec.arrival_us) // 1000
    quote = f"the earliest deadline that could be promised is {allowance_ms} ms after its arrival"
    message = f"{verdict.reason}; {quote}" if verdict.quote_us else verdict.reason
    return [(s, RequestFailed(REFUSED, message, verdict.quote_us)) for s in streams]
