"""The event stream of one image call: partial images as they are made, then each image; not its framing (see sse)."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from genserve.api import jobs
from genserve.api.context import Api
from genserve.api.envelope import error_body
from genserve.api.sse import HEARTBEAT, OPENING, frame, merge
from genserve.domain.events import ArtifactStored, RequestSubmitted
from genserve.domain.request import RequestSpec, Status
from genserve.errors import GenServeError

NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Clients expect the field; diffusion models are not billed by tokens."""


async def image_events(api: Api, ids: tuple[str, ...]) -> AsyncGenerator[bytes, None]:
    """Framed events of all images of one call, as they happen; an error ends it."""
    yield OPENING
    sources = [_one_image(api, request_id, index) for index, request_id in enumerate(ids)]
    async with aclosing(merge(sources, idle_s=api.heartbeat_s)) as events:
        try:
            async for event in events:
                yield HEARTBEAT if event is None else frame(event["type"], event)
        except GenServeError as error:
            yield frame("error", error_body(error))


async def _one_image(api: Api, request_id: str, index: int) -> AsyncGenerator[dict[str, Any], None]:
    """Previews are sent once each, in order, whatever attempt made them."""
    about: dict[str, Any] = {"id": request_id, "image_index": index}
    sent = -1
    async with aclosing(jobs.follow(api, request_id, after=0)) as events:
        async for recorded in events:
            event = recorded.event
            if isinstance(event, RequestSubmitted):
                about |= _look(event.request)
            elif isinstance(event, ArtifactStored) and event.artifact.kind == "partial" and event.index > sent:
                sent = event.index
                yield {
                    "type": "image_generation.partial_image",
                    "b64_json": base64.b64encode(await api.gateway.read_artifact(event.artifact)).decode(),
                    "created_at": recorded.recorded_us // 1_000_000,
                    "partial_image_index": event.index,
                    **about,
                }
    row = await jobs.wait_until_final(api, request_id)
    if row.status != Status.COMPLETED:
        raise jobs.why_it_ended(row)
    _, content = await jobs.read_result(api, row, "image")
    yield {
        "type": "image_generation.completed",
        "b64_json": base64.b64encode(content).decode(),
        "created_at": row.finished_us // 1_000_000,
        "usage": NO_USAGE,
        **about,
    }


def _look(spec: RequestSpec) -> dict[str, str]:
    return {"size": str(spec.shape), "output_format": spec.output_format, "background": "opaque", "quality": "auto"}
