"""Routes for operators: health and metrics; open without a key, as probes and scrapers expect."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from genserve.api.context import ApiContext
from genserve.api.envelope import error_body
from genserve.errors import GenServeError, Unavailable
from genserve.scheduling.gateway import Health

router = APIRouter(tags=["operations"])

HEALTH_TIMEOUT_S = 5.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/health")
async def health(api: ApiContext) -> Response:
    """200 while new requests can be taken and run; 503 with the reason while not."""
    try:
        found = await asyncio.wait_for(api.gateway.health(), HEALTH_TIMEOUT_S)
    except TimeoutError:
        found = Health(False, f"no answer within {HEALTH_TIMEOUT_S:.0f} s", 0)
    except GenServeError as error:
        found = Health(False, error.message, 0)
    state = {"scheduler": found.scheduler, "workers": found.workers, "details": found.details}
    if found.is_ready:
        return JSONResponse({"status": "ok", **state})
    refusal = Unavailable("not_healthy", f"not ready: scheduler {found.scheduler}, {found.workers} workers")
    reply = {"status": "unavailable", **state, **error_body(refusal)}
    return JSONResponse(reply, status_code=503, headers={"retry-after": "1"})


@router.get("/metrics")
async def metrics(api: ApiContext) -> Response:
    """Prometheus text exposition."""
    return Response(await api.gateway.metrics(), headers={"content-type": METRICS_TYPE})
