"""Routes of requests of either kind: state, forecast, events, cancel; ours, OpenAI has none of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from genserve.api import jobs
from genserve.api.auth import Tenant
from genserve.api.context import Api, ApiContext
from genserve.api.envelope import error_body
from genserve.api.listing import read_page
from genserve.api.sse import HEARTBEAT, OPENING, EventStream, frame, merge
from genserve.api.views import page, poll_headers, request_view
from genserve.domain.events import Recorded
from genserve.domain.request import Media, Status
from genserve.errors import CallerError, GenServeError

router = APIRouter(tags=["requests"])

_PRIVATE = ("tenant", "uri")
"""Fields of events that are nobody's business: whose it is, and where files are on our disks."""


@router.get("/v1/requests")
async def list_requests(request: Request, api: ApiContext, tenant: Tenant) -> Response:
    """Requests that are not deleted, the newest first; query: after, limit, order, media."""
    media = request.query_params.get("media", "")
    if media not in ("", *Media):
        raise CallerError("invalid_media", f"media is image or video, not {media[:40]!r}", "media")
    rows, has_more = await read_page(api, request, tenant, media=media)
    forecasts = await asyncio.gather(*(jobs.find_forecast(api, row) for row in rows))
    views = [request_view(row, forecast, api=api, http=request) for row, forecast in zip(rows, forecasts, strict=True)]
    return JSONResponse(page(rows, views, has_more=has_more))


@router.get("/v1/requests/{request_id}")
async def retrieve_request(request_id: str, request: Request, api: ApiContext, tenant: Tenant) -> Response:
    """State, progress, deadline and the planner's forecast of one request."""
    row = await jobs.find(api, request_id, tenant)
    forecast = await jobs.find_forecast(api, row)
    headers = poll_headers(row, forecast, now_us=api.clock())
    return JSONResponse(request_view(row, forecast, api=api, http=request), headers=headers)


@router.delete("/v1/requests/{request_id}")
async def cancel_request(request_id: str, api: ApiContext, tenant: Tenant) -> Response:
    """Stop a request at its next step boundary; one that has ended stays as it is."""
    row = await jobs.find(api, request_id, tenant)
    is_live = not Status(row.status).is_final
    if is_live:
        await api.write(api.gateway.cancel(row.request_id, "cancelled by the client"))
    reply = {"id": row.request_id, "object": "request.cancelled", "cancelled": is_live, "status": row.status}
    return JSONResponse(reply)


@router.get("/v1/requests/{request_id}/events")
async def follow_request(request_id: str, request: Request, api: ApiContext, tenant: Tenant) -> Response:
    """The request's events as they are committed, until its end.

    Event ids are positions in the log: a client that reconnects with Last-Event-ID (or ``?after=``) misses nothing.
    204 tells a client that has seen the end to stop reconnecting.
    """
    after = _resume_position(request)
    row = await jobs.find(api, request_id, tenant)
    if Status(row.status).is_final and 0 < row.position <= after:
        return Response(status_code=204)
    slot = api.streams.acquire()
    return EventStream(_frames(api, row.request_id, after), slot=slot, headers={})


async def _frames(api: Api, request_id: str, after: int) -> AsyncGenerator[bytes, None]:
    yield OPENING
    source = jobs.follow(api, request_id, after=after)
    async with aclosing(merge([source], idle_s=api.heartbeat_s)) as events:
        try:
            async for recorded in events:
                if recorded is None:
                    yield HEARTBEAT
                else:
                    yield frame(type(recorded.event).__name__, _event_view(recorded), event_id=recorded.position)
        except GenServeError as error:
            yield frame("error", error_body(error))


def _event_view(recorded: Recorded) -> dict[str, Any]:
    return {
        "type": type(recorded.event).__name__,
        "position": recorded.position,
        "version": recorded.version,
        "recorded_at": recorded.recorded_us / 1_000_000,
        **_without_private(msgspec.to_builtins(recorded.event)),
    }


def _without_private(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _without_private(value) for name, value in tree.items() if name not in _PRIVATE}
    return tree


def _resume_position(request: Request) -> int:
    text = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        message = f"Last-Event-ID is the id of the last event you saw, a number, not {text[:40]!r}"
        raise CallerError("invalid_last_event_id", message, "Last-Event-ID")
    return int(text)
