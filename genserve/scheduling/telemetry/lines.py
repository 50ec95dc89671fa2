"""Committed facts as log lines, one per decision and per transition, with ids and log position; not their format.

Prompts are user data and never among the fields. Steps and checkpoints are debug lines: there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from genserve.domain import events as e
from genserve.domain.cluster import Request
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.plan import Cancel, Load, Start, Unload, Yield
from genserve.scheduling.telemetry.trail import Change, queued_us
from genserve.scheduling.verdicts import REFUSED

Fields = dict[str, Any]

MAX_IDS = 32
"""Ids of one kind that a decision's line names; the log has them all."""


class Logger(Protocol):
    """The part of a structlog logger that is used here."""

    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


class Lines:
    """Turns one event and the changes it made into a log line."""

    def __init__(self, log: Logger) -> None:
        self._by_level: Mapping[str, Callable[..., Any]] = {
            "debug": log.debug,
            "info": log.info,
            "warning": log.warning,
            "error": log.error,
        }

    def tell(self, recorded: e.Recorded, changes: list[Change]) -> None:
        level, text, fields_of = _LINES[type(recorded.event)]
        if isinstance(recorded.event, e.RequestFailed) and recorded.event.code == REFUSED:
            level, text = "info", "request refused"
        fields = fields_of(recorded.event)
        if recorded.stream.startswith(REQUEST_STREAM):
            fields["request_id"] = recorded.stream[len(REQUEST_STREAM) :]
        if changes and changes[0].has_ended:
            fields |= _summary(recorded, changes[0].request)
        elif isinstance(recorded.event, e.WorkerLost | e.WorkerJoined | e.ActionRefused):
            rolled_back = [c.request.request_id for c in changes if c.has_rolled_back]
            fields |= {"rolled_back": rolled_back[:MAX_IDS]} if rolled_back else {}
        self._by_level[level](text, position=recorded.position, **fields)


def _summary(recorded: e.Recorded, request: Request) -> Fields:
    """What people ask about a request that has ended."""
    return {
        "model": request.spec.model,
        "size": str(request.spec.shape),
        "latency_us": recorded.recorded_us - request.submitted_us,
        "queued_us": queued_us(request),
        "slack_us": request.spec.deadline_us - recorded.recorded_us,
        "pauses": request.pauses,
        "attempts": request.attempt + 1,
    }


def _submitted(event: e.RequestSubmitted) -> Fields:
    spec = event.request
    return {
        "model": spec.model,
        "media": spec.media.value,
        "size": str(spec.shape),
        "steps": spec.steps,
        "slo_class": spec.slo_class,
        "deadline_us": spec.deadline_us,
    }


def _started(event: e.StageStarted) -> Fields:
    fields: Fields = {"segment_id": event.segment_id, "stage": event.stage.value, "workers": list(event.workers)}
    return fields | {"attempt": event.attempt, "batch": event.batch, "from_step": event.from_step}


def _decided(event: e.PlanDecided) -> Fields:
    fields: Fields = {"planner": event.planner, "input_position": event.input_position, "took_us": event.took_us}
    starts = [a for a in event.actions if isinstance(a, Start)]
    ids = {
        "starts": [f"{a.segment_id} {a.stage} {','.join(a.request_ids)} on {','.join(a.workers)}" for a in starts],
        "yields": [a.segment_id for a in event.actions if isinstance(a, Yield)],
        "cancels": [a.request_id for a in event.actions if isinstance(a, Cancel)],
        "loads": [f"{a.model}/{a.stage} {a.worker_id}" for a in event.actions if isinstance(a, Load)],
        "unloads": [f"{a.model}/{a.stage} {a.worker_id}" for a in event.actions if isinstance(a, Unload)],
    }
    fields |= {name: found[:MAX_IDS] for name, found in ids.items() if found}
    if event.waiting:
        fields["waiting"] = len(event.waiting)
    if event.note:
        fields["note"] = event.note
    return fields


def _plain(*names: str) -> Callable[[Any], Fields]:
    """These fields of the event, as they are."""
    return lambda event: {name: getattr(event, name) for name in names}


_LINES: dict[type[e.Event], tuple[str, str, Callable[[Any], Fields]]] = {
    e.RequestSubmitted: ("info", "request submitted", _submitted),
    e.RequestAdmitted: ("info", "request admitted", _plain("fill")),
    e.CancelRequested: ("info", "cancel requested", _plain("reason")),
    e.StageStarted: ("info", "stage started", _started),
    e.StepsFinished: ("debug", "steps finished", _plain("segment_id", "attempt", "from_step", "to_step", "took_us")),
    e.StageFinished: ("info", "stage finished", _plain("segment_id", "stage", "attempt", "took_us")),
    e.RequestPaused: ("info", "request paused", _plain("segment_id", "attempt", "step", "home")),
    e.LatentsCheckpointed: ("debug", "latents checkpointed", _plain("attempt", "step", "uri", "size_bytes")),
    e.ArtifactStored: (
        "debug",
        "artifact stored",
        lambda event: {"artifact": event.artifact.kind, "uri": event.artifact.uri, "index": event.index},
    ),
    e.AnswerScored: ("info", "answer scored", _plain("attempt", "score_permille")),
    e.AttemptFailed: ("warning", "attempt failed", _plain("attempt", "code", "message", "retryable")),
    e.RequestCompleted: ("info", "request completed", _plain("attempt")),
    e.RequestCancelled: ("info", "request cancelled", _plain("reason")),
    e.RequestFailed: ("error", "request failed", _plain("code", "message")),
    e.RequestDeleted: ("info", "request deleted", _plain()),
    e.WorkerJoined: ("info", "worker joined", _plain("worker_id", "incarnation", "node", "device")),
    e.WorkerLost: ("warning", "worker lost", _plain("worker_id", "incarnation", "reason")),
    e.StageLoaded: ("info", "stage loaded", _plain("worker_id", "model", "stage", "took_us")),
    e.StageUnloaded: ("info", "stage unloaded", _plain("worker_id", "model", "stage")),
    e.LeaderElected: ("info", "leader elected", _plain("epoch", "holder")),
    e.PlannerChanged: ("info", "planner changed", _plain("name", "digest", "parameters", "reason")),
    e.CostsUpdated: ("info", "costs updated", lambda event: {"costs": event.costs.name}),
    e.PlanDecided: ("info", "plan decided", _decided),
    e.WakeReached: ("debug", "wake reached", _plain("wake_at_us")),
    e.ActionRefused: ("warning", "action refused", _plain("segment_id", "worker_id", "code", "message")),
}
