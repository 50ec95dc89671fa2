"""Routes of videos: OpenAI's jobs; not how a video is made."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from genserve.api import jobs
from genserve.api.auth import AUTHENTICATED, LinkTenant, Tenant
from genserve.api.bodies import read_body
from genserve.api.context import Api, ApiContext
from genserve.api.documentation import create_docs
from genserve.api.listing import read_page
from genserve.api.schemas import VideoBody
from genserve.api.specs import Caller, video_spec
from genserve.api.tracecontext import valid_traceparent
from genserve.api.views import page, poll_headers, video_view
from genserve.domain.request import RequestSpec, Status
from genserve.errors import CallerError, GenServeError
from genserve.scheduling.gateway import RequestRow

router = APIRouter(tags=["videos"])

VARIANTS = ("video", "thumbnail", "spritesheet")
DELETED = "deleted"


@router.post("/v1/videos", openapi_extra=create_docs(VideoBody, forms=True))
async def create_video(request: Request, api: ApiContext, tenant: Tenant) -> Response:
    """Record a video job and answer at once; it runs by its deadline, not by its turn."""
    body = await read_body(request, VideoBody, forms=True)
    caller = Caller(tenant, valid_traceparent(request.headers.getlist("traceparent")))
    spec = video_spec(api, body, caller)
    (request_id,) = await jobs.submit(api, request, body, (spec,))
    return await _job(api, await _created(api, request_id, spec))


@router.get("/v1/videos")
async def list_videos(request: Request, api: ApiContext, tenant: Tenant) -> Response:
    """Jobs that are not deleted, the newest first; query: after, limit, order."""
    rows, has_more = await read_page(api, request, tenant, media="video")
    return JSONResponse(page(rows, [video_view(row) for row in rows], has_more=has_more))


@router.get("/v1/videos/{video_id}")
async def retrieve_video(video_id: str, api: ApiContext, tenant: Tenant) -> Response:
    """One job, with 200 also when it failed: the error is in the job."""
    return await _job(api, await _find(api, video_id, tenant))


@router.get("/v1/videos/{request_id}/content")
async def video_content(request_id: str, request: Request, api: ApiContext, tenant: LinkTenant) -> Response:
    """The bytes of a completed job; query: variant video, thumbnail or spritesheet."""
    variant = request.query_params.get("variant", "video")
    if variant not in VARIANTS:
        message = f"variant is one of {', '.join(VARIANTS)}, not {variant[:40]!r}"
        raise CallerError("invalid_variant", message, "variant")
    row = await _find(api, request_id, tenant)
    artifact, content = await jobs.read_result(api, row, variant)
    return Response(content, media_type=artifact.media_type, headers={"etag": f'"{artifact.sha256}"'})


@router.delete("/v1/videos/{video_id}")
async def delete_video(video_id: str, api: ApiContext, tenant: Tenant) -> Response:
    """Take a job out of the list, and stop it at its next step boundary; a repeated call gets the same answer."""
    row = await jobs.find(api, video_id, tenant, media="video")
    if not Status(row.status).is_final:
        await api.write(api.gateway.cancel(row.request_id, DELETED))
    if not row.deleted:
        await api.write(api.gateway.hide(row.request_id))
    return JSONResponse({"id": row.request_id, "deleted": True, "object": "video.deleted"})


@router.post("/v1/videos/{video_id}/remix", include_in_schema=False, dependencies=AUTHENTICATED)
async def remix_video() -> Response:
    message = "this server makes videos from text only; use POST /v1/videos with a prompt"
    raise CallerError("unsupported_parameter", message, "video_id")


async def _created(api: Api, request_id: str, spec: RequestSpec) -> RequestRow:
    """The row of what was just recorded; that it cannot be read now is no reason to tell the client to try again."""
    try:
        return await jobs.find(api, request_id, spec.tenant, media="video")
    except GenServeError:
        if request_id != spec.request_id:
            raise
        return RequestRow(request_id, spec, Status.WAITING, step=0, submitted_us=spec.arrival_us)


async def _job(api: Api, row: RequestRow) -> Response:
    forecast = await jobs.find_forecast(api, row)
    return JSONResponse(video_view(row), headers=poll_headers(row, forecast, now_us=api.clock()))


async def _find(api: Api, video_id: str, tenant: str) -> RequestRow:
    """A job that was deleted while it lived is still told to its pollers, as cancelled; a deleted result is gone."""
    row = await jobs.find(api, video_id, tenant, media="video")
    if row.deleted and row.status == Status.COMPLETED:
        raise CallerError("video_not_found", f"video {video_id!r} was deleted", "id")
    return row
