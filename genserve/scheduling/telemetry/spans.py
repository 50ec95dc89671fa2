"""Committed facts as spans: a trace per request, a trace per decision, links both ways; not when or where to export.

A request's root span is exported at its end, its segments and waits as soon as they are over. Ids derive from request,
segment and event ids and times from the log, so that the same log always gives the same trace.
"""

from __future__ import annotations

from collections import Counter

from genserve.domain import events as e
from genserve.domain.cluster import Request
from genserve.domain.plan import Start
from genserve.domain.request import Stage
from genserve.scheduling.telemetry.trail import RUN, Change, Interval, Run, event_key, queued_us
from genserve.scheduling.telemetry.trails import Trails, outcome
from observability.tracing import Attribute, Span, SpanContext, Tracing, new_trace

OPERATION = "generate_content"
MAX_LINKS = 128
"""Segments that a decision's span links to; OpenTelemetry's own default limit."""


class Spans:
    """Turns one event and the changes it made into spans."""

    def __init__(self, tracing: Tracing, trails: Trails) -> None:
        self._tracing = tracing
        self._trails = trails

    def tell(self, recorded: e.Recorded, changes: list[Change]) -> None:
        if not self._tracing.is_enabled:
            return
        for change in changes:
            if change.closed is not None:
                self._tracing.emit(_interval_span(change, change.closed, recorded))
            if change.has_ended:
                self._tracing.emit(_root_span(change, recorded))
        if isinstance(recorded.event, e.PlanDecided):
            self._tracing.emit(self._decision_span(recorded, recorded.event))

    def _decision_span(self, recorded: e.Recorded, event: e.PlanDecided) -> Span:
        counts = Counter(type(action).__name__.lower() for action in event.actions)
        attributes: dict[str, Attribute] = {
            "genserve.log.position": recorded.position,
            "genserve.input_position": event.input_position,
            "genserve.planner": event.planner,
            "genserve.planner.digest": event.planner_digest,
            "genserve.state.digest": event.state_digest,
            "genserve.waiting_told": len(event.waiting),
            **{f"genserve.actions.{name}": count for name, count in sorted(counts.items())},
        }
        if event.note:
            attributes["genserve.note"] = event.note
        return Span(
            "decide",
            decision_context(event_key(recorded)),
            event.clock_us,
            event.clock_us + event.took_us,
            attributes=attributes,
            links=self._run_links(event),
        )

    def _run_links(self, event: e.PlanDecided) -> list[SpanContext]:
        pairs = [(s.segment_id, r) for s in event.actions if isinstance(s, Start) for r in s.request_ids]
        trails = self._trails.live
        return [trails[r].run_context(segment) for segment, r in pairs[:MAX_LINKS] if r in trails]


def decision_context(key: str) -> SpanContext:
    """The span of a decision, alone in its trace, from its event's key."""
    return new_trace(f"decision/{key}")


def _root_span(change: Change, recorded: e.Recorded) -> Span:
    request, event = change.request, recorded.event
    spec = request.spec
    attributes = _request_attributes(request)
    attributes |= {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": "genserve",
        "gen_ai.request.seed": spec.seed,
        "genserve.steps": spec.steps,
        "genserve.frames": spec.shape.frames,
        "genserve.slo_class": spec.slo_class,
        "genserve.priority": spec.priority,
        "genserve.deadline_us": spec.deadline_us,
        "genserve.queued_us": queued_us(request),
        "genserve.attempts": request.attempt + 1,
        "genserve.pauses": request.pauses,
        "genserve.regroups": request.regroups,
        "genserve.outcome": outcome(event),
        "genserve.log.position": recorded.position,
    }
    error = ""
    if isinstance(event, e.RequestCompleted):
        attributes["genserve.met"] = recorded.recorded_us <= spec.deadline_us
    elif isinstance(event, e.RequestFailed):
        error = event.code
        attributes |= {"error.type": error, "genserve.met": False}
    return Span(
        f"{OPERATION} {spec.model}",
        change.trail.root,
        request.submitted_us,
        recorded.recorded_us,
        parent=change.trail.caller,
        attributes=attributes,
        is_server=True,
        error=error,
    )


def _interval_span(change: Change, closed: Interval, recorded: e.Recorded) -> Span:
    attributes = _request_attributes(change.request)
    attributes |= {"genserve.outcome": closed.outcome, "genserve.log.position": recorded.position}
    name, links = closed.name, []
    if closed.run is not None:
        name = f"{RUN} {closed.run.began.stage}"
        attributes |= _run_attributes(closed.run)
        if closed.run.decided is not None:
            links = [decision_context(closed.run.decided.decision)]
    if closed.error:
        attributes["error.type"] = closed.error
    return Span(
        name,
        closed.context,
        closed.start_us,
        closed.end_us,
        parent=change.trail.root,
        attributes=attributes,
        links=links,
        error=closed.error,
    )


def _request_attributes(request: Request) -> dict[str, Attribute]:
    spec = request.spec
    return {
        "gen_ai.request.model": spec.model,
        "gen_ai.output.type": spec.media.value,
        "genserve.request.id": spec.request_id,
        "genserve.size": str(spec.shape),
    }


def _run_attributes(run: Run) -> dict[str, Attribute]:
    began = run.began
    attributes: dict[str, Attribute] = {
        "genserve.segment.id": began.segment_id,
        "genserve.stage": began.stage.value,
        "genserve.sp_degree": len(began.workers),
        "genserve.workers": began.workers,
        "genserve.batch": began.batch,
        "genserve.attempt": began.attempt,
    }
    if began.stage is Stage.DENOISE:
        attributes |= {"genserve.step.from": began.from_step, "genserve.step.to": run.to_step}
    if run.decided is not None:
        attributes |= {"genserve.decision.position": run.decided.position, "genserve.reason": run.decided.reason}
    return attributes
