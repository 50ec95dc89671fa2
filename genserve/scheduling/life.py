"""One request's life as its own actor knows it: a fold of its stream, and the facts that reports add to it.

Pure. Reports come at least once; ``facts_of`` answers nothing for what the stream already holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.request import Checkpoint, RequestSpec, Stage
from genserve.scheduling import protocol as p


class Life(Struct, frozen=True):
    """What the stream says. ``busy_us`` is the sum of step times recorded for ``segment_id``."""

    spec: RequestSpec | None = None
    version: int = 0
    attempt: int = 0
    segment_id: str = ""
    started: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()
    step: int = 0
    busy_us: int = 0
    checkpoint: Checkpoint | None = None
    previews: int = 0
    has_result: bool = False
    is_cancelling: bool = False
    is_paused: bool = False
    has_ended: bool = False


def grow(life: Life, recorded: e.Recorded) -> Life:
    """The life after one more event of its stream."""
    return replace(_grown(life, recorded.event), version=recorded.version)


def _grown(life: Life, event: e.AnyEvent) -> Life:  # noqa: PLR0911 - one return per fact
    match event:
        case e.RequestSubmitted(request=spec):
            return replace(life, spec=spec)
        case e.CancelRequested():
            return replace(life, is_cancelling=True)
        case e.StageStarted():
            return _grown_by_start(life, event)
        case e.StepsFinished():
            return replace(life, step=event.to_step, busy_us=life.busy_us + event.took_us)
        case e.StageFinished():
            return replace(life, finished=(*life.finished, event.segment_id))
        case e.RequestPaused():
            return replace(life, is_paused=True, finished=(*life.finished, event.segment_id), step=event.step)
        case e.LatentsCheckpointed():
            checkpoint = Checkpoint(event.step, event.attempt, event.uri, event.size_bytes, event.sha256)
            return replace(life, checkpoint=checkpoint)
        case e.ArtifactStored() if event.artifact.kind == "partial":
            return replace(life, previews=max(life.previews, event.index + 1))
        case e.AttemptFailed():
            kept = None if event.spoils_checkpoint else life.checkpoint
            finished = (*life.finished, life.segment_id)
            return replace(life, attempt=event.attempt + 1, finished=finished, checkpoint=kept)
        case e.RequestCompleted() | e.RequestCancelled() | e.RequestFailed():
            return replace(life, has_ended=True)
    return life


def _grown_by_start(life: Life, event: e.StageStarted) -> Life:
    is_denoise = event.stage is Stage.DENOISE
    return replace(
        life,
        attempt=event.attempt,
        segment_id=event.segment_id,
        started=(*life.started, event.segment_id),
        step=event.from_step if is_denoise else life.step,
        busy_us=0 if is_denoise else life.busy_us,
        is_paused=False,
    )


def imagine(life: Life, events: Sequence[e.AnyEvent]) -> Life:
    """The life as it will be once the events are appended."""
    for event in events:
        life = _grown(life, event)
    return life


def facts_of(life: Life, report: p.AnyReport) -> list[e.AnyEvent]:  # noqa: PLR0911 - one return per report
    """The events that a report adds to the stream; none if they are there, or if the attempt is over.

    Snapshots, previews and decoded frames become facts only once they are stored: not here.
    """
    if life.has_ended or report.attempt < life.attempt or report.segment_id in life.finished:
        return []
    match report:
        case p.Began(stage=stage):
            if report.segment_id in life.started:
                return []
            return [
                e.StageStarted(
                    segment_id=report.segment_id,
                    stage=stage,
                    attempt=report.attempt,
                    workers=report.workers,
                    batch=report.batch,
                    from_step=report.from_step,
                    at_us=report.at_us,
                )
            ]
        case p.Stepped():
            return _steps(life, report)
        case p.Ended():
            return [e.StageFinished(report.segment_id, report.stage, report.attempt, report.took_us, report.at_us)]
        case p.Stopped():
            return [e.RequestPaused(report.segment_id, report.attempt, report.step, report.home, report.at_us)]
        case p.Dropped():
            return [e.RequestCancelled("cancelled at a step boundary")]
        case p.Failed():
            return [e.AttemptFailed(report.attempt, report.code, report.message, report.retryable)]
    return []


def _steps(life: Life, report: p.Stepped) -> list[e.AnyEvent]:
    """All steps since the last recorded one: progress lost with an earlier actor is made up for here."""
    if report.step <= life.step or report.segment_id != life.segment_id:
        return []
    return [
        e.StepsFinished(
            segment_id=report.segment_id,
            attempt=report.attempt,
            from_step=life.step,
            to_step=report.step,
            took_us=max(0, report.busy_us - life.busy_us),
            degree=report.degree,
            batch=report.batch,
            at_us=report.at_us,
        )
    ]


def without_superseded(reports: Sequence[p.AnyReport]) -> list[p.AnyReport]:
    """Reports with every step report dropped that a later one of the same segment right behind it covers."""
    kept: list[p.AnyReport] = []
    for report in reports:
        last = kept[-1] if kept else None
        if isinstance(report, p.Stepped) and isinstance(last, p.Stepped) and last.segment_id == report.segment_id:
            kept.pop()
        kept.append(report)
    return kept
