"""What routes do with requests: submit, find, wait, forecast, fetch a result; not how they look on the wire (views)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request

from genserve.api.bodies import body_hash, idempotency_key
from genserve.api.context import Api
from genserve.api.schemas import CreateBody
from genserve.domain.events import Recorded
from genserve.domain.request import Artifact, RequestSpec, Status
from genserve.errors import CallerError, GenServeError, RefusedByPolicy, Unavailable
from genserve.scheduling.gateway import Forecast, RequestRow, Submission

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

PATIENCE_S = 60.0
"""How long a blocking call sits out an outage of the scheduler, which loses nothing meanwhile."""

ROW_LAG_S = 0.02
"""Before looking again at a row whose end was already seen in the log."""


async def submit(api: Api, request: Request, body: CreateBody, specs: tuple[RequestSpec, ...]) -> tuple[str, ...]:
    """Record the requests of one call together; their ids once they are durable."""
    submission = Submission(
        requests=specs,
        tenant=specs[0].tenant,
        idempotency_key=idempotency_key(request),
        body_hash=body_hash(request.scope["route"].path, body),
    )
    return await api.write(api.gateway.submit(submission))


async def find(api: Api, request_id: str, tenant: str, *, media: str = "") -> RequestRow:
    """The tenant's request of that id; raises CallerError ``request_not_found`` or ``video_not_found``."""
    row = await api.gateway.find_request(request_id) if _ID.fullmatch(request_id) else None
    if row is None or (tenant and row.spec.tenant != tenant) or (media and row.spec.media != media):
        noun = media if media == "video" else "request"
        raise CallerError(f"{noun}_not_found", f"there is no {noun} {request_id[:80]!r}", "id")
    return row


async def follow(api: Api, request_id: str, *, after: int) -> AsyncGenerator[Recorded, None]:
    """The gateway's follow, that sits out an outage: a restarted scheduler goes on where the log ends."""
    patience = _Patience()
    while True:
        try:
            async with aclosing(api.gateway.follow(request_id, after=after)) as events:
                async for recorded in events:
                    after, patience = recorded.position, _Patience()
                    yield recorded
            return
        except Unavailable as error:
            await patience.sit_out(error)


async def wait_until_final(api: Api, request_id: str) -> RequestRow:
    """The row of a request that has ended, however long that takes; raises Unavailable after a long outage."""
    patience = _Patience()
    while True:
        try:
            row = await api.gateway.find_request(request_id)
        except Unavailable as error:
            await patience.sit_out(error)
            continue
        if row is not None and Status(row.status).is_final:
            return row
        async with aclosing(follow(api, request_id, after=row.position if row else 0)) as events:
            async for _ in events:
                pass
        await asyncio.sleep(ROW_LAG_S)


class _Patience:
    """How much of an outage was sat out so far."""

    def __init__(self) -> None:
        self.away_s = 0.0

    async def sit_out(self, error: Unavailable) -> None:
        """Sleep for a while, or raise the error when enough is enough."""
        if self.away_s >= PATIENCE_S:
            raise error
        pause_s = min(max(error.retry_after_s, 0.05), 5.0)
        self.away_s += pause_s
        await asyncio.sleep(pause_s)


async def find_forecast(api: Api, row: RequestRow) -> Forecast | None:
    """The planner's projection; nothing for a request that has ended, or while the planner cannot be asked."""
    if Status(row.status).is_final:
        return None
    try:
        return await api.gateway.forecast(row.request_id)
    except Unavailable:
        return None


async def read_result(api: Api, row: RequestRow, kind: str) -> tuple[Artifact, bytes]:
    """A stored result; raises RefusedByPolicy ``not_ready``, or CallerError that says why there is none."""
    status = Status(row.status)
    if status is Status.COMPLETED:
        for artifact in row.artifacts:
            if artifact.kind == kind:
                return artifact, await api.gateway.read_artifact(artifact)
        raise CallerError("artifact_not_found", f"{row.request_id} has no {kind}", "variant")
    if status.is_final:
        raise CallerError("no_result", f"{row.request_id} has no result: {why_it_ended(row).message}", "id")
    forecast = await find_forecast(api, row)
    left_s = (forecast.eta_us - api.clock()) / 1_000_000 if forecast else 1.0
    message = f"{row.request_id} is {row.status}, {row.step} of {row.spec.steps} steps done; try again when it is done"
    raise RefusedByPolicy("not_ready", message, "id", max(left_s, 1.0))


def why_it_ended(row: RequestRow) -> GenServeError:
    """A cancelled or failed request as an error; the code is its own, never one that clients would retry on."""
    if row.status == Status.CANCELLED:
        return CallerError("cancelled", f"request {row.request_id} was cancelled", "id")
    message = row.error_message or "no reason was recorded"
    return GenServeError(row.error_code or "failed", f"request {row.request_id} failed: {message}")
