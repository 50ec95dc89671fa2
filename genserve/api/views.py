"""How a request looks to clients: as an OpenAI video job and as our own request object; not where it comes from."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from genserve.api.auth import link_query
from genserve.api.context import Api
from genserve.api.jobs import why_it_ended
from genserve.domain.request import Media, Status
from genserve.scheduling.gateway import Forecast, RequestRow

_OPENAI_STATUS = {
    Status.WAITING: "queued",
    Status.RUNNING: "in_progress",
    Status.PAUSED: "in_progress",
    Status.FINISHING: "in_progress",
    Status.COMPLETED: "completed",
    Status.CANCELLED: "failed",
    Status.FAILED: "failed",
}

POLLS_UNTIL_DONE = 8
MIN_POLL_MS, MAX_POLL_MS, UNKNOWN_POLL_MS = 100, 10_000, 1_000


def video_view(row: RequestRow) -> dict[str, Any]:
    """The OpenAI video job. A cancelled job is ``failed`` with code ``cancelled``: pollers know no other end."""
    spec = row.spec
    return {
        "id": row.request_id,
        "object": "video",
        "model": spec.model,
        "status": _OPENAI_STATUS[Status(row.status)],
        "progress": progress(row),
        "created_at": row.submitted_us // 1_000_000,
        "completed_at": row.finished_us // 1_000_000 if row.status == Status.COMPLETED else None,
        "expires_at": None,
        "error": _error(row),
        "prompt": spec.prompt,
        "remixed_from_video_id": None,
        "seconds": f"{(spec.shape.frames - 1) / (spec.fps or 1):.6g}",
        "size": f"{spec.shape.width}x{spec.shape.height}",
    }


def request_view(row: RequestRow, forecast: Forecast | None, *, api: Api, http: Request) -> dict[str, Any]:
    """Everything a client may know of its request. Times are Unix seconds, durations milliseconds."""
    spec = row.spec
    is_completed = row.status == Status.COMPLETED
    return {
        "id": row.request_id,
        "object": "request",
        "media": spec.media,
        "model": spec.model,
        "status": row.status,
        "progress": progress(row),
        "step": row.step,
        "steps": spec.steps,
        "created_at": _seconds(row.submitted_us),
        "started_at": _seconds(row.started_us),
        "finished_at": _seconds(row.finished_us),
        "deadline": _seconds(spec.deadline_us),
        "latency_ms": (row.finished_us - row.submitted_us) // 1000 if row.finished_us else None,
        "deadline_met": row.finished_us <= spec.deadline_us if is_completed else None,
        "forecast": _forecast(forecast, now_us=api.clock()),
        "pauses": row.pauses,
        "error": _error(row),
        "size": f"{spec.shape.width}x{spec.shape.height}",
        "num_frames": spec.shape.frames,
        "fps": spec.fps or None,
        "seed": spec.seed,
        "guidance_scale": spec.guidance_scale,
        "priority": spec.priority,
        "prompt": spec.prompt,
        "group_id": spec.group_id or None,
        "file_extension": spec.output_format,
        "url": content_url(row, api=api, http=http) if is_completed else None,
        "deleted": row.deleted,
        "position": row.position,
    }


def progress(row: RequestRow) -> int:
    """Percent of denoising steps done; 100 only once the result is stored."""
    if row.status == Status.COMPLETED:
        return 100
    return min(99, 100 * row.step // max(1, row.spec.steps))


def content_url(row: RequestRow, *, api: Api, http: Request) -> str:
    """Where the result can be fetched, from any replica: the path is derived from the id alone."""
    plural = "videos" if row.spec.media == Media.VIDEO else "images"
    base = (api.settings.http.public_url or str(http.base_url)).rstrip("/")
    query = link_query(api.settings, row.request_id, tenant=row.spec.tenant, now_us=api.clock())
    return f"{base}/v1/{plural}/{row.request_id}/content{query}"


def poll_headers(row: RequestRow, forecast: Forecast | None, *, now_us: int) -> dict[str, str]:
    """``openai-poll-after-ms`` out of the forecast.

    The openai client keeps the first interval it is told until the job ends. An eighth of the time left costs eight
    polls and finds the result at most an eighth late; the whole of it could be nearly twice the time.
    """
    if Status(row.status).is_final:
        return {}
    wait_ms = UNKNOWN_POLL_MS
    if forecast is not None:
        wait_ms = (forecast.eta_us - now_us) // 1000 // POLLS_UNTIL_DONE
    return {"openai-poll-after-ms": str(min(max(wait_ms, MIN_POLL_MS), MAX_POLL_MS))}


def page(rows: list[RequestRow], data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A list as OpenAI's cursor pages have it."""
    ids = [row.request_id for row in rows]
    return {
        "object": "list",
        "data": data,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": has_more,
    }


def _error(row: RequestRow) -> dict[str, str] | None:
    if row.status not in (Status.CANCELLED, Status.FAILED):
        return None
    error = why_it_ended(row)
    return {"code": error.code, "message": error.message}


def _forecast(forecast: Forecast | None, *, now_us: int) -> dict[str, Any] | None:
    if forecast is None:
        return None
    return {
        "eta": _seconds(forecast.eta_us),
        "remaining_ms": max(0, (forecast.eta_us - now_us) // 1000),
        "slack_ms": (forecast.deadline_us - forecast.eta_us) // 1000,
        "will_meet": forecast.will_meet,
    }


def _seconds(time_us: int) -> float | None:
    return time_us / 1_000_000 if time_us else None
