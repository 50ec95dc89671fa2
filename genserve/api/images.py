"""Routes of images: make them, blocking or streamed, and fetch them; not how pixels are made."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from genserve.api import jobs
from genserve.api.auth import AUTHENTICATED, LinkTenant, Tenant
from genserve.api.bodies import read_body
from genserve.api.context import Api, ApiContext
from genserve.api.documentation import create_docs
from genserve.api.envelope import error_response
from genserve.api.image_stream import image_events
from genserve.api.schemas import ImageBody
from genserve.api.specs import Caller, image_specs
from genserve.api.sse import EventStream
from genserve.api.tracecontext import valid_traceparent
from genserve.api.views import content_url
from genserve.domain.request import Status
from genserve.errors import CallerError, Unavailable
from genserve.scheduling.gateway import RequestRow

router = APIRouter(tags=["images"])


@router.post("/v1/images/generations", openapi_extra=create_docs(ImageBody))
async def create_images(request: Request, api: ApiContext, tenant: Tenant) -> Response:
    """Make n images, and answer with them.

    The requests are recorded before anything else happens, and go on when the client leaves: the reply's header
    ``genserve-request-ids`` (sent at once in a stream) names them, /v1/requests/{id} finds them.
    """
    body = await read_body(request, ImageBody)
    caller = Caller(tenant, valid_traceparent(request.headers.getlist("traceparent")))
    specs = image_specs(api, body, caller)
    if body.stream:
        return await _stream(api, request, body, specs)
    ids = await jobs.submit(api, request, body, specs)
    return await _block(api, request, body, ids)


@router.post("/v1/images/edits", include_in_schema=False, dependencies=AUTHENTICATED)
@router.post("/v1/images/variations", include_in_schema=False, dependencies=AUTHENTICATED)
async def edit_images() -> Response:
    message = "this server makes images from text only; use /v1/images/generations with a prompt"
    raise CallerError("unsupported_parameter", message, "image")


@router.get("/v1/images/{request_id}/content")
async def image_content(request_id: str, api: ApiContext, tenant: LinkTenant) -> Response:
    """The file of one image; the reply's ``url`` fields point here."""
    row = await jobs.find(api, request_id, tenant, media="image")
    artifact, content = await jobs.read_result(api, row, "image")
    return Response(content, media_type=artifact.media_type, headers={"etag": f'"{artifact.sha256}"'})


async def _stream(api: Api, request: Request, body: ImageBody, specs: tuple[Any, ...]) -> Response:
    slot = api.streams.acquire()  # before the submission: a refused call leaves nothing behind
    try:
        ids = await jobs.submit(api, request, body, specs)
    except BaseException:
        slot.release()
        raise
    return EventStream(image_events(api, ids), slot=slot, headers=_id_headers(ids))


async def _block(api: Api, request: Request, body: ImageBody, ids: tuple[str, ...]) -> Response:
    try:
        rows = [await jobs.wait_until_final(api, request_id) for request_id in ids]
    except Unavailable as error:
        message = f"{error.message}; nothing is lost: ask GET /v1/requests/{ids[0]} later"
        lost = Unavailable(error.code, message, None, error.retry_after_s)
        return error_response(lost, headers={"x-should-retry": "false", **_id_headers(ids)})
    for row in rows:
        if row.status != Status.COMPLETED:
            return error_response(jobs.why_it_ended(row), headers={"x-should-retry": "false", **_id_headers(ids)})
    reply = {
        "created": max(row.finished_us for row in rows) // 1_000_000,
        "background": "opaque",
        "output_format": rows[0].spec.output_format,
        "size": str(rows[0].spec.shape),
        "data": [await _image(api, request, row, as_url=body.response_format == "url") for row in rows],
    }
    return JSONResponse(reply, headers=_id_headers(ids))


async def _image(api: Api, request: Request, row: RequestRow, *, as_url: bool) -> dict[str, Any]:
    about = {"id": row.request_id, "seed": row.spec.seed}
    if as_url:
        return {"url": content_url(row, api=api, http=request), **about}
    _, content = await jobs.read_result(api, row, "image")
    return {"b64_json": base64.b64encode(content).decode(), **about}


def _id_headers(ids: tuple[str, ...]) -> dict[str, str]:
    return {"genserve-request-ids": ",".join(ids)}
