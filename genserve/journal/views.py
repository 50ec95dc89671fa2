"""The read models the API needs, as pure functions (row, event) -> row; not how rows reach the database.

They follow the events alone, so they can be dropped and rebuilt from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.request import RequestSpec, Stage, Status

LATENTS = "latents"
"""The kind of an artifact that holds a checkpoint."""


class RequestRow(Struct, frozen=True):
    """What a client may know of a request: where it stands after ``last_position``.

    Times are microseconds by the log's clock, 0 while not reached; ``spec`` is the RequestSpec as canonical JSON.
    ``steps_done`` falls back to the newest checkpoint when an attempt fails.
    """

    request_id: str
    media: str
    model: str
    tenant: str
    group_id: str
    spec: str
    steps: int
    arrival_us: int
    deadline_us: int
    status: str = Status.WAITING.value
    steps_done: int = 0
    attempt: int = 0
    checkpoint_step: int = 0
    pauses: int = 0
    started_us: int = 0
    finished_us: int = 0
    error_code: str = ""
    error_message: str = ""
    is_deleted: bool = False
    last_position: int = 0

    @property
    def request(self) -> RequestSpec:
        return msgspec.json.decode(self.spec, type=RequestSpec)


class ArtifactRow(NamedTuple):
    """One row of ``artifacts``; ``state`` is pending, committed or garbage."""

    request_id: str
    kind: str
    idx: int
    step: int
    uri: str
    media_type: str
    size_bytes: int
    sha256: str
    state: str
    position: int


class ViewChanges(Struct, frozen=True):
    """Rows to write with a group of events; ``ended`` are requests whose latents are garbage from now on."""

    inserts: tuple[RequestRow, ...] = ()
    updates: tuple[RequestRow, ...] = ()
    artifacts: tuple[ArtifactRow, ...] = ()
    ended: tuple[str, ...] = ()


_Handler = Callable[[RequestRow, Any, e.Recorded], RequestRow]


def new_row(spec: RequestSpec, recorded: e.Recorded) -> RequestRow:
    return RequestRow(
        request_id=spec.request_id,
        media=spec.media.value,
        model=_text(spec.model),
        tenant=_text(spec.tenant),
        group_id=_text(spec.group_id),
        spec=msgspec.json.encode(spec, order="deterministic").decode(),
        steps=spec.steps,
        arrival_us=spec.arrival_us,
        deadline_us=spec.deadline_us,
        last_position=recorded.position,
    )


def apply(row: RequestRow, recorded: e.Recorded) -> RequestRow:
    """The row after one more event of its stream; facts about older attempts change nothing but the position."""
    handler = _HANDLERS.get(type(recorded.event))
    row = row if handler is None else handler(row, recorded.event, recorded)
    return replace(row, last_position=recorded.position)


def artifact_of(request_id: str, recorded: e.Recorded) -> ArtifactRow | None:
    """The artifact an event speaks of: results, partial images, and checkpoints as LATENTS."""
    event = recorded.event
    if isinstance(event, e.ArtifactStored):
        a = event.artifact
        fields = (a.kind, event.index, 0, _text(a.uri), a.media_type, a.size_bytes, a.sha256)
    elif isinstance(event, e.LatentsCheckpointed):
        media_type = "application/vnd.safetensors"
        fields = (LATENTS, 0, event.step, _text(event.uri), media_type, event.size_bytes, event.sha256)
    else:
        return None
    return ArtifactRow(request_id, *fields, "committed", recorded.position)


class Projection:
    """Keeps the rows of live requests at hand and answers what a batch changes; one per writer.

    ``load`` fetches rows that are not at hand. After a failed transaction call ``forget``.
    """

    def __init__(self, load: Callable[[list[str]], dict[str, RequestRow]]) -> None:
        self._load = load
        self._live: dict[str, RequestRow] = {}

    def changes(self, batch: Sequence[e.Recorded]) -> ViewChanges:
        events = [(r.stream[len(REQUEST_STREAM) :], r) for r in batch if r.stream.startswith(REQUEST_STREAM)]
        self._fetch({request_id: None for request_id, _ in events})
        inserts: dict[str, RequestRow] = {}
        updates: dict[str, RequestRow] = {}
        artifacts: list[ArtifactRow] = []
        for request_id, recorded in events:
            row = inserts.get(request_id) or updates.get(request_id) or self._live.get(request_id)
            if row is None:
                if isinstance(recorded.event, e.RequestSubmitted):
                    inserts[request_id] = new_row(recorded.event.request, recorded)
                continue
            (inserts if request_id in inserts else updates)[request_id] = apply(row, recorded)
            artifact = artifact_of(request_id, recorded)
            if artifact is not None:
                artifacts.append(artifact)
        self._keep(inserts | updates)
        ended = tuple(r.stream[len(REQUEST_STREAM) :] for r in batch if isinstance(r.event, e.REQUEST_ENDS))
        return ViewChanges(tuple(inserts.values()), tuple(updates.values()), tuple(artifacts), ended)

    def forget(self) -> None:
        self._live.clear()

    def _fetch(self, request_ids: Iterable[str]) -> None:
        missing = [request_id for request_id in request_ids if request_id not in self._live]
        if missing:
            self._live |= self._load(missing)

    def _keep(self, rows: dict[str, RequestRow]) -> None:
        for request_id, row in rows.items():
            if Status(row.status).is_final:
                self._live.pop(request_id, None)
            else:
                self._live[request_id] = row


def _stage_started(row: RequestRow, event: e.StageStarted, recorded: e.Recorded) -> RequestRow:
    if event.attempt < row.attempt:
        return row
    steps_done = event.from_step if event.stage is Stage.DENOISE else row.steps_done
    started_us = row.started_us or recorded.recorded_us
    status = Status.RUNNING.value
    return replace(row, status=status, attempt=event.attempt, started_us=started_us, steps_done=steps_done)


def _steps_finished(row: RequestRow, event: e.StepsFinished, _recorded: e.Recorded) -> RequestRow:
    return row if event.attempt < row.attempt else replace(row, steps_done=event.to_step)


def _stage_finished(row: RequestRow, event: e.StageFinished, _recorded: e.Recorded) -> RequestRow:
    if event.attempt < row.attempt or event.stage is Stage.ENCODE:
        return row
    status = Status.FINISHING.value if event.stage is Stage.DECODE else row.status
    return replace(row, status=status, steps_done=row.steps)


def _paused(row: RequestRow, event: e.RequestPaused, _recorded: e.Recorded) -> RequestRow:
    if event.attempt < row.attempt:
        return row
    return replace(row, status=Status.PAUSED.value, steps_done=event.step, pauses=row.pauses + 1)


def _checkpointed(row: RequestRow, event: e.LatentsCheckpointed, _recorded: e.Recorded) -> RequestRow:
    return replace(row, checkpoint_step=max(row.checkpoint_step, event.step))


def _attempt_failed(row: RequestRow, event: e.AttemptFailed, _recorded: e.Recorded) -> RequestRow:
    if event.attempt < row.attempt:
        return row
    status = Status.WAITING.value
    kept = 0 if event.spoils_checkpoint else row.checkpoint_step
    return replace(row, status=status, attempt=event.attempt + 1, steps_done=kept, checkpoint_step=kept)


def _completed(row: RequestRow, _event: e.RequestCompleted, recorded: e.Recorded) -> RequestRow:
    return _ended(row, Status.COMPLETED, recorded)


def _cancelled(row: RequestRow, event: e.RequestCancelled, recorded: e.Recorded) -> RequestRow:
    return _ended(row, Status.CANCELLED, recorded, "cancelled", event.reason)


def _failed(row: RequestRow, event: e.RequestFailed, recorded: e.Recorded) -> RequestRow:
    return _ended(row, Status.FAILED, recorded, event.code, event.message)


def _deleted(row: RequestRow, _event: e.RequestDeleted, _recorded: e.Recorded) -> RequestRow:
    return replace(row, is_deleted=True)


def _ended(row: RequestRow, status: Status, recorded: e.Recorded, code: str = "", message: str = "") -> RequestRow:
    """The first end stands."""
    if Status(row.status).is_final:
        return row
    return replace(
        row,
        status=status.value,
        finished_us=recorded.recorded_us,
        error_code=_text(code),
        error_message=_text(message),
    )


def _text(value: str) -> str:
    """PostgreSQL's text cannot hold a zero character; the log itself keeps it (as an escape)."""
    return value.replace("\0", "")


_HANDLERS: dict[type[e.Event], _Handler] = {
    e.StageStarted: _stage_started,
    e.StepsFinished: _steps_finished,
    e.StageFinished: _stage_finished,
    e.RequestPaused: _paused,
    e.LatentsCheckpointed: _checkpointed,
    e.AttemptFailed: _attempt_failed,
    e.RequestCompleted: _completed,
    e.RequestCancelled: _cancelled,
    e.RequestFailed: _failed,
    e.RequestDeleted: _deleted,
}
